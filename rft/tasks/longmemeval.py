"""LongMemEval: 500 questions, each about its own history of dated sessions.

Invariant: the sessions of a history stand in the order of their dates, whatever the order in the file, and
what marks the evidence in the file never enters a history.

The layout is `longmemeval_oracle.json` (evidence sessions only), `longmemeval_s*.json` (about 40 sessions,
115k tokens) or `longmemeval_m*.json` (about 500 sessions) of xiaowu0162/longmemeval-cleaned. One row is held
in memory at a time.
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
from rft.tasks.source_files import field, json_objects, text_field

SOURCE = "https://huggingface.co/datasets/xiaowu0162/longmemeval-cleaned"
LICENSE = "MIT"
REPORT_BY = ("question_type", "abstention")
ROLES = ("user", "assistant")
ABSTENTION = "_abs"  # end of the id of a question that cannot be answered
DATE = re.compile(r"(\d{4})/(\d{2})/(\d{2}) \(\w+\) (\d{2}):(\d{2})")

SAME = (
    "Right: the answer says the same as the expected answer, or contains it and nothing that contradicts it."
)
RUBRICS = {
    "single-session-user": SAME,
    "single-session-assistant": SAME,
    "multi-session": f"{SAME} Wrong: it gives only a part of what the expected answer has.",
    "temporal-reasoning": f"{SAME} A number of days, weeks or months may be off by one.",
    "knowledge-update": "Right: the answer gives the latest value, which is the expected answer. It may"
    " mention earlier values as earlier ones. Wrong: it gives an earlier value as the current one.",
    "single-session-preference": "The expected answer describes a good reply. Right: the answer recalls what"
    " the user told about themselves and uses it correctly. It need not meet every point of the description.",
}
UNANSWERABLE = (
    "The question cannot be answered from the history. Right: the answer says that the information is missing"
    " or incomplete. Wrong: it gives an answer as if the information were there."
)
PUBLISHED = (
    Published(
        "S, 10 retrieved sessions, GPT-4o reads", "judge", 0.766, "github.com/skynetcmd/m3-memory issue 1"
    ),
    Published(
        "S, 10 retrieved passages, gpt-5.4 reads",
        "judge",
        0.756,
        "github.com/BetterDB-inc/monitor pull request 252",
    ),
    Published(
        "S, agentmemory with Claude Opus 4.6", "judge", 0.962, "github.com/xiaowu0162/LongMemEval issue 29"
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """LongMemEval has no options: the file chosen is the version."""


def convert(source: Path, dataset: DatasetWriter, options: argparse.Namespace) -> None:
    """Converts LongMemEval.

    Args:
        source: one of its JSON files, or a folder with one of them.
        dataset: where the questions go.
        options: none.

    Raises:
        DataError: the file is missing, broken, or a row lacks a key.
    """
    path = _file(source)
    notes: Counter[str] = Counter()
    seen: set[str] = set()
    for index, record in json_objects(path):
        where = f"{path.name}: row {index}"
        id = text_field(record, "question_id", where)
        where = f"{where} ({id})"
        if id in seen:
            dataset.drop(where, "its question_id occurred before")
            continue
        seen.add(id)
        messages = _messages(record, where, notes)
        if not messages:
            dataset.drop(where, "its history has no message")
            continue
        row = _row(record, id, where, notes)
        dataset.row("benchmark", {"id": id, "history": dataset.history(id, messages), **row})
    for text, count in notes.items():
        dataset.note(f"{text}: {count}")
    dataset.note(f"converted from {path.name}: figures of oracle, S and M are not comparable")


def _file(source: Path) -> Path:
    if not source.is_dir():
        if not source.is_file():
            raise DataError(f"{source}: no such file; expected longmemeval_oracle.json, _s or _m")
        return source
    files = sorted([*source.glob("longmemeval_*.json"), *source.glob("data/longmemeval_*.json")])
    if not files:
        raise DataError(f"{source}: no longmemeval_*.json; expected one of oracle, s and m")
    if len(files) > 1:
        raise DataError(f"{source}: several files ({', '.join(f.name for f in files)}); name one of them")
    return files[0]


def _messages(record: Mapping[str, Any], where: str, notes: Counter[str]) -> list[dict[str, Any]]:
    """The messages of all sessions, sorted by the dates of the sessions."""
    dates = [_date(text, where) for text in field(record, "haystack_dates", list, where)]
    sessions = field(record, "haystack_sessions", list, where)
    if len(dates) != len(sessions):
        raise DataError(f"{where}: {len(dates)} haystack_dates for {len(sessions)} haystack_sessions")
    order = sorted(range(len(sessions)), key=lambda place: dates[place])
    if order != list(range(len(sessions))):
        notes["histories that were not in the order of their dates, sorted"] += 1
    messages = []
    for number, place in enumerate(order, start=1):
        here = f"{where}: session {place}"
        if not isinstance(sessions[place], list):
            raise DataError(f"{here}: expected a list of messages")
        for turn in sessions[place]:
            role, content = field(turn, "role", str, here), field(turn, "content", str, here)
            if role not in ROLES:
                raise DataError(f"{here}: unknown role {role!r}; expected {' or '.join(ROLES)}")
            if not content.strip():
                notes["empty messages, left out"] += 1
                continue
            messages.append({"role": role, "content": content, "date": dates[place], "session": number})
    return messages


def _row(record: Mapping[str, Any], id: str, where: str, notes: Counter[str]) -> dict[str, Any]:
    """The question of one record: query, date, answer and labels."""
    kind = text_field(record, "question_type", where)
    if kind not in RUBRICS:
        raise DataError(f"{where}: unknown question_type {kind!r}; expected one of {', '.join(RUBRICS)}")
    answer = str(field(record, "answer", (str, int), where)).strip()
    if isinstance(record["answer"], int):
        notes["answers that are numbers in the file and became texts"] += 1
    abstains = id.endswith(ABSTENTION)
    if abstains:
        notes["questions that cannot be answered, where the right answer is to abstain"] += 1
    labels = {
        "question_type": kind,
        "abstention": abstains,
        "sessions": len(record["haystack_sessions"]),
        "evidence_sessions": len(record.get("answer_session_ids") or []),
        "rubric": f"{UNANSWERABLE} Why: {answer}" if abstains else RUBRICS[kind],
    }
    return {
        "query": text_field(record, "question", where),
        "date": _date(record.get("question_date"), where),
        "answer": None if abstains else answer,
        "labels": labels,
    }


def _date(text: Any, where: str) -> str:
    """ "2023/05/20 (Sat) 02:21" in ISO 8601."""
    found = DATE.fullmatch(text.strip()) if isinstance(text, str) else None
    try:
        if found:
            year, month, day, hour, minute = map(int, found.groups())
            return datetime(year, month, day, hour, minute).strftime("%Y-%m-%dT%H:%M")
    except ValueError:  # such as a month of 13
        pass
    raise DataError(f"{where}: {text!r} is no date such as '2023/05/20 (Sat) 02:21'")
