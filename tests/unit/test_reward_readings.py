"""The matcher against a person: real answers of a tiny model, read by hand, must be read alike by
`reward.read`.

readings_by_hand.json holds, for each answer, which option its words name and which its thought names (null:
none, or no single one). "drawn": 100 answers, drawn at random from a cold start (50) and from a run of GRPO
that had learned nonsense (50); a name that breaks off ("Something quite") is read as the only option that
begins so. "odd": the 45 answers of those 4,800 that are like no others, where the matcher has it hardest.
"""

import json
from pathlib import Path

import pytest

from reward import read

ROWS = json.loads(Path(__file__).with_name("readings_by_hand.json").read_text(encoding="utf-8"))
AGREE = {"drawn": (100, 100), "odd": (37, 45)}
"""Rows that are read alike, answer and thought, of how many. What is read otherwise: an option glued to
itself ("EatingEating peaches", 3 rows), a thought that never closes, which is not read (4), and "Practising
the cello, not pear" (1)."""


@pytest.mark.parametrize("group", AGREE)
def test_the_matcher_reads_as_a_person_does(group):
    rows = [row for row in ROWS if row["group"] == group]
    wrong = []
    for row in rows:
        said = read(row["completion"], row["options"])
        if (said.answer_names, said.thought_names) != (row["answer_names"], row["thought_names"]):
            wrong.append((row["completion"], said))
    alike, count = AGREE[group]
    assert len(rows) == count
    assert len(rows) - len(wrong) >= alike, wrong


def test_the_matcher_never_takes_one_option_for_another():
    """Where it reads otherwise than a person it reads nothing, but for one answer in which a person finds no
    single option."""
    taken = []
    for row in ROWS:
        said = read(row["completion"], row["options"])
        for part in ("answer_names", "thought_names"):
            if getattr(said, part) not in (None, row[part]):
                taken.append((row["completion"], row[part]))
    assert [option for _, option in taken] == [None], taken
