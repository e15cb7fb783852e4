"""Pipeline from settings to a dataset folder: parallel, resumable after a kill, same bytes for any number of
workers.

The pipeline works in `.NAME.partial` beside the output. Each persona depends only on (settings, persona id),
and is done when its rows file exists, which is written last. Invariant: every file is written atomically, and
the folder gets its final name only when it is complete.
"""

import csv
import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from rft.errors import DataError
from rft.files import occupied, replace_folder, write_atomic
from rft.llm.journal import ways_on
from rft.screen import progress, screen
from rft.simulate import card
from rft.simulate.checks import check_record
from rft.simulate.history import Count, TokenCounter, assemble, count_words
from rft.simulate.memory_targets import line_of
from rft.simulate.persona import read_personas
from rft.simulate.persona_record import PersonaRecord
from rft.simulate.profile import PROFILES, WORDS, Settings
from rft.simulate.rows import history_document, history_link, raw_link, rows
from rft.simulate.topics import read_topics, shipped
from rft.simulate.writer_grammar import GrammarWriter
from rft.simulate.writer_mini import MiniWriter
from rft.single_writer import only_writer
from rft.tasks.memory_targets import MEMORY_TARGETS
from rft.tasks.personamem.audit import audit_split
from rft.tasks.personamem.dataset import COLUMNS

RECORD = "simulation.json"  # settings of a dataset; written to the partial folder first


class Job:
    """State of a worker that writes personas one after another."""

    def __init__(self, settings: Settings, folder: Path, write: Callable[[int], PersonaRecord] | None = None):
        self.settings, self.folder = settings, folder
        self.count = token_counter(settings)
        self.write = write or offline_writer(settings).write

    def do(self, persona_id: int) -> None:
        """Writes all files of one persona."""
        record = self.write(persona_id)
        check_record(record)
        settings, name = self.settings, self.settings.profile
        profile = PROFILES[name]
        # without items the LLM gave no usable response; `rejected` contains the reasons
        histories = {
            window: assemble(record, window, budget, self.count, settings.seed, profile.whole_stories)
            for window, budget in settings.budgets().items()
            if record.items
        }
        if histories and (raw := raw_link(name, persona_id)):
            write_json(self.folder / raw, asdict(record))
        for window, history in histories.items():
            path = self.folder / history_link(name, window, persona_id)
            write_json(path, history_document(name, record, history), end="" if profile.compact else "\n")
        entry = {
            "rows": rows(name, record, histories, settings.seed),
            "memory_targets": [
                line_of(record, history.conversations, history_link(name, window, persona_id))
                for window, history in histories.items()
            ],
            "rejected": record.rejected,
            "usage": record.usage,
        }
        write_atomic(rows_path(self.folder, persona_id), json.dumps(entry, ensure_ascii=False).encode())


def simulate(
    settings: Settings, out: Path, workers: int = 1, overwrite: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Writes the dataset to the folder `out`.

    If `out` already contains this dataset, nothing is written. If an RftError of a writer stops the run
    (budget spent, server gone), the next run resumes from the finished personas.

    Args:
        settings: settings of the dataset.
        out: output folder.
        workers: processes; with an LLM, threads.
        overwrite: replace another simulated dataset in `out`, after the new one is complete.
        console: console for progress and messages (default: stderr).

    Returns:
        The record that is stored with the dataset: settings, counts, audits, hashes.

    Raises:
        DataError: the settings are invalid, or `out` contains anything but this dataset.
        ModelError: the tokenizer cannot be used.
    """
    console = console or screen(stderr=True)
    check_settings(settings)
    with only_writer(out, "simulation"):
        identity = settings.identity()
        if (whole := _existing(out, identity, overwrite)) is not None:
            console.print(f"{out} already contains this dataset, complete; nothing to do")
            return whole
        partial = out.parent / f".{out.name}.partial"
        _open_partial(partial, identity, overwrite)
        every = sorted(persona_id for ids in settings.splits().values() for persona_id in ids)
        todo = [i for i in every if not rows_path(partial, i).exists()]
        finished = len(every) - len(todo)
        if finished:
            console.print(f"resuming an interrupted simulation: {finished} of {len(every)} are done")
        _write_personas(settings, partial, todo, finished, workers, console)
        record = _finish(settings, identity, partial, console)
        _publish(partial, out)
        return record


def check_settings(settings: Settings) -> None:
    """Checks settings before anything is written.

    Raises:
        DataError: a setting is invalid.
        EndpointError: a setting of the LLM is invalid.
        ModelError: the tokenizer cannot be used.
    """
    if settings.personas < 3:
        raise DataError(
            f"--personas {settings.personas}: train, val and benchmark need at least one persona each; "
            "give 3 or more"
        )
    profile = PROFILES[settings.profile]
    only_larger = {
        "--tokenizer": settings.tokenizer,
        "--history-tokens": settings.history_tokens,
        "--topics": settings.topics_file,
        "--persona-file": settings.personas_file,
        "--llm-model": settings.llm,
    }
    for option, value in only_larger.items():
        if profile.style is None and value is not None:
            raise DataError(f"{option} does not apply to --profile {settings.profile}; use middle or paper")
    for window in settings.windows:
        if window not in profile.windows:
            raise DataError(
                f"--window {window}: profile {settings.profile} has {', '.join(profile.windows)} only"
            )
    if settings.history_tokens is not None and len(settings.windows) > 1:
        raise DataError("--history-tokens sets the size of one window; give a single --window with it")
    if settings.topics_file:
        read_topics(settings.topics_file)
    if settings.personas_file and len(read_personas(settings.personas_file)) < settings.personas:
        raise DataError(
            f"{settings.personas_file}: {len(read_personas(settings.personas_file))} descriptions for "
            f"{settings.personas} personas; add some or lower --personas"
        )
    if settings.llm:
        from rft.llm.client import make_endpoint

        make_endpoint(settings.llm)
    token_counter(settings)


def token_counter(settings: Settings) -> Count:
    """Loads the tokenizer of the settings."""
    if settings.counted_with() == WORDS:
        return count_words
    from rft.data.tokenizer import load_tokenizer

    return TokenCounter(load_tokenizer(settings.counted_with(), chat=False))


def offline_writer(settings: Settings) -> GrammarWriter | MiniWriter:
    """Creates the offline writer for the settings."""
    profile = PROFILES[settings.profile]
    if profile.style is None:
        return MiniWriter(settings.seed, settings.facts(), settings.personas, profile.forget)
    topics = read_topics(settings.topics_file) if settings.topics_file else shipped()
    people = read_personas(settings.personas_file) if settings.personas_file else None
    return GrammarWriter(settings.seed, topics, settings.facts(), profile.style, people)


def rows_path(folder: Path, persona_id: int) -> Path:
    """Path of the rows file of a persona in the partial folder."""
    return folder / "rows" / f"{persona_id}.json"


def write_json(path: Path, document: Any, end: str = "\n") -> None:
    """Writes a JSON file atomically."""
    write_atomic(path, (json.dumps(document, ensure_ascii=False, indent=1) + end).encode())


def _existing(out: Path, identity: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Returns the record if `out` contains this dataset, or None if `out` is empty or may be replaced."""
    if not occupied(out):
        return None
    record = _read_record(out)
    if record and record["settings"] == identity:
        return record
    if not overwrite:
        what = (
            f"another dataset ({_differences(record['settings'], identity)})" if record else "something else"
        )
        raise DataError(
            f"{out}: contains {what}; nothing was changed. Use another --out, or --overwrite to replace it"
        )
    if record is None:
        raise DataError(
            f"{out}: is not a simulated dataset, so --overwrite does not remove it. Use another --out"
        )
    return None


def _open_partial(partial: Path, identity: dict[str, Any], overwrite: bool) -> None:
    if partial.exists():
        record = _read_record(partial)
        if record is None or record["settings"] != identity:
            if not overwrite:
                what = _differences(record["settings"], identity) if record else "no settings"
                raise DataError(
                    f"{partial}: an unfinished simulation with other settings ({what}); finish it with those,"
                    " remove it, or give --overwrite"
                )
            shutil.rmtree(partial)
    write_json(partial / RECORD, {"settings": identity})


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record.get("settings"), dict) else None
    except (OSError, ValueError, AttributeError):
        return None


def _differences(recorded: dict[str, Any], ours: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {recorded.get(key)}, not {value}" for key, value in ours.items() if recorded.get(key) != value
    )


def _write_personas(
    settings: Settings, partial: Path, todo: list[int], finished: int, workers: int, console: Console
) -> None:
    with progress("writing personas", console) as bar, ExitStack() as stack:
        task = bar.add_task("", total=finished + len(todo), completed=finished, note="")
        if not todo:
            return
        if workers == 1 and not settings.llm:
            job = Job(settings, partial)
            for persona_id in todo:
                job.do(persona_id)
                bar.advance(task)
            return
        pool: Executor
        if settings.llm:
            from rft.simulate.writer_llm import LlmWriter

            writer = LlmWriter(settings, partial / "llm_calls", workers)
            pool, told = stack.enter_context(writer.llm.threads()), writer.llm.told
            work = Job(settings, partial, writer.write).do
        else:
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(min(workers, len(todo)), context, _start_worker, (settings, partial))
            stack.callback(pool.shutdown, cancel_futures=True)
            work, told = _work, str
        try:
            for done in as_completed([pool.submit(work, persona_id) for persona_id in todo]):
                done.result()
                bar.update(task, advance=1, note=told())
        except BrokenProcessPool:
            raise DataError(
                "a worker process died, possibly out of memory; rerun the same command with fewer "
                "--workers to resume"
            ) from None


_job: Job  # set in each worker process


def _start_worker(settings: Settings, partial: Path) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _job = Job(settings, partial)


def _work(persona_id: int) -> None:
    _job.do(persona_id)


def _finish(settings: Settings, identity: dict[str, Any], partial: Path, console: Console) -> dict[str, Any]:
    """Collects the rows by split and the memory targets, audits the splits, writes record and card."""
    (partial / "benchmark/text").mkdir(parents=True, exist_ok=True)
    counts = card.Counts(settings.budgets())
    rejected: Counter[str] = Counter()
    usage: Counter[str] = Counter()
    with open(partial / MEMORY_TARGETS, "w", encoding="utf-8") as targets:
        for split, personas in settings.splits().items():
            with open(partial / f"benchmark/text/{split}.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                for persona_id in personas:
                    done = json.loads(rows_path(partial, persona_id).read_text(encoding="utf-8"))
                    rejected.update(done["rejected"])
                    usage.update(done["usage"])
                    writer.writerows(done["rows"])
                    counts.add(split, done["rows"])
                    for line in done["memory_targets"]:
                        targets.write(json.dumps(line, ensure_ascii=False) + "\n")
    if not counts.questions["train"] or not counts.questions["benchmark"]:
        raise _nothing_survived(settings, partial, rejected)
    audits = {}
    for split in counts.questions:
        with console.status(f"auditing {split}"):
            audits[split] = audit_split(partial, split, next(iter(settings.budgets())))
    record = {
        "settings": identity,
        "counts": counts.summary(),
        "rejected": dict(sorted(rejected.items())),
        "usage": dict(sorted(usage.items())),
        "audit": audits,
        "sha256": card.hashes(partial),
    }
    write_json(partial / RECORD, record)
    (partial / "README.md").write_text(card.text(record), encoding="utf-8")
    return record


def _nothing_survived(settings: Settings, partial: Path, rejected: Counter[str]) -> DataError:
    """Returns the error, after making the next run ask the LLM again about personas without questions."""
    most = f", most often because {rejected.most_common(1)[0][0]}" if rejected else ""
    again = f"to start over, remove {partial}"
    if settings.llm:
        for path in (partial / "rows").glob("*.json"):
            if not json.loads(path.read_text(encoding="utf-8"))["rows"]:
                path.unlink()
        again = ways_on(partial / "llm_calls", partial)
    return DataError(
        f"no question survived in train or benchmark: {sum(rejected.values())} were rejected{most}; {again}"
    )


def _publish(partial: Path, out: Path) -> None:
    """Renames the complete folder to its final name, then removes the dataset that it replaces."""
    for leftover in ("rows", "llm_calls"):
        shutil.rmtree(partial / leftover, ignore_errors=True)
    for leftover_file in partial.rglob(".*.partial"):
        leftover_file.unlink()
    replace_folder(out, partial)
