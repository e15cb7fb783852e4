"""PersonaMem v1: four-option questions, asked at some point of a long history.

Invariant: the history of a question ends where the question was asked. Messages after it, which may answer
it, are never part of it.

The layout is `questions_SIZE.csv` and `shared_contexts_SIZE.jsonl` of bowen-upenn/PersonaMem (SIZE: 32k, 128k
or 1M). A line of the contexts is one object {id: messages}; a question names an id and how many of the
messages come before it. Option texts begin with their letters, which are removed: the display order is chosen
anew.
"""

import argparse
import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft.data.history import ROLES
from rft.errors import DataError
from rft.tasks.dataset_writer import DatasetWriter, Published
from rft.tasks.personamem.dataset import read_rows
from rft.tasks.source_files import broken, field, text_field, unreadable

SOURCE = "https://huggingface.co/datasets/bowen-upenn/PersonaMem"
LICENSE = "see the dataset's page; its files state none"
REPORT_BY = ("question_type", "topic")
REPOSITORY = "github.com/bowen-upenn/PersonaMem"
SIZES = ("32k", "128k", "1M")
COLUMNS = (
    "persona_id",
    "question_id",
    "question_type",
    "topic",
    "user_question_or_message",
    "correct_answer",
    "all_options",
    "shared_context_id",
    "end_index_in_shared_context",
)
OPTION = re.compile(r"\s*\(([a-z])\)\s*(.*)", re.DOTALL)

PUBLISHED = (
    Published(
        "the best models (GPT-4.5, GPT-4.1, Gemini-1.5): about", "accuracy", 0.52, f"{REPOSITORY}, README"
    ),
    Published("32k, GPT-4o, whole history", "accuracy", 0.39, f"{REPOSITORY} issue 28"),
    Published("32k, GPT-4o with mem0", "accuracy", 0.58, f"{REPOSITORY} issue 28"),
    Published("32k, GPT-4o-mini, whole history", "accuracy", 0.32, f"{REPOSITORY} issue 28"),
    Published("128k, a frontier model without any history", "accuracy", 0.492, f"{REPOSITORY} issue 41"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument(
        "--size", choices=SIZES, help="length of the histories (default: the only one in the folder)"
    )


def convert(source: Path, dataset: DatasetWriter, options: argparse.Namespace) -> None:
    """Converts PersonaMem v1.

    Args:
        source: folder with the CSV of questions and the JSONL of contexts.
        dataset: where the questions go.
        options: see `add_arguments`.

    Raises:
        DataError: a file, column or context is missing or broken.
    """
    size = options.size or _size(source)
    questions, contexts = source / f"questions_{size}.csv", source / f"shared_contexts_{size}.jsonl"
    offsets = _offsets(contexts)
    links: dict[tuple[str, int], str] = {}
    seen: set[str] = set()
    context_id, context = "", []
    for row, record in read_rows(questions, COLUMNS, "PersonaMem v1"):
        where = f"{questions.name}: row {row}"
        id = text_field(record, "question_id", where)
        if id in seen:
            dataset.drop(where, f"question_id {id} occurred before")
            continue
        seen.add(id)
        texts, right, problem = _options(record, where)
        if problem:
            dataset.drop(where, problem)
            continue
        key = text_field(record, "shared_context_id", where)
        if key not in offsets:
            raise DataError(f"{questions}: row {row}: context {key} is not in {contexts.name}")
        if key != context_id:
            context_id, context = key, _context(contexts, offsets[key])
        end = _end(record, len(context), f"{questions}: row {row}")
        if (key, end) not in links:
            links[key, end] = dataset.history(f"{key}-{end}", context[:end])
        dataset.row(
            "benchmark",
            {
                "id": id,
                "person": text_field(record, "persona_id", where),
                "history": links[key, end],
                "query": text_field(record, "user_question_or_message", where),
                "options": texts,
                "answer": right,
                "labels": {
                    "question_type": record["question_type"].strip(),
                    "topic": record["topic"].strip(),
                    **_distance(record),
                },
            },
        )
    dataset.note(
        f"{size}: {len(links)} histories are beginnings of {len({key for key, _ in links})} contexts, each"
        " stored in full"
    )
    dataset.note(
        "a frontier model without any history answers 49 % (128k): report `--context none` next to every"
        " accuracy"
    )


def _size(source: Path) -> str:
    """The size of which there are files."""
    sizes = [size for size in SIZES if (source / f"questions_{size}.csv").is_file()]
    if not sizes:
        raise DataError(f"{source}: no questions_SIZE.csv; expected SIZE to be one of {', '.join(SIZES)}")
    if len(sizes) > 1:
        raise DataError(f"{source}: it has several sizes ({', '.join(sizes)}); choose one with --size")
    return sizes[0]


def _offsets(path: Path) -> dict[str, int]:
    """{context id: where its line begins, in bytes}."""
    offsets: dict[str, int] = {}
    decoder = json.JSONDecoder()
    try:
        with path.open("rb") as stream:
            while line := stream.readline():
                if not (text := line.decode("utf-8-sig").lstrip()):
                    continue
                start = len(text) - len(text[1:].lstrip())
                key, _ = decoder.raw_decode(text, start)
                if not text.startswith("{") or not isinstance(key, str):
                    raise ValueError("a line is no object {id: messages}")
                offsets[key] = stream.tell() - len(line)
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise broken(path, error) from None
    return offsets


def _context(path: Path, offset: int) -> list[dict[str, Any]]:
    """The messages of the context whose line begins there; a system message begins a new session."""
    with path.open("rb") as stream:
        stream.seek(offset)
        try:
            ((key, turns),) = json.loads(stream.readline().decode("utf-8-sig")).items()
        except (ValueError, AttributeError) as error:
            raise broken(path, error) from None
    messages: list[dict[str, Any]] = []
    session = 0
    for place, turn in enumerate(turns):
        where = f"{path}: context {key}: message {place}"
        role, content = field(turn, "role", str, where), field(turn, "content", str, where)
        if role not in ROLES:
            raise DataError(f"{where}: unknown role {role!r}; expected one of {', '.join(ROLES)}")
        session += role == "system" or place == 0
        messages.append({"role": role, "content": content, "session": session})
    return messages


def _end(record: Mapping[str, str], messages: int, where: str) -> int:
    """How many messages come before the question."""
    text = record["end_index_in_shared_context"].strip()
    end = int(float(text)) if re.fullmatch(r"\d+(\.0)?", text) else 0
    if not 0 < end <= messages:
        raise DataError(
            f"{where}: end_index_in_shared_context {text!r}; expected 1 to {messages}, the messages of its"
            " context"
        )
    return end


def _options(record: Mapping[str, str], where: str) -> tuple[list[str], str, str]:
    """The texts of the options, the right one, and what is wrong with them ("" if nothing)."""
    written = record["all_options"].strip()
    try:
        listed: Any = ast.literal_eval(written)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        try:
            listed = json.loads(written)
        except ValueError:
            return [], "", "all_options is no list of texts"
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        return [], "", "all_options is no list of texts"
    found = [OPTION.fullmatch(text) for text in listed]
    texts = {match[1]: match[2].strip() for match in found if match}
    if len(texts) != len(listed) or len(texts) < 2 or not all(texts.values()):
        return [], "", "an option has no letter or no text, or two have the same letter"
    if len(set(texts.values())) != len(texts):
        return [], "", "two options have the same text"
    letter = record["correct_answer"].strip().strip("()").lower()
    if letter not in texts:
        return [], "", f"correct_answer {record['correct_answer']!r} is no letter of an option"
    return list(texts.values()), texts[letter], ""


def _distance(record: Mapping[str, str]) -> dict[str, int]:
    """The tokens between the last mention of the preference and the question, if the file has them."""
    text = (record.get("distance_to_ref_in_tokens") or "").strip()
    return {"distance_tokens": int(float(text))} if re.fullmatch(r"\d+(\.\d*)?", text) else {}
