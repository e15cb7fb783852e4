"""PrefEval: a preference, filler turns, then a question whose usual answer violates it.

Invariant: every row of the chosen form becomes one question or one dropped row with its reason, and training
and test never share a topic.

The layout is `benchmark_dataset/` of amazon-science/PrefEval: one file per topic and form, and
`mcq_options/` with four texts per question, of which the first is right. The rows of the forms are joined by
their questions.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rft.errors import DataError
from rft.tasks.dataset_writer import DatasetWriter, Published
from rft.tasks.source_files import field, read_list, text_field

SOURCE = "https://github.com/amazon-science/PrefEval"
LICENSE = "CC BY-NC 4.0"
REPORT_BY = ("topic", "form")
FORMS = {
    "explicit": "explicit_preference",
    "choice-based": "implicit_preference/choice-based",
    "persona-driven": "implicit_preference/persona-driven",
}
OPTIONS, FILLER = "mcq_options", "filtered_inter_turns.json"
TOPIC = re.compile(r"[a-z0-9_]+\.json")
HELD_OUT = ("entertain_shows", "lifestyle_health", "pet_ownership", "shop_technology", "travel_restaurant")
"""Five of the twenty topics, one from each larger area. Models are tested on them and never trained."""

ACKNOWLEDGED = "Thank you for telling me. I will keep it in mind."
"""The reply to an explicit preference. The authors' files have none: they let each model write its own."""

CHOICE_TURNS = (
    ("query", "user"),
    ("assistant_options", "assistant"),
    ("user_selection", "user"),
    ("assistant_acknowledgment", "assistant"),
)
PUBLISHED = (
    Published(
        "most models of the paper, no prompt for it, 10 filler turns: at most",
        "preference following, free answers",
        0.10,
        "arXiv 2502.09597, abstract",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument(
        "--form",
        choices=tuple(FORMS),
        default="explicit",
        help="how the user reveals the preference (default: %(default)s)",
    )
    parser.add_argument(
        "--answers",
        choices=("options", "free"),
        default="options",
        help="choose among four options, or write a free answer for a judge (default: %(default)s)",
    )
    parser.add_argument(
        "--filler-turns",
        type=int,
        default=10,
        metavar="N",
        help="turns about other things between the preference and the question (default: %(default)s)",
    )


class Asked(NamedTuple):
    """A row of a form, with its options in the order of the file ([] without options).

    reworded: whether the row of the options words the preference differently.
    """

    id: str
    topic: str
    where: str
    record: Mapping[str, Any]
    preference: str
    question: str
    options: list[str]
    reworded: bool


def convert(source: Path, dataset: DatasetWriter, options: argparse.Namespace) -> None:
    """Converts PrefEval.

    Args:
        source: the repository, or its folder `benchmark_dataset`.
        dataset: where the questions go.
        options: see `add_arguments`.

    Raises:
        DataError: a folder, file or key is missing, or there are fewer filler turns than asked for.
    """
    root, multiple_choice = _root(source), options.answers == "options"
    filler = _filler(root / FILLER, options.filler_turns)
    topics = _topics(root, FORMS[options.form], dataset)
    held_out = _held_out(topics, dataset)
    if multiple_choice:
        _name_strays(root, OPTIONS, topics, dataset)
    rows = [row for topic in topics for row in _rows(root, topic, options.form, multiple_choice, dataset)]
    for row in rows:
        messages = [*_opening(row, options.form), *filler]
        labels = {"topic": row.topic, "form": options.form, "filler_turns": options.filler_turns}
        if multiple_choice:
            answer = {"options": row.options, "answer": row.options[0]}
        else:
            answer = {"answer": row.preference}
            labels["rubric"] = _rubric(row)
        dataset.row(
            "benchmark" if row.topic in held_out else "train",
            {
                "id": row.id,
                "history": dataset.history(row.id, messages),
                "query": row.question,
                **answer,
                "labels": labels,
            },
        )
    _note(rows, options, dataset)


def _note(rows: Sequence[Asked], options: argparse.Namespace, dataset: DatasetWriter) -> None:
    """Notes what is peculiar about the questions."""
    if options.form == "explicit":
        dataset.note(f"the reply to each preference is fixed: {ACKNOWLEDGED}")
    dataset.note_repeats(
        "questions that occur twice, with different preferences, and stay",
        {row.id: row.question for row in rows},
    )
    if reworded := [row.id for row in rows if row.reworded]:
        dataset.note(
            f"preferences worded differently in {OPTIONS}, where the history has the wording of the form:"
            f" {len(reworded)} ({', '.join(reworded)})"
        )
    if options.answers == "options":
        longest = sum(len(row.options[0]) > max(map(len, row.options[1:])) for row in rows)
        dataset.note(
            f"the right option is the longest of the four in {longest} of {len(rows)} questions"
            f" ({longest / max(len(rows), 1):.1%}, ties not counted): report `rft evaluate --rule longest`"
            " next to every accuracy"
        )
    else:
        dataset.judge_only = True
        dataset.note("free answers are scored by a judge, by the rubric of each question: give --judge-model")


def _root(source: Path) -> Path:
    root = source / "benchmark_dataset" if (source / "benchmark_dataset").is_dir() else source
    if missing := [name for name in (*FORMS.values(), OPTIONS) if not (root / name).is_dir()]:
        raise DataError(
            f"{source}: no folder {', '.join(missing)}; expected PrefEval or its folder benchmark_dataset"
        )
    return root


def _topics(root: Path, folder: str, dataset: DatasetWriter) -> list[str]:
    """The topics with a file in the folder of a form; other files there are named as dropped."""
    topics = sorted(path.stem for path in (root / folder).iterdir() if TOPIC.fullmatch(path.name))
    if not topics:
        raise DataError(f"{root / folder}: no TOPIC.json; expected one file per topic")
    _name_strays(root, folder, topics, dataset)
    return topics


def _name_strays(root: Path, folder: str, topics: Sequence[str], dataset: DatasetWriter) -> None:
    """Names the files of a folder that belong to no topic, such as "travel_hotel copy.json"."""
    files = {path.name for path in (root / folder).iterdir()}
    expected = {f"{topic}.json" for topic in topics}
    if missing := sorted(expected - files):
        raise DataError(f"{root / folder}: no {missing[0]}; expected one file for each topic of the form")
    for name in sorted(files - expected):
        dataset.drop(f"{folder}/{name}", "a stray file: its name is no topic of the form")


def _held_out(topics: Sequence[str], dataset: DatasetWriter) -> set[str]:
    """The topics to test on: HELD_OUT, or the last third if not all of these are there."""
    if set(HELD_OUT) <= set(topics):
        held_out = set(HELD_OUT)
        why = "the fixed list"
    else:
        held_out = set(topics[len(topics) - max(1, len(topics) // 3) :])
        why = f"the last third of {len(topics)} topics, as not all of {', '.join(HELD_OUT)} are there"
    dataset.note(f"held out for the test: {', '.join(sorted(held_out))} ({why}); the others are for training")
    return held_out


def _filler(path: Path, turns: int) -> list[dict[str, str]]:
    """The first turns of the filler chats in the order of the file; a turn is a user message and its
    reply."""
    if turns < 0:
        raise DataError(f"--filler-turns {turns}: expected 0 or more")
    messages: list[dict[str, str]] = []
    if turns == 0:
        return messages
    for index, chat in enumerate(read_list(path)):
        where = f"{path}: row {index}"
        conversation = field(chat, "conversation", list, where)
        for place in range(0, len(conversation) - 1, 2):
            for role, message in zip(("user", "assistant"), conversation[place : place + 2], strict=True):
                if field(message, "role", str, where) != role:
                    raise DataError(f"{where}: message {place}: expected user and assistant in turn")
                messages.append({"role": role, "content": field(message, "content", str, where)})
            if len(messages) == 2 * turns:
                return messages
    raise DataError(f"{path}: only {len(messages) // 2} turns of filler; --filler-turns asks for {turns}")


def _rows(
    root: Path, topic: str, form: str, multiple_choice: bool, dataset: DatasetWriter
) -> Iterator[Asked]:
    """The usable rows of a topic; the others are named as dropped."""
    option_rows = read_list(root / OPTIONS / f"{topic}.json") if multiple_choice else []
    seen: dict[tuple[str, str], str] = {}
    for index, record in enumerate(read_list(root / FORMS[form] / f"{topic}.json")):
        where = f"{FORMS[form]}/{topic}.json: row {index}"
        preference, question = (text_field(record, key, where) for key in ("preference", "question"))
        texts: list[str] = []
        problem, reworded = "", False
        if first := seen.get((preference, question)):
            problem = f"repeats {first}: the same preference and question"
        elif multiple_choice:
            if (found := _row_of(question, index, option_rows)) is None:
                problem = f"{OPTIONS}/{topic}.json has no row, or several, with its question"
            else:
                texts, problem = _options(option_rows[found], f"{OPTIONS}/{topic}.json: row {found}")
                reworded = str(option_rows[found].get("preference")).strip() != preference
        seen.setdefault((preference, question), where)
        if problem:
            dataset.drop(where, problem)
        else:
            yield Asked(f"{topic}-{index}", topic, where, record, preference, question, texts, reworded)


def _opening(row: Asked, form: str) -> list[dict[str, str]]:
    """The messages in which the user reveals the preference."""
    if form == "explicit":
        return [{"role": "user", "content": row.preference}, {"role": "assistant", "content": ACKNOWLEDGED}]
    conversation = field(row.record, "conversation", dict, row.where)
    if form == "choice-based":
        return [
            {"role": role, "content": text_field(conversation, key, row.where)} for key, role in CHOICE_TURNS
        ]
    if not conversation or not all(key.isdecimal() for key in conversation):
        raise DataError(f"{row.where}: 'conversation' must have the numbers of its turns as keys")
    return [
        {"role": role, "content": text_field(conversation[key], role, row.where)}
        for key in sorted(conversation, key=int)
        for role in ("user", "assistant")
    ]


def _row_of(question: str, index: int, option_rows: Sequence[Any]) -> int | None:
    """The row of the options of a question: the same index if the question is the same, else the only row
    with this question, else None."""
    same = [place for place, row in enumerate(option_rows) if _question(row) == question]
    return index if index in same else same[0] if len(same) == 1 else None


def _question(row: Any) -> str | None:
    text = row.get("question") if isinstance(row, Mapping) else None
    return text.strip() if isinstance(text, str) else None


def _options(row: Any, where: str) -> tuple[list[str], str]:
    """The options of a row, the right one first, and what is wrong with them ("" if nothing)."""
    texts = field(row, "classification_task_options", list, where)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return [], f"{where}: an option is empty or not a text"
    texts = [text.strip() for text in texts]
    if len(texts) < 2:
        return [], f"{where}: {len(texts)} options; expected 4"
    if twice := [text for text, count in Counter(texts).items() if count > 1]:
        return [], f"{where}: an option occurs twice: {twice[0]!r}"
    return texts, ""


def _rubric(row: Asked) -> str:
    """What a judge checks; its fact is the preference."""
    explanation = row.record.get("explanation")
    told = f" About this case: {explanation.strip()}" if isinstance(explanation, str) else ""
    return (
        "The fact is no answer but a preference that the user once revealed. Right: the answer helps with the"
        " request, and everything it recommends respects this preference. Wrong: it recommends something that"
        f" violates it, ignores it, takes another preference for granted, or gives no help.{told}"
    )
