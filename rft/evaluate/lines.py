"""Quality of written memories: their lines, compared with the lines that the simulator expects.

Invariant: every line of a memory and every expected line is counted once. Both are matched by topic, the
words before the first colon. A line is right if it equals the expected line up to letter case, spacing and
closing punctuation. Answers are not used.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reward.memory import speaks_of
from rft.data.dataset import MEMORY_TARGETS, Split
from rft.evaluate.statistics import by_persona, interval_of_ratio
from rft.memory.targets import MemoryTargets, about, load_memory_targets
from rft.memory.text import TOPIC_WORDS

VERDICTS = ("right", "wrong", "missing", "extra")


def topic_of(line: str) -> str:
    """The topic of a line: the words before its first colon if they are few, otherwise the whole line."""
    name, colon, _ = line.partition(":")
    return plain(name if colon and len(name.split()) <= TOPIC_WORDS else line)


def plain(line: str) -> str:
    """A line without its bullet, in lower case, with single spaces and no closing punctuation."""
    return " ".join(line.removeprefix("- ").casefold().split()).rstrip(" .;,")


def judge(memory: str, targets: Mapping[str, str]) -> list[dict[str, str | None]]:
    """Compares a memory with its target lines.

    Args:
        memory: the text, one line per topic.
        targets: {preference: expected line}, as from `MemoryTargets.lines`.

    Returns:
        A list of {verdict, about, line, target}, one for each target and each extra line. Verdicts: right
        (the memory has
        the line), wrong (it has another line about the topic), missing (it has no line about the topic; line
        is None),
        extra (a line about a topic without a target, or a second line about a topic; about and target are
        None).
    """
    lines = [line.removeprefix("- ") for line in memory.splitlines() if line.strip()]
    left = list(lines)
    found: list[dict[str, str | None]] = []

    def take(target: str, same: Any) -> str | None:
        line = next((line for line in left if same(line) == same(target)), None)
        if line is not None:
            left.remove(line)
        return line

    exact = {key: take(target, plain) for key, target in targets.items()}
    for key, target in targets.items():
        line = exact[key] or take(target, topic_of)
        verdict = "missing" if line is None else "right" if exact[key] is not None else "wrong"
        found.append({"verdict": verdict, "about": key, "line": line, "target": target})
    return found + [{"verdict": "extra", "about": None, "line": line, "target": None} for line in left]


def verdicts(
    split: Split, memories: Mapping[str, str], notes: Mapping[str, MemoryTargets]
) -> list[dict[str, Any]]:
    """The verdicts of `judge` for several memories.

    Args:
        split: the questions and histories.
        memories: {history id: memory}.
        notes: {history id: its targets}.

    Returns:
        The dicts of `judge` with `persona_id`, `history_id` and `kind`: `Labels.kind` of the question about
        the same
        preference, or "other" if there is no such question.
    """
    kinds = {(q.history_id, about(q)): q.labels.kind for q in split.questions}
    rows = []
    for history_id, memory in memories.items():
        history = split.histories[history_id]
        for found in judge(memory, notes[history_id].lines(len(history.messages))):
            kind = kinds.get((history_id, found["about"] or ""), "other")
            rows.append({**found, "persona_id": history.persona_id, "history_id": history_id, "kind": kind})
    return rows


def summarise(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Counts of N >= 1 judged lines, as in `summary.json` under `lines`.

    Returns:
        targets: number of expected lines.
        right, wrong, missing: how many expected lines have each verdict.
        extra: number of lines that are not expected.
        right_rate: right / targets (None without targets).
        ci95: 95 % interval of right_rate over personas (None without targets).
        by: {kind: the same without intervals and extra lines}.
    """
    counts = Counter(row["verdict"] for row in rows)
    wanted = [row for row in rows if row["verdict"] != "extra"]
    kinds = sorted({row["kind"] for row in wanted})
    right = [(row["persona_id"], float(row["verdict"] == "right")) for row in wanted]
    return {
        "targets": len(wanted),
        **{verdict: counts[verdict] for verdict in VERDICTS},
        "right_rate": math.fsum(score for _, score in right) / len(right) if right else None,
        "ci95": interval_of_ratio(*by_persona(right), 0.0, 1.0, seed) if right else None,
        "by": {kind: _of_kind([row for row in wanted if row["kind"] == kind]) for kind in kinds},
    }


def _of_kind(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = Counter(row["verdict"] for row in rows)
    return {
        "targets": len(rows),
        **{verdict: counts[verdict] for verdict in VERDICTS[:3]},
        "right_rate": counts["right"] / len(rows),
    }


def of_memories(split: Split, memories: Mapping[str, str], seed: int = 0) -> dict[str, Any] | None:
    """The summary of {history id: memory}.

    Returns:
        The entries of `summarise` and: memories (their number), withdrawn (number of values that users ask to
        forget),
        withdrawn_present (how many of these the memories still mention). None without memories, or if the
        dataset has no
        memory targets: question labels do not cover everything that a memory may contain.
    """
    if not memories or not has_targets(split):
        return None
    notes = load_memory_targets(split)
    withdrawn = [
        speaks_of(memory, phrase)
        for history, memory in memories.items()
        for phrase in notes[history].withdrawn
    ]
    return {
        **summarise(verdicts(split, memories, notes), seed),
        "memories": len(memories),
        "withdrawn": len(withdrawn),
        "withdrawn_present": sum(withdrawn),
    }


def has_targets(split: Split) -> bool:
    """Whether the dataset contains memory targets."""
    return (split.root / MEMORY_TARGETS).is_file()
