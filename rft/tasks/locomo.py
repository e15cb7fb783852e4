"""LoCoMo: long dated conversations of two people, with 105 to 260 questions each.

Invariant: all questions of a conversation name one history, so that it is read once. Every question becomes
a row, except those that a list of wrong labels names, and these are named in turn.

The layout is `data/locomo10.json` of snap-research/LoCoMo. Known defects that are handled: answers that are
numbers, category 5 without an answer (the right answer is to abstain), two evidence ids in one text,
malformed ids, dates of sessions that do not exist, photos of which only the caption is there.
"""

import argparse
import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rft.errors import DataError
from rft.tasks.dataset_writer import DatasetWriter, Published
from rft.tasks.source_files import field, read_list, text_field, unreadable

SOURCE = "https://github.com/snap-research/LoCoMo"
LICENSE = "CC BY-NC 4.0"
REPORT_BY = ("category",)
FILE = "locomo10.json"
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ADVERSARIAL = 5
EVIDENCE = re.compile(r"D\d+:\d+")
SAMPLES = tuple(f"conv-{number}" for number in (26, 30, 41, 42, 43, 44, 47, 48, 49, 50))
SESSION = re.compile(r"session_(\d+)")
DATE = "%I:%M %p on %d %B, %Y"
CITATION_ONLY = "WRONG_CITATION"  # of the audit: the answer is right, only its evidence is not
AUDIT_ID = re.compile(r"locomo_(\d+)_qa(\d+)")

AUDIT = "https://github.com/dial481/locomo-audit"
AUDITED = (99, 1540)  # wrong answers, and answers checked: categories 1 to 4
PUBLISHED = (
    Published("ceiling left by wrong labels, categories 1 to 4", "judge", 0.9357, AUDIT),
    Published("ceiling left by wrong labels, multi-hop", "judge", 0.901, AUDIT),
    Published("ceiling left by wrong labels, temporal", "judge", 0.919, AUDIT),
    Published("ceiling left by wrong labels, open-domain", "judge", 0.906, AUDIT),
    Published("ceiling left by wrong labels, single-hop", "judge", 0.957, AUDIT),
    Published("GPT-4.1-mini, whole history, reasoning prompt, categories 1 to 4", "judge", 0.9262, AUDIT),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument(
        "--skip-wrong",
        metavar="FILE",
        nargs="+",
        default=[],
        help="leave out the questions whose labels are wrong by these files: one id a line (conv-26-24), or"
        f" audit/errors_conv_*.json of {AUDIT} (its {CITATION_ONLY} rows have right answers and stay)",
    )


def convert(source: Path, dataset: DatasetWriter, options: argparse.Namespace) -> None:
    """Converts LoCoMo.

    Args:
        source: the repository, its folder `data`, or the file itself.
        dataset: where the questions go.
        options: see `add_arguments`.

    Raises:
        DataError: a file or key is missing, or the list of wrong labels names an unknown question.
    """
    path = _file(source)
    conversations = read_list(path)
    asked: dict[str, Mapping[str, Any]] = {}
    for place, conversation in enumerate(conversations):
        asked |= _questions(conversation, f"{path}: row {place}")
    wrong: dict[str, str] = {}
    for file in options.skip_wrong:
        wrong |= _wrong(Path(file), asked)
    notes: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for conversation in conversations:
        sample = conversation["sample_id"]
        link = dataset.history(
            sample, _messages(conversation["conversation"], f"{path.name}: {sample}", notes)
        )
        for index, record in enumerate(conversation["qa"]):
            id = f"{sample}-{index}"
            row = _row(record, id, f"{path.name}: {id}", notes)
            totals[row["labels"]["category"]] += 1
            if id in wrong:
                dataset.drop(f"{path.name}: {id}", f"known to be wrong: {wrong[id]}")
                continue
            dataset.row("benchmark", {"id": id, "person": sample, "history": link, **row})
    for text, count in notes.items():
        dataset.note(f"{text}: {count}")
    dataset.note_repeats(
        "questions asked twice about one history, which stay",
        {id: (id.rpartition("-")[0], str(record["question"]).strip()) for id, record in asked.items()},
    )
    _note_ceiling(wrong, asked, totals, dataset)


def _file(source: Path) -> Path:
    if source.is_file():
        return source
    for path in (source / FILE, source / "data" / FILE):
        if path.is_file():
            return path
    raise DataError(f"{source}: no {FILE} or data/{FILE}; expected LoCoMo, its folder data, or that file")


def _questions(conversation: Any, where: str) -> dict[str, Mapping[str, Any]]:
    """{id: record} of one conversation, after a check of its keys."""
    sample = text_field(conversation, "sample_id", where)
    field(conversation, "conversation", dict, where)
    records = field(conversation, "qa", list, f"{where} ({sample})")
    for index, record in enumerate(records):
        text_field(record, "question", f"{where} ({sample}): question {index}")
    return {f"{sample}-{index}": record for index, record in enumerate(records)}


def _messages(conversation: Mapping[str, Any], where: str, notes: Counter[str]) -> list[dict[str, Any]]:
    """The turns of all sessions in order: speaker_a is the user, speaker_b the assistant, both by name."""
    roles = {
        text_field(conversation, "speaker_a", where): "user",
        text_field(conversation, "speaker_b", where): "assistant",
    }
    numbers = sorted(int(found[1]) for key in conversation if (found := SESSION.fullmatch(key)))
    dated = {key.removesuffix("_date_time") for key in conversation if key.endswith("_date_time")}
    if unused := dated - {f"session_{number}" for number in numbers}:
        notes["dates of sessions that do not exist, left out"] += len(unused)
    messages = []
    for number in numbers:
        date = _date(text_field(conversation, f"session_{number}_date_time", where), where)
        for turn in field(conversation, f"session_{number}", list, where):
            here = f"{where}: session_{number}"
            speaker = text_field(turn, "speaker", here)
            if speaker not in roles:
                raise DataError(f"{here}: unknown speaker {speaker!r}; expected {' or '.join(roles)}")
            text = field(turn, "text", str, here)
            if isinstance(caption := turn.get("blip_caption"), str) and caption.strip():
                notes["photos that became their captions, [shares ...]"] += 1
                text = f"{text} [shares {caption.strip()}]".strip()
            messages.append(
                {"role": roles[speaker], "name": speaker, "content": text, "date": date, "session": number}
            )
    return messages


def _date(text: str, where: str) -> str:
    """ "1:56 pm on 8 May, 2023" in ISO 8601."""
    try:
        return datetime.strptime(text, DATE).strftime("%Y-%m-%dT%H:%M")
    except ValueError:
        raise DataError(f"{where}: {text!r} is no date such as '1:56 pm on 8 May, 2023'") from None


def _row(record: Any, id: str, where: str, notes: Counter[str]) -> dict[str, Any]:
    """The question of one record: query, answer and labels."""
    number = field(record, "category", int, where)
    if number not in CATEGORIES:
        raise DataError(f"{where}: category {number}; expected one of {', '.join(map(str, CATEGORIES))}")
    query = text_field(record, "question", where)
    if "answer" in record:
        answer = str(field(record, "answer", (str, int), where)).strip()
        if isinstance(record["answer"], int):
            notes["answers that are numbers in the file and became texts"] += 1
    elif number == ADVERSARIAL:
        answer = None
        notes["adversarial questions without an answer, where the right answer is to abstain"] += 1
    else:
        raise DataError(f"{where}: no 'answer'; only category {ADVERSARIAL} may lack it")
    found = [EVIDENCE.findall(text) for text in record.get("evidence") or [] if isinstance(text, str)]
    evidence = [id for ids in found for id in ids]
    if any(len(ids) > 1 for ids in found):
        notes["questions with several evidence ids in one text, taken apart"] += 1
    if not all(found):
        notes["questions with a malformed evidence id, left out"] += 1
    if not evidence:
        notes["questions without evidence"] += 1
    labels = {
        "category": CATEGORIES[number],
        "evidence": " ".join(evidence),
        "evidence_messages": len(evidence),
    }
    return {"query": query, "answer": answer, "labels": labels}


def _wrong(path: Path, asked: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """{question id: what is wrong with its label}, from a list of ids or a file of the audit."""
    if path.suffix == ".json":
        return _audited(path, asked)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; expected one id a line") from None
    named = [line for line in lines if line and not line.startswith("#")]
    if unknown := [id for id in named if id not in asked]:
        raise DataError(f"{path}: no question {unknown[0]!r} in this data; ids look like {next(iter(asked))}")
    return dict.fromkeys(named, "on the list of wrong labels")


def _audited(path: Path, asked: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What a file of the audit says about questions of this data. Conversations that are not here are
    skipped."""
    wrong = {}
    samples = {id.rpartition("-")[0] for id in asked}
    for place, entry in enumerate(read_list(path)):
        where = f"{path}: row {place}"
        kind, named, question = (
            text_field(entry, key, where) for key in ("error_type", "question_id", "question")
        )
        found = AUDIT_ID.fullmatch(named)
        if not found or int(found[1]) >= len(SAMPLES):
            raise DataError(f"{where}: {named!r} is no id such as locomo_0_qa24")
        sample = SAMPLES[int(found[1])]
        id = f"{sample}-{found[2]}"
        if sample not in samples or kind == CITATION_ONLY:
            continue
        if id not in asked or str(asked[id].get("question")).strip() != question:
            raise DataError(f"{where}: {id} asks something else in this data; use the list of this version")
        wrong[id] = kind
    return wrong


def _note_ceiling(
    wrong: Mapping[str, str],
    asked: Mapping[str, Mapping[str, Any]],
    totals: Mapping[str, int],
    dataset: DatasetWriter,
) -> None:
    """Says how much an honest system can reach at most, because labels are wrong."""
    if not wrong:
        bad, of = AUDITED
        dataset.note(
            f"wrong labels stay: the audit {AUDIT} found {bad} of {of} wrong in categories 1 to 4, which"
            f" leaves a ceiling of {1 - bad / of:.1%} (multi-hop 90.1 %, temporal 91.9 %, open-domain 90.6 %,"
            " single-hop 95.7 %); leave them out with --skip-wrong"
        )
        return
    by_category = Counter(CATEGORIES[asked[id]["category"]] for id in wrong)
    ceilings = ", ".join(
        f"{category} {1 - by_category[category] / total:.1%} ({by_category[category]} of {total} wrong)"
        for category, total in sorted(totals.items())
    )
    overall = 1 - len(wrong) / sum(totals.values())
    dataset.note(
        f"questions with wrong labels, left out: {len(wrong)}; with them, and no others, the ceiling would be"
        f" {overall:.1%}: {ceilings}"
    )
