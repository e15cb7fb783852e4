"""From a folder of histories to a dataset: histories in parallel, resumable, each call paid for once.

Invariant: what was paid for is in `.NAME.paid` beside the output until the dataset is complete; the same
command reads it from there. The output appears whole or not at all.
"""

import json
import shutil
from collections import Counter
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from rich.console import Console

from rft.data.history import Message, read_history
from rft.errors import DataError
from rft.files import occupied, write_atomic
from rft.llm.client import Llm, make_endpoint
from rft.llm.journal import ways_on
from rft.screen import counted, progress, screen
from rft.single_writer import only_writer
from rft.tasks.dataset_writer import CARD, DatasetWriter, Dropped
from rft.tasks.questions.people import check_share, split_people
from rft.tasks.questions.source import Source, find_sources
from rft.tasks.questions.writer import Settings, Written, write_about
from rft.version import __version__

ORDER = ("train", "val", "benchmark")


def write_questions(
    chats: Path, out: Path, settings: Settings, workers: int = 4, console: Console | None = None
) -> dict[str, Any]:
    """Writes the dataset `out` about the histories in `chats`.

    If `out` already contains it, nothing is written and nothing is paid for. If a ServerError or an
    interruption stops the run, the same command resumes.

    Args:
        chats: folder with `histories/*.json`.
        out: output folder.
        settings: what to write.
        workers: histories in work at the same time.
        console: console for progress (default: stderr).

    Returns:
        The record under "made" in dataset.json, and `unchanged`: whether it was there before.

    Raises:
        DataError: there is no history, only one user although some are to be held out, no question passed, or
            `out` contains something else.
        ServerError: the LLM cannot be used, or the budget is spent.
    """
    console = console or screen(stderr=True)
    make_endpoint(settings.llm)  # invalid settings are told before histories are read
    sources, unread = find_sources(chats)
    check_share(settings.held_out, {source.person for source in sources})
    identity = _identity(settings, sources)
    with only_writer(out, "command"):
        paid = out.with_name(f".{out.name}.paid")
        if (made := _complete(out, identity)) is not None:
            shutil.rmtree(paid, ignore_errors=True)
            return made | {"unchanged": True}
        written = _write_all(settings, sources, paid, workers, console)
        dropped = [*unread, *(drop for one in written for drop in one.dropped)]
        if not any(one.rows for one in written):
            raise _nothing_passed(chats, paid, dropped)
        record = _publish(out, chats, settings, identity, written, dropped)
        shutil.rmtree(paid)
        return record | {"unchanged": False}


def _identity(settings: Settings, sources: list[Source]) -> dict[str, Any]:
    """What determines the dataset, besides the responses of the LLM."""
    return {
        "rft": __version__,
        "model": settings.llm.model,
        "votes": settings.llm.votes,
        "drafts": settings.llm.drafts,
        "per_history": settings.per_history,
        "held_out_users": settings.held_out,
        "seed": settings.seed,
        "histories": {source.name: source.id for source in sources},
    }


def _complete(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the record if `out` contains this dataset, and None if it contains nothing."""
    if not occupied(out):
        return None
    try:
        made = json.loads((out / CARD).read_text(encoding="utf-8"))["made"]
        other = {k: (made["settings"].get(k), v) for k, v in identity.items() if made["settings"].get(k) != v}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise DataError(f"{out}: contains something else than these questions; use another --out") from None
    if other:
        how = ", ".join(_difference(key, *both) for key, both in other.items())
        raise DataError(f"{out}: contains other questions: {how}; nothing was changed, use another --out")
    return dict(made)


def _difference(key: str, before: Any, now: Any) -> str:
    """How the dataset that is there differs in one key of its identity."""
    if key == "histories":
        return "they were written about other chats"
    by = {"rft": "rft", "model": "--llm-model", "drafts": "--llm-drafts"}
    return f"{by.get(key, '--' + key.replace('_', '-'))} was {before}, not {now}"


def _write_all(
    settings: Settings, sources: list[Source], paid: Path, workers: int, console: Console
) -> list[Written]:
    llm = Llm(settings.llm, paid, workers)
    with progress("writing questions", console) as bar, llm.threads() as pool:
        task = bar.add_task("", total=len(sources), note=llm.told())
        jobs = [pool.submit(write_about, source, settings, llm, paid) for source in sources]
        for job in as_completed(jobs):
            job.result()  # an error ends the run
            bar.update(task, advance=1, note=llm.told())
    return [job.result() for job in jobs]


def _nothing_passed(chats: Path, paid: Path, dropped: list[Dropped]) -> DataError:
    """Returns the error, after writing what was dropped into the folder of what was paid for."""
    record, reasons = paid / "dropped.json", Counter(drop.reason for drop in dropped)
    text = json.dumps([drop._asdict() for drop in dropped], indent=2, ensure_ascii=False) + "\n"
    write_atomic(record, text.encode("utf-8", "backslashreplace"))
    most = f", most often because {reasons.most_common(1)[0][0]}" if reasons else ""
    return DataError(
        f"{chats}: no question passed: {counted(len(dropped), 'thing')} dropped, each with its place in"
        f" {record}{most}; {ways_on(paid, paid)}"
    )


def _publish(
    out: Path,
    chats: Path,
    settings: Settings,
    identity: dict[str, Any],
    written: list[Written],
    dropped: list[Dropped],
) -> dict[str, Any]:
    reasons = Counter(drop.reason for drop in dropped)
    asked = [one for one in written if one.rows]
    splits = split_people({one.source.person for one in asked}, settings.held_out, settings.seed)
    with DatasetWriter(
        out,
        name=f"questions about {chats.name}",
        source="chats of one's own, and questions that an LLM wrote about them",
        license="not given; it is for the owners of the chats to say",
        report_by=["kind"],
    ) as dataset:
        dataset.dropped += dropped
        for one in asked:
            history = read_history(one.source.path)
            link = dataset.history(one.source.name, list(map(_as_row, history.messages)))
            for number, row in enumerate(one.rows):
                name = {"id": f"{one.source.name}-{number}", "history": link}
                dataset.row(splits[one.source.person], name | row)
        dataset.made = _record(identity, splits, written, reasons)
        dataset.note(_splits_told(dataset.made))
    return dataset.made


def _as_row(message: Message) -> dict[str, Any]:
    """A message as rows have it: without what it does not say."""
    return {k: v for k, v in vars(message).items() if k == "content" or v not in ("", None)}


def _record(
    identity: dict[str, Any], splits: dict[str, str], written: list[Written], reasons: Counter[str]
) -> dict[str, Any]:
    rows = [row for one in written for row in one.rows]
    longest = sum(len(row["answer"]) > max(map(len, row["options"][1:])) for row in rows)
    found: Counter[str] = sum((one.found for one in written), Counter())
    rejected: Counter[str] = sum((one.rejected for one in written), Counter())
    usage: Counter[str] = Counter()
    for one in written:
        usage.update(one.paid)
    counts = Counter(splits[one.source.person] for one in written for _ in one.rows)
    return {
        "settings": identity,
        "users": {name: sorted(p for p, split in splits.items() if split == name) for name in ORDER},
        "questions": {name: counts[name] for name in ORDER},
        "kinds": dict(sorted(Counter(row["labels"]["kind"] for row in rows).items())),
        "found": dict(sorted(found.items())),
        "dropped": dict(reasons.most_common()),
        "rejected": dict(rejected.most_common()),
        "gold_is_longest": longest / len(rows),
        "usage": dict(sorted(usage.items())),
    }


def _splits_told(made: dict[str, Any]) -> str:
    if not made["users"]["benchmark"]:
        return "no user is held out: all questions are in train, so no evaluation on them is honest"
    numbers = ", ".join(f"{len(made['users'][name])} in {name}" for name in ORDER)
    return f"users are held out as a whole, drawn with seed {made['settings']['seed']}: {numbers}"
