"""The dataset card and its counts: contents of the folder, settings, and what can be guessed without reading
the histories.

Invariant: a card does not depend on when or how fast the data was made, so the same data has the same card.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rft.simulate.profile import WORDS
from rft.tasks.audit import table_rows
from rft.tasks.memory_targets import MEMORY_TARGETS

HUB_SPLITS = {"val": "validation", "benchmark": "test"}  # where the name on the Hub is another
LABELS = ("pref_type", "who", "updated", "conversation_scenario")


class Counts:
    """Counts over the rows of a dataset, updated one persona at a time; `windows`: those with histories."""

    def __init__(self, windows: Iterable[str]) -> None:
        self.personas: Counter[str] = Counter()
        self.questions: Counter[str] = Counter()
        self.labels: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
        self.topics: set[str] = set()
        self.preferences = 0
        self.tokens: dict[str, list[int]] = {window: [] for window in windows}

    def add(self, split: str, rows: Sequence[dict[str, Any]]) -> None:
        """Counts the CSV rows of one persona of a split."""
        if not rows:
            return
        self.personas[split] += 1
        self.questions[split] += len(rows)
        self.preferences += len({row["preference"] for row in rows} - {""})
        for window, tokens in self.tokens.items():
            tokens.append(rows[0][f"total_tokens_in_chat_history_{window}"])
        for row in rows:
            for label, counter in self.labels.items():
                counter[str(row[label])] += 1
            if row["pref_type"] != "sensitive_info":
                self.topics.add(row["topic_query"])

    def summary(self) -> dict[str, Any]:
        """The counts as plain JSON; tokens are [minimum, median, maximum] per window."""
        return {
            "personas": dict(self.personas),
            "questions": dict(self.questions),
            "preferences": self.preferences,
            "topics": len(self.topics),
            "labels": {name: dict(sorted(c.items())) for name, c in self.labels.items()},
            "tokens": {window: [min(n), median(n), max(n)] for window, n in self.tokens.items()},
        }


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of each CSV and of the memory targets, and one sha256 for all histories of a window (file names
    and contents, sorted by name)."""
    digests = {}
    for path in (*sorted((folder / "benchmark/text").glob("*.csv")), folder / MEMORY_TARGETS):
        with path.open("rb") as stream:
            digests[str(path.relative_to(folder))] = hashlib.file_digest(stream, "sha256").hexdigest()
    for directory in sorted((folder / "data").glob("chat_history_*")):
        digest = hashlib.sha256()
        for path in sorted(directory.glob("*.json")):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        digests[f"data/{directory.name}"] = digest.hexdigest()
    return digests


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def audit_table(audits: dict[str, dict[str, Any]]) -> str:
    """A Markdown table with one column per audit."""
    rows = table_rows(audits.values())
    return table(["chance 25 %", *audits], [[label, *cells] for label, cells in rows.items()])


def text(record: dict[str, Any]) -> str:
    """The README.md of a simulated dataset."""
    settings, counts = record["settings"], record["counts"]
    front = "\n".join(
        [
            "---",
            f"license: {settings['license']}",
            "language: [en]",
            "task_categories: [question-answering]",
            "tags: [synthetic, personalization, long-context]",
            "configs:",
            "- config_name: default",
            "  data_files:",
            *(
                f"  - {{split: {HUB_SPLITS.get(s, s)}, path: benchmark/text/{s}.csv}}"
                for s in counts["questions"]
            ),
            "---",
        ]
    )
    total, people = sum(counts["questions"].values()), sum(counts["personas"].values())
    tokens = "; ".join(
        f"{window}: {low} to {high}, median {middle:g}"
        for window, (low, middle, high) in counts["tokens"].items()
    )
    counted = f" with the tokenizer `{settings['tokenizer']}`"
    if settings["tokenizer"] == WORDS:
        counted = f": {WORDS}"
    splits = table(
        ["split", "personas", "questions"],
        [[s, f"{counts['personas'][s]:,}", f"{n:,}"] for s, n in counts["questions"].items()],
    )
    labels = table(
        ["label", "value", "questions", "share"],
        [
            [label, value, f"{n:,}", f"{n / total:.1%}"]
            for label, values in counts["labels"].items()
            for value, n in values.items()
        ],
    )
    parts = [
        front,
        f"# {people:,} simulated personas",
        (
            f"{total:,} four-option questions about {counts['preferences']:,} preferences on"
            f" {counts['topics']} topics. The chat histories reveal these preferences only in passing. Layout"
            f" and 27 columns are those of PersonaMem-v2. Tokens per history ({tokens}) are counted over the"
            f" message contents{counted}."
        ),
        (
            f"`{MEMORY_TARGETS}` lists what a memory of each history should contain after each message; it is"
            " for cold starts and reports, never for prompts."
        ),
        "All people and all personal items are synthetic; the items come from ranges reserved for examples.",
        "## Splits (by persona)",
        splits,
        "## Labels",
        labels,
        "## Audit",
        (
            "What can be guessed without reading a history. For fair data, every row that is a score is near"
            " chance."
        ),
        audit_table(record["audit"]),
        "## Settings",
        f"```json\n{json.dumps(settings, indent=1)}\n```",
        "## Hashes (sha256)",
        table(["file", "sha256"], [[name, value] for name, value in record["sha256"].items()]),
    ]
    if record["usage"]:
        reasons = [[reason, str(times)] for reason, times in record["rejected"].items()]
        thrown = table(["rejected because", "times"], reasons or [["-", "0"]])
        parts[-4:-4] = [
            "## Written by an LLM",
            f"```json\n{json.dumps(record['usage'], indent=1)}\n```",
            thrown,
        ]
    return "\n\n".join(parts) + "\n"
