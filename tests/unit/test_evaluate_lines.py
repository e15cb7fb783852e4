"""What is written, judged: memories whose judgement is known."""

import json
import shutil

import pytest

from rft.evaluate.lines import judge, of_memories, summarise, topic_of, verdicts
from rft.records.summary import Lines
from rft.tasks.load import load_split
from rft.tasks.memory_targets import MEMORY_TARGETS, about, load_memory_targets

TARGETS = {
    "Enjoys listening to jazz": "music: Enjoys listening to rock.",
    "Enjoys caring for cats": "pets: forgotten.",
    "Enjoys eating figs": "fruit: Enjoys eating figs, not the user's own.",
    "Enjoys solving mazes": "games: Gave up solving mazes.",
}


def memory(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (TARGETS.values(), ["right"] * 4),
        ((), ["missing"] * 4),
        (("Music:  enjoys listening to ROCK", "pets: forgotten;"), ["right", "right", "missing", "missing"]),
        # the value given up
        (("music: Enjoys listening to jazz.",), ["wrong", "missing", "missing", "missing"]),
        # withdrawn, and still there
        (("pets: Enjoys caring for cats.",), ["missing", "wrong", "missing", "missing"]),
        # somebody else's, as the user's own
        (("fruit: Enjoys eating figs.",), ["missing", "missing", "wrong", "missing"]),
        (("games: Enjoys solving mazes.",), ["missing", "missing", "missing", "wrong"]),
        (("books: Enjoys reading novels.",), ["missing"] * 4 + ["extra"]),
        (
            ("music: Enjoys listening to jazz.", "music: Enjoys listening to rock."),
            ["right", "missing", "missing", "missing", "extra"],  # it says both
        ),
        (("Enjoys listening to rock.",), ["missing"] * 4 + ["extra"]),  # about no topic
    ],
)
def test_every_line_is_judged_once(lines, expected):
    lines = list(lines)
    found = judge(memory(*lines), TARGETS)
    assert [row.verdict for row in found] == expected
    assert sorted(row.line for row in found if row.line is not None) == sorted(lines)
    assert [row.target for row in found if row.target is not None] == list(TARGETS.values())


def test_two_targets_of_one_topic_are_told_apart():
    targets = {"a": "pets: forgotten.", "b": "pets: Enjoys caring for dogs."}
    assert [row.verdict for row in judge(memory("pets: Enjoys caring for dogs."), targets)] == [
        "missing",
        "right",
    ]
    assert [row.verdict for row in judge(memory("pets: forgotten.", "pets: no dogs"), targets)] == [
        "right",
        "wrong",
    ]


def test_a_topic_is_what_stands_before_the_first_colon_if_it_is_short():
    assert topic_of("- Pets: Enjoys caring for dogs: two.") == "pets"
    assert topic_of("The user said a lot: jazz") == "the user said a lot: jazz"


def test_the_targets_themselves_are_all_right_and_each_error_counts_in_its_kind(mini_data):
    split = load_split(mini_data, "benchmark")
    notes = load_memory_targets(split)
    last = {history: of.memory(len(split.histories[history].messages)) for history, of in notes.items()}
    whole = of_memories(split, last)
    assert whole.right_rate == 1 and whole.right == whole.targets == sum(
        len(m.splitlines()) for m in last.values()
    )
    assert (whole.wrong, whole.missing, whole.extra, whole.withdrawn_present) == (0, 0, 0, 0)
    assert whole.withdrawn == sum(len(of.withdrawn) for of in notes.values()) > 0
    assert set(whole.by) == {"plain", "changed", "withdrawn", "others"}
    question = next(q for q in split.questions if q.kind == "withdrawn")
    target = notes[question.history_id].lines(10**6)[about(question)]
    kept = target.partition(":")[0] + f": {about(question)}."
    broken = last | {question.history_id: last[question.history_id].replace(target, kept)}
    found = of_memories(split, broken)
    assert found.by["withdrawn"].wrong == found.wrong == found.withdrawn_present == 1
    assert found.right == whole.right - 1 and found.by["plain"] == whole.by["plain"]
    nothing = summarise(verdicts(split, {question.history_id: ""}, notes))
    assert nothing.right_rate == 0 and nothing.missing == nothing.targets


def test_labels_alone_are_no_targets(mini_data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(mini_data, folder)
    (folder / MEMORY_TARGETS).unlink()
    split = load_split(folder, "val")
    assert of_memories(split, {next(iter(split.histories)): "- music: jazz."}) is None
    assert of_memories(load_split(mini_data, "val"), {}) is None


def test_a_summary_is_plain_json(mini_data):
    split = load_split(mini_data, "val")
    found = of_memories(split, dict.fromkeys(split.histories, "- music: Enjoys listening to jazz."))
    assert Lines.parse(json.dumps(found.dump()), "lines", "") == found
