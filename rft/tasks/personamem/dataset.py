"""Loads a split of PersonaMem-v2, real or simulated: its questions, and each of their histories once.

Invariant: every row of the CSV becomes either a question or a `Skip` with a reason, and no file outside the
dataset folder is ever opened, whatever a link contains. A structural fault (a missing column or file, a link
out of the folder, a truncated row) is an error, not a skip, and its message names the file and row. Rows are
counted from 0, as in question ids and for the option order.
"""

import csv
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rft.data.history import History, read_history
from rft.data.question import Question
from rft.errors import DataError
from rft.hub import reachable, unreachable
from rft.tasks.base import Skip, Split, UnusableRow, excluded, none_usable, official_first
from rft.tasks.files import digest, history_path, inside
from rft.tasks.personamem.question import persona_id, read_question
from rft.tasks.source_files import unreadable

HUB_ID = "bowen-upenn/PersonaMem-v2"
PINNED_REVISION = "b7b42b78917157afed063527a1c959e98f6109f2"
WINDOWS = ("32k", "128k")
TEXT_FOLDER = "benchmark/text"
SNIPPET = "related_conversation_snippet"  # the column with the messages that reveal a preference

# Columns of the official CSV, in order. Reading questions requires only `required_columns`.
COLUMNS = (
    "persona_id",
    "chat_history_32k_link",
    "chat_history_128k_link",
    "raw_persona_file",
    "short_persona",
    "expanded_persona",
    "user_query",
    "correct_answer",
    "incorrect_answers",
    "topic_query",
    "preference",
    "topic_preference",
    "conversation_scenario",
    "pref_type",
    "related_conversation_snippet",
    "who",
    "updated",
    "prev_pref",
    "sensitive_info",
    "total_tokens_in_chat_history_32k",
    "total_tokens_in_chat_history_128k",
    "distance_from_related_snippet_to_query_32k",
    "distance_from_related_snippet_to_query_128k",
    "num_persona_relevant_tokens_32k",
    "num_persona_irrelevant_tokens_32k",
    "num_persona_relevant_tokens_128k",
    "num_persona_irrelevant_tokens_128k",
)


def load_split(
    source: str | Path, split: str, window: str, revision: str | None, exclude_personas: Collection[str]
) -> Split:
    """Reads `benchmark/text/{split}.csv` and the histories it links to.

    Args:
        source: dataset folder or Hub id.
        split: name of the CSV, without its extension.
        window: "32k" or "128k", the histories to read.
        revision: revision of a Hub dataset.
        exclude_personas: personas whose rows are skipped.

    Raises:
        DataError: if the data is invalid; the message names the file, row or column, what was expected and
            how to fix it.
    """
    root = locate(source, revision, split=split, window=window)
    path = csv_path(root, split)
    link_column = f"chat_history_{window}_link"
    exclude = {str(persona) for persona in exclude_personas}
    questions: list[Question] = []
    skipped: list[Skip] = []
    by_path: dict[Path, History] = {}
    histories: dict[str, History] = {}
    row, linked = -1, False
    for row, record in read_rows(path, required_columns(window)):
        where = f"{path}: row {row}"
        link = record[link_column].strip()
        linked = linked or bool(link)
        try:
            excluded(persona_id(record), exclude)
            if not link:
                raise UnusableRow(f"{link_column} is empty")
            file = history_path(root, link, where, link_column)
            question = read_question(record, row, split, window, history_id="", where=where)
        except UnusableRow as unusable:
            skipped.append(Skip(row, str(unusable)))
            continue
        if file not in by_path:
            history = read_history(file)
            by_path[file] = (
                history if history.persona_id else replace(history, persona_id=question.persona_id)
            )
        history = by_path[file]
        alike = histories.setdefault(history.id, history)
        if alike.persona_id != history.persona_id:  # files of equal content that name different personas
            histories[history.id] = replace(alike, persona_id="")
        questions.append(replace(question, history_id=history.id))

    if row < 0:
        raise DataError(f"{path}: no rows; expected one question per row after the header")
    if not linked:
        raise DataError(
            f"{path}: column {link_column} is empty in every row; "
            f"this dataset has no {window} histories, choose another window"
        )
    if not questions:
        raise none_usable(path, row + 1, skipped)
    return Split(split, window, tuple(questions), histories, tuple(skipped), digest(path, histories), root)


def locate(
    source: str | Path, revision: str | None = None, *, split: str | None = None, window: str | None = None
) -> Path:
    """Returns the dataset folder: `source` itself, or the Hub dataset with that id, downloaded at a pinned
    revision.

    Only the text CSVs (of `split`, or all) and the histories of `window` (or both) of a Hub dataset are
    downloaded.

    Raises:
        DataError: if there is neither such a folder nor such a dataset.
    """
    if window is not None and window not in WINDOWS:
        raise DataError(f"unknown window {window!r}; expected one of {', '.join(WINDOWS)}")
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            warnings.warn(f"revision {revision} is ignored: {folder} is a folder", stacklevel=2)
        return folder
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise DataError(f"{source}: no such folder; expected a dataset folder or a Hub id such as {HUB_ID}")
    if revision is None:
        if str(source) != HUB_ID:
            raise DataError(
                f"{source}: no such folder; for a dataset on the Hub, specify its revision (--revision"
                " COMMIT)"
            )
        revision = PINNED_REVISION
    return _download(str(source), revision, split, window)


def split_names(root: Path) -> list[str]:
    """Returns the split names of a dataset folder, the official three first. Raises DataError if there are
    none."""
    names = {path.stem for path in (root / TEXT_FOLDER).glob("*.csv")}
    if not names:
        raise DataError(
            f"{root}: no {TEXT_FOLDER}/*.csv and no *.jsonl; expected a folder in the layout of"
            " PersonaMem-v2, or one with a question per line in train.jsonl, val.jsonl or benchmark.jsonl"
            " (docs/your_data.md)"
        )
    return official_first(names)


def csv_path(root: Path, split: str) -> Path:
    """Returns the path of the CSV of a split. Raises DataError, which lists the existing splits, if there is
    none."""
    names = split_names(root)
    if split not in names:
        raise DataError(f"{root}: no split {split!r}; {TEXT_FOLDER} has {', '.join(names)}")
    path = root / TEXT_FOLDER / f"{split}.csv"
    if not inside(path, root):
        raise DataError(f"{path}: this file points outside the dataset folder; put the CSV itself there")
    return path


def required_columns(window: str) -> tuple[str, ...]:
    """Returns the official columns that are needed to read questions with this window."""
    other = WINDOWS[1 - WINDOWS.index(window)]
    unused = {
        "raw_persona_file",
        "short_persona",
        "expanded_persona",
        "topic_preference",
        "related_conversation_snippet",
    }
    counts = ("total_tokens", "num_persona")
    return tuple(c for c in COLUMNS if c not in unused and other not in c and not c.startswith(counts))


def read_rows(
    path: Path, columns: Collection[str] = (), dataset: str = "PersonaMem-v2"
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (row index, record) for each row of a CSV, one at a time.

    Args:
        path: CSV file.
        columns: columns that the CSV must have.
        dataset: whose columns these are, for error messages.

    Raises:
        DataError: if the file is empty, a column is missing, a row has too few or too many cells, the quoting
            is invalid, or the bytes are not UTF-8.
    """
    row = -1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            with _long_fields():
                header = reader.fieldnames
            if not header:
                raise DataError(f"{path}: empty; expected a CSV with the columns of {dataset}")
            if missing := [column for column in columns if column not in header]:
                raise DataError(
                    f"{path}: missing column {', '.join(missing)}; expected the columns of {dataset}"
                )
            while True:
                row += 1
                with _long_fields():
                    record = next(reader, None)
                if record is None:
                    return
                if None in record or None in record.values():
                    raise DataError(
                        f"{path}: row {row}: expected {len(header)} cells as in the header; "
                        "the file may be incomplete"
                    )
                yield row, record
    except OSError as error:
        raise unreadable(path, error) from None
    except csv.Error as error:
        raise DataError(f"{path}: row {row}: broken CSV ({error}); the file may be incomplete") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: near row {row}: not UTF-8; write the CSV as UTF-8") from None


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lifts the csv module's limit of 128 KiB per cell, and restores it on exit."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _download(repo: str, revision: str, split: str | None, window: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"{TEXT_FOLDER}/{split or '*'}.csv"]
    patterns += [f"data/chat_history_{size}/*" for size in ([window] if window else WINDOWS)]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                allow_patterns=patterns,
                local_files_only=not reachable(),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if not reachable():
            raise DataError(f"{unreachable(repo)}; its revision is {revision}") from None
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{repo}: no such folder, and the Hub returned no dataset at revision {revision}: {reason}"
        ) from None
