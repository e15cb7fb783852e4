"""Quality of written memories: their lines, compared with the lines that the simulator expects.

Invariant: every line of a memory and every expected line is counted once. Both are matched by topic, the
words before the first colon. A line is right if it equals the expected line up to letter case, spacing and
closing punctuation. Answers are not used.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from reward.memory import speaks_of
from rft.evaluate.interval import interval
from rft.memory.text import TOPIC_WORDS
from rft.records.summary import LineCounts, Lines
from rft.tasks.base import Split
from rft.tasks.memory_targets import MEMORY_TARGETS, MemoryTargets, about, load_memory_targets

VERDICTS = ("right", "wrong", "missing", "extra")


@dataclass(frozen=True)
class Verdict:
    """The comparison of a memory with one of its targets, or of one line that has none.

    Attributes:
        verdict: right (the memory has the line), wrong (it has another line about the topic), missing (it has
            no line about the topic), extra (a line about a topic without a target, or a second line about a
            topic).
        about: the preference that the line should state (None: extra).
        line: the line of the memory (None: missing).
        target: the expected line (None: extra).
        persona_id, history_id: whose memory it is.
        kind: `Question.kind` of the question about the same preference, "other" if there is none.
    """

    verdict: str
    about: str | None
    line: str | None
    target: str | None
    persona_id: str = ""
    history_id: str = ""
    kind: str = "other"


def topic_of(line: str) -> str:
    """The topic of a line: the words before its first colon if they are few, otherwise the whole line."""
    name, colon, _ = line.partition(":")
    return plain(name if colon and len(name.split()) <= TOPIC_WORDS else line)


def plain(line: str) -> str:
    """A line without its bullet, in lower case, with single spaces and no closing punctuation."""
    return " ".join(line.removeprefix("- ").casefold().split()).rstrip(" .;,")


def judge(memory: str, targets: Mapping[str, str]) -> list[Verdict]:
    """Compares a memory with its target lines.

    Args:
        memory: the text, one line per topic.
        targets: {preference: expected line}, as from `MemoryTargets.lines`.

    Returns:
        One verdict for each target and each extra line.
    """
    lines = [line.removeprefix("- ") for line in memory.splitlines() if line.strip()]
    left = list(lines)
    judged: list[Verdict] = []

    def take(target: str, same: Callable[[str], str]) -> str | None:
        line = next((line for line in left if same(line) == same(target)), None)
        if line is not None:
            left.remove(line)
        return line

    exact = {key: take(target, plain) for key, target in targets.items()}
    for key, target in targets.items():
        line = exact[key] or take(target, topic_of)
        verdict = "missing" if line is None else "right" if exact[key] is not None else "wrong"
        judged.append(Verdict(verdict, key, line, target))
    return judged + [Verdict("extra", None, line, None) for line in left]


def verdicts(split: Split, memories: Mapping[str, str], notes: Mapping[str, MemoryTargets]) -> list[Verdict]:
    """The verdicts of `judge` for several memories.

    Args:
        split: the questions and histories.
        memories: {history id: memory}.
        notes: {history id: its targets}.
    """
    kinds = {(q.history_id, about(q)): q.kind for q in split.questions}
    rows = []
    for history_id, memory in memories.items():
        history = split.histories[history_id]
        for verdict in judge(memory, notes[history_id].lines(len(history.messages))):
            kind = kinds.get((history_id, verdict.about or ""), "other")
            rows.append(replace(verdict, persona_id=history.persona_id, history_id=history_id, kind=kind))
    return rows


def summarise(judged: Sequence[Verdict], seed: int = 0) -> Lines:
    """Counts of N >= 1 judged lines, as in `summary.json` under `lines`."""
    expected = [one for one in judged if one.verdict != "extra"]
    kinds = sorted({one.kind for one in expected})
    correct = [(one.persona_id, float(one.verdict == "right")) for one in expected]
    return Lines(
        **_counts(expected).dump(),
        extra=len(judged) - len(expected),
        ci95=interval(correct, seed) if correct else None,
        by={kind: _counts([one for one in expected if one.kind == kind]) for kind in kinds},
    )


def _counts(expected: Sequence[Verdict]) -> LineCounts:
    counts = Counter(one.verdict for one in expected)
    return LineCounts(
        targets=len(expected),
        right=counts["right"],
        wrong=counts["wrong"],
        missing=counts["missing"],
        right_rate=counts["right"] / len(expected) if expected else None,
    )


def of_memories(split: Split, memories: Mapping[str, str], seed: int = 0) -> Lines | None:
    """The summary of {history id: memory}.

    Returns:
        The entries of `summarise` and: memories (their number), withdrawn (number of values that users ask to
        forget), withdrawn_present (how many of these the memories still mention). None without memories, or
        if the dataset has no memory targets: question labels do not cover everything that a memory may
        contain.
    """
    if not memories or not has_targets(split):
        return None
    notes = load_memory_targets(split)
    withdrawn = [
        speaks_of(memory, phrase)
        for history, memory in memories.items()
        for phrase in notes[history].withdrawn
    ]
    counted = summarise(verdicts(split, memories, notes), seed)
    of_all = {"memories": len(memories), "withdrawn": len(withdrawn), "withdrawn_present": sum(withdrawn)}
    return counted.model_copy(update=of_all)


def has_targets(split: Split) -> bool:
    """Whether the dataset contains memory targets."""
    return (split.root / MEMORY_TARGETS).is_file()
