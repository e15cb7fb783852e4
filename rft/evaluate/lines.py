"""What is written: the lines of a memory judged against what the simulator knows it should say.

Invariant: every line of a memory and every line that should be in it is counted once. Both are compared by topic, the words in
front of the first colon; a line is right if it says the same about its topic, letter case, spacing and closing marks aside.
Answers play no part.
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
    """What a line is about: the words in front of its first colon, where they are few; else the whole line."""
    name, colon, _ = line.partition(":")
    return plain(name if colon and len(name.split()) <= TOPIC_WORDS else line)


def plain(line: str) -> str:
    """A line without its bullet, in lower case, with single spaces and no closing mark."""
    return " ".join(line.removeprefix("- ").casefold().split()).rstrip(" .;,")


def judge(memory: str, targets: Mapping[str, str]) -> list[dict[str, str | None]]:
    """Each line that should be in a memory, and each that should not be, as {verdict, about, line, target}.

    targets: {what it is about: line}, as `MemoryTargets.lines` has them. right: the memory has the line; wrong: it says
    something else about the topic; missing: it says nothing about it (line None); extra: a line about a topic that no target
    has, or a second line about one (about and target None).
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


def verdicts(split: Split, memories: Mapping[str, str], notes: Mapping[str, MemoryTargets]) -> list[dict[str, Any]]:
    """The lines of several memories ({history id: memory}), as `judge` has them, with `persona_id`, `history_id` and `kind`: that
    of the question about the same (`Labels.kind`), "other" where none is asked."""
    kinds = {(q.history_id, about(q)): q.labels.kind for q in split.questions}
    rows = []
    for history_id, memory in memories.items():
        history = split.histories[history_id]
        for found in judge(memory, notes[history_id].lines(len(history.messages))):
            kind = kinds.get((history_id, found["about"] or ""), "other")
            rows.append({**found, "persona_id": history.persona_id, "history_id": history_id, "kind": kind})
    return rows


def summarise(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Counts of N >= 1 judged lines, as they stand in `summary.json` under `lines`.

    Returns:
        targets: lines that should be there; right, wrong, missing: what became of them; extra: lines that should not be there;
        right_rate: right / targets, with its 95 % interval over personas, ci95 (both None without targets); by: {kind: the same
        without intervals and extras}.
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
    return {"targets": len(rows), **{verdict: counts[verdict] for verdict in VERDICTS[:3]},
            "right_rate": counts["right"] / len(rows)}


def of_memories(split: Split, memories: Mapping[str, str], seed: int = 0) -> dict[str, Any] | None:
    """What `summarise` says of {history id: memory}; memories: their number; withdrawn: values that their users ask to forget,
    and withdrawn_present: how many of them the memories speak of. None without memories, or where the dataset has no targets
    of its own: labels do not say all that a memory may hold."""
    if not memories or not has_targets(split):
        return None
    notes = load_memory_targets(split)
    withdrawn = [speaks_of(memory, phrase) for history, memory in memories.items() for phrase in notes[history].withdrawn]
    return {
        **summarise(verdicts(split, memories, notes), seed),
        "memories": len(memories),
        "withdrawn": len(withdrawn),
        "withdrawn_present": sum(withdrawn),
    }


def has_targets(split: Split) -> bool:
    """Whether the dataset says what a memory should hold."""
    return (split.root / MEMORY_TARGETS).is_file()
