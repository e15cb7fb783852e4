"""A dataset of one's own: `{train,val,benchmark}.jsonl`, one question a line (docs/your_data.md).

Invariant: every line becomes either a question or a `Skip` with a reason, and no file outside the dataset
folder is opened. A line that is not JSON, a history file that is missing and a path that leaves the folder
are errors: then the folder is not what its author thinks. Rows are lines, counted from 0; the order of the
options depends only on the row.
"""

import json
import random
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from reward.free_text import normalized
from reward.mcq import LETTERS
from rft.data.control import inert
from rft.data.history import HALF_PAIR, History, history_id, is_date, read_history, read_messages
from rft.data.question import FEWEST, MOST, Question
from rft.errors import DataError
from rft.tasks.base import (
    ORDER_SEED,
    UNNAMED,
    Asked,
    Findings,
    Labels,
    Shown,
    Skip,
    Split,
    Task,
    UnusableRow,
    excluded,
    none_usable,
    official_first,
    short_option,
)
from rft.tasks.files import digest, history_path, inside
from rft.tasks.source_files import unreadable

ABOUT = "dataset.json"
NOT_SPLITS = ("memory_targets",)
KEYS = ("id", "person", "history", "query", "date", "options", "answer", "labels")
REQUIRED = ("history", "query", "answer")
RUBRIC = "rubric"
"""The label with what a judge should check, in words, instead of a rubric of `reward.judge.RUBRICS`."""
LEAST_LEAK = 4  # characters of an answer whose occurrence in a query is reported
NOT_IN_HISTORY = "the answer of a question without options occurs nowhere in its history, word for word"
_VARIANT = re.compile(r"/(?:order|sample)\d+$")  # how the ids of variants end


def is_jsonl(source: str | Path) -> bool:
    """Returns whether `source` is a folder in this format."""
    folder = Path(source).expanduser()
    return not (folder / "benchmark" / "text").is_dir() and bool(_names(folder))


def split_names(root: Path) -> list[str]:
    """Returns the split names of a folder, train, val and benchmark first."""
    return official_first(_names(root))


def load_split(root: Path, split: str, exclude_personas: Collection[str] = ()) -> Split:
    """Reads `{split}.jsonl` and the histories it names.

    Raises:
        DataError: if the data is invalid; the message names the file and row, what was expected and how to
            fix it.
    """
    if split not in _names(root):
        raise DataError(f"{root}: no split {split!r}; it has {', '.join(split_names(root))}")
    path, about = root / f"{split}.jsonl", read_about(root)
    if not inside(path, root):
        raise DataError(f"{path}: this file points outside the dataset folder; put the file itself there")
    exclude = {str(person) for person in exclude_personas}
    reader = _Reader(root, split, about["judge_only"])
    questions: list[Question] = []
    skipped: list[Skip] = []
    row = -1
    for row, record in read_rows(path):
        try:
            question = reader.question(record, row, f"{path}: row {row}")
            excluded(question.persona_id, exclude)
        except UnusableRow as unusable:
            skipped.append(Skip(row, str(unusable)))
        else:
            questions.append(question)
    if row < 0:
        raise DataError(f"{path}: no rows; expected one question per line")
    if not questions:
        raise none_usable(path, row + 1, skipped)
    used = {question.history_id for question in questions}
    histories = {id: history for id, history in reader.histories.items() if id in used}
    return Split(
        name=split,
        window="",
        questions=tuple(questions),
        histories=histories,
        skipped=tuple(skipped),
        sha256=digest(path, histories),
        root=root,
        task="jsonl",
        report_by=tuple(about["report_by"]),
        published=tuple((p["name"], p["metric"], p["value"], p["source"]) for p in about["published"]),
        notes=tuple(about["notes"]),
    )


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (row, JSON value) of each line that is not blank, one at a time.

    Raises:
        DataError: if the file cannot be read, is not UTF-8, or a line is not JSON.
    """
    row = 0
    try:
        with path.open("rb") as stream:
            for row, line in enumerate(stream):
                if text := line.decode("utf-8-sig" if row == 0 else "utf-8").strip():
                    yield row, json.loads(text)
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: line {row + 1}: not UTF-8; write the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(
            f"{path}: line {row + 1}: not JSON ({why}); expected one object per line, the file may be"
            " incomplete"
        ) from None


def read_about(root: Path) -> dict[str, Any]:
    """Reads `dataset.json`, which describes a dataset and is optional.

    Returns:
        report_by, published, notes and judge_only, with their defaults.

    Raises:
        DataError: if the file is broken.
    """
    path = root / ABOUT
    about: dict[str, Any] = {"report_by": [], "published": [], "notes": [], "judge_only": False}
    if not path.exists():
        return about
    remedy = "see docs/your_data.md, or remove the file"
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot read it ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object; {remedy}")
    about |= {key: found[key] for key in about if key in found}
    for key in ("report_by", "notes"):
        if not isinstance(about[key], list) or not all(isinstance(text, str) for text in about[key]):
            raise DataError(f"{path}: {key}: expected a list of texts; {remedy}")
    if not isinstance(about["judge_only"], bool):
        raise DataError(f"{path}: judge_only: expected true or false; {remedy}")
    figure = {"name": str, "metric": str, "value": int | float, "source": str}
    for published in about["published"] if isinstance(about["published"], list) else [None]:
        if not isinstance(published, dict) or not all(
            isinstance(published.get(k), t) for k, t in figure.items()
        ):
            raise DataError(f"{path}: published: expected a list of {{{', '.join(figure)}}}; {remedy}")
    return about


class _Reader:
    """Makes questions of rows, and reads each history once."""

    def __init__(self, root: Path, split: str, judge_only: bool):
        self.root, self.split, self.judge_only = root, split, judge_only
        self.histories: dict[str, History] = {}
        self._read = cache(read_history)
        self._rows: dict[str, int] = {}  # id of a question -> its row

    def question(self, record: Any, row: int, where: str) -> Question:
        """Returns the question of a row. Raises UnusableRow, with the reason, or DataError."""
        if not isinstance(record, dict):
            raise UnusableRow("the line is not a JSON object")
        if unknown := [key for key in record if key not in KEYS]:
            raise UnusableRow(f"unknown key {unknown[0]!r}; expected {', '.join(KEYS)}")
        if missing := [key for key in REQUIRED if key not in record]:
            raise UnusableRow(f"key {missing[0]!r} is missing")
        query = _text(record["query"], "query")
        date = record.get("date") or ""
        if date and not is_date(date):
            raise UnusableRow("date is not ISO 8601, such as 2023-06-01")
        options, accepted = _options(record), _accepted(record)
        gold = None
        if options:
            if len(accepted) != 1 or accepted[0] not in options:
                raise UnusableRow("answer is none of the options")
            options.sort(key=lambda option: option != accepted[0])  # the gold first, then shuffled
            random.Random(ORDER_SEED + row).shuffle(options)
            gold = LETTERS[options.index(accepted[0])]
        labels = _labels(record.get("labels"))
        name = _name(record, "id") or f"{self.split}-{row}"
        if _VARIANT.search(name):
            raise UnusableRow("id ends like that of a variant (/order1, /sample1)")
        history = self._history(record["history"], where)
        if (first := self._rows.setdefault(name, row)) != row:
            raise UnusableRow(f"id is that of row {first}")
        return Question(
            id=name,
            row=row,
            persona_id=_name(record, "person") or history.persona_id or history.id,
            history_id=history.id,
            query=query,
            options=tuple(options),
            gold=gold,
            labels=labels,
            open_ended=not options,
            accepted=() if options else tuple(accepted),
            abstain=not options and not accepted,
            date=date,
            kind=groups(labels).get("kind", ""),
            judge_only=self.judge_only and not options,
        )

    def _history(self, given: Any, where: str) -> History:
        if isinstance(given, str):
            history = self._read(history_path(self.root, given, where, "history"))
        elif isinstance(given, list) and given:
            try:
                messages = read_messages(given, "history: ")
            except DataError as error:
                raise UnusableRow(str(error)) from None
            history = History(history_id(messages), "", where, messages)
        else:
            raise UnusableRow("history is neither a list of messages nor a path")
        return self.histories.setdefault(history.id, history)


def _names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.jsonl")} - set(NOT_SPLITS) if folder.is_dir() else set()


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UnusableRow(f"{key} is not a text" if not isinstance(value, str) else f"{key} is empty")
    if HALF_PAIR.search(value):
        raise UnusableRow(f"{key} contains half a surrogate pair")
    return value.strip()


def _name(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return "" if value is None else _text(value, key)


def _options(record: Mapping[str, Any]) -> list[str]:
    options = record.get("options")
    if options is None:
        return []
    if not isinstance(options, list) or not FEWEST <= len(options) <= MOST:
        raise UnusableRow(f"options is not a list of {FEWEST} to {MOST} texts")
    texts = [_text(option, "an option") for option in options]
    if len({" ".join(text.split()) for text in texts}) < len(texts):
        raise UnusableRow("two options are the same")
    return texts


def _accepted(record: Mapping[str, Any]) -> list[str]:
    """The accepted texts of the row; [] if the right answer is to abstain."""
    answer = record["answer"]
    if answer is None:
        return []
    if not isinstance(answer, str | list) or answer == []:
        raise UnusableRow("answer is neither a text, a list of texts nor null")
    return [_text(text, "answer") for text in ([answer] if isinstance(answer, str) else answer)]


def _labels(labels: Any) -> dict[str, Any]:
    if labels is None:
        return {}
    if not isinstance(labels, dict) or not all(isinstance(v, str | int | float) for v in labels.values()):
        raise UnusableRow("labels is not an object of texts, numbers and true or false")
    for text in (*labels, *(value for value in labels.values() if isinstance(value, str))):
        if text.strip():
            _text(text, "a label")
    return labels


def groups(labels: Labels) -> dict[str, str]:
    """Returns {label: its value as text}."""
    named = {name: str(v).lower() if isinstance(v, bool) else str(v) for name, v in labels.items()}
    named.pop(RUBRIC, None)
    return named


def shown(labels: Labels) -> Shown:
    """Returns how a page shows the labels: questions are filtered by `kind`, or else by the first label."""
    named = groups(labels)
    first = "kind" if "kind" in named else next(iter(named), "")
    kind = named.pop(first, "")
    return Shown(kind, ", ".join(f"{name}: {value}" for name, value in named.items()))


def judged(question: Asked) -> tuple[str, str]:
    """Returns (the judge's rubric, the right answers); a label `rubric` replaces the rubric."""
    fact = "\n".join(question.accepted) or question.gold_text
    return str(question.labels.get(RUBRIC) or ("unknown" if question.abstain else "answer")), fact


def named(question: Question) -> str:
    """Returns the right option in full if it is short."""
    short = short_option(question)
    return UNNAMED if short is None else short


def reasoning(question: Question, knows: bool = True) -> str:
    """Returns a thought of one sentence: the data does not tell why an answer is right."""
    known = "From our conversations" if knows else "A guess, as I know of no conversation"
    if question.gold is not None:
        return f"{known}: {named(question)} is ({question.gold})."
    if question.abstain or not knows:
        return "Our conversations do not tell this."
    return f"{known}: {inert(question.gold_text)}"


def audit(split: Split) -> Findings:
    """Where an answer leaks, and how many free answers occur in their history."""
    rows: dict[str, list[int]] = {}
    free = [question for question in split.questions if question.compared and not question.abstain]
    said = {id: normalized("\n".join(m.content for m in h.messages)) for id, h in split.histories.items()}
    found = 0
    for question in split.questions:
        query = normalized(question.query)
        texts = [normalized(text) for text in question.accepted or (question.gold_text,)]
        if any(len(text) >= LEAST_LEAK and f" {text} " in f" {query} " for text in texts):
            rows.setdefault("the answer occurs in the query", []).append(question.row)
    for question in free:
        history = f" {said[question.history_id]} "
        if any(f" {normalized(text)} " in history for text in question.accepted):
            found += 1
        else:
            rows.setdefault(NOT_IN_HISTORY, []).append(question.row)
    options = [question for question in split.questions if question.options]
    figures: dict[str, Any] = {"with_options": len(options), "free": len(split.questions) - len(options)}
    figures["abstain"] = sum(question.abstain for question in split.questions)
    return Findings(rows=rows, figures=figures | ({"in_history": found / len(free)} if free else {}))


TASK = Task(
    name="jsonl",
    groups=groups,
    titles={"kind": "Kind of question"},
    shown=shown,
    judged=judged,
    reasoning=reasoning,
    named=named,
    audit=audit,
)
