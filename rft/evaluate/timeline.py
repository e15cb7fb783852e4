"""Data of the memory page: how each memory grew, chunk by chunk, and which withdrawn values were removed.

Invariant: everything is read from the records of the memories on disk, whichever process wrote them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft.evaluate import lines
from rft.memory.store import StoredTurn, read_record
from rft.memory.text import changes
from rft.records.row import ResultRow, grouped
from rft.records.summary import Forgotten
from rft.tasks.base import Split
from rft.tasks.memory_targets import load_memory_targets


@dataclass(frozen=True)
class ShownTurn:
    """An update of a memory, and (kind, line) of what it changed."""

    turn: StoredTurn
    changes: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Timeline:
    """The memory page's data about one history.

    Attributes:
        history, persona: ids.
        questions: result rows about this history.
        turns: the updates of the memory.
        input_tokens: tokens read to write the memory (None: unknown).
        lines: verdicts on the last memory ([] if the dataset has no targets).
    """

    history: str
    persona: str
    questions: list[ResultRow]
    turns: list[ShownTurn]
    input_tokens: int | None
    lines: list[lines.Verdict]


def memory_path(folder: Path, history_id: str) -> Path:
    """The path of a history's memory in a folder of memories."""
    return folder / f"{history_id}.md"


def last_memories(folder: Path, histories: Iterable[str]) -> dict[str, str]:
    """{history id: its last memory} for the histories that have a memory in the folder."""
    records = {history: read_record(memory_path(folder, history)) for history in dict.fromkeys(histories)}
    return {
        history: record.turns[-1].memory
        for history, record in records.items()
        if record is not None and record.turns
    }


def forgotten(split: Split, folder: Path) -> Forgotten:
    """Counts the phrases that users asked to forget and that the memories dropped.

    Returns:
        withdrawn: number of phrases that the split's users ask to forget.
        written: how many of these a memory contained after some chunk.
        gone: how many of the written phrases the last memory no longer contains.
        rate: gone / written (None if none was written).
        kept: the written phrases that the last memory still contains, as [history, phrase].
    """
    from reward.memory import speaks_of

    withdrawn = written = 0
    kept: list[tuple[str, str]] = []
    for history, notes in load_memory_targets(split).items():
        record = read_record(memory_path(folder, history))
        versions = [turn.memory for turn in record.turns] if record else []
        for phrase in notes.withdrawn:
            withdrawn += 1
            if any(speaks_of(memory, phrase) for memory in versions):
                written += 1
                if speaks_of(versions[-1], phrase):
                    kept.append((history, phrase))
    gone = written - len(kept)
    return Forgotten(
        withdrawn=withdrawn, written=written, gone=gone, rate=gone / written if written else None, kept=kept
    )


def timelines(split: Split, folder: Path, rows: Sequence[ResultRow]) -> Iterator[Timeline]:
    """Yields the timeline of each history that has a memory."""
    notes = load_memory_targets(split) if lines.has_targets(split) else {}
    for history, of_history in grouped((row.history_id, row) for row in rows).items():
        record = read_record(memory_path(folder, history))
        if record is None:
            continue
        versions = ["", *(turn.memory for turn in record.turns)]
        yield Timeline(
            history=history,
            persona=split.histories[history].persona_id,
            questions=of_history,
            turns=[
                ShownTurn(turn, changes(before, after))
                for turn, before, after in zip(record.turns, versions, versions[1:], strict=False)
            ],
            input_tokens=record.input_tokens,
            lines=lines.verdicts(split, {history: versions[-1]}, notes) if notes else [],
        )
