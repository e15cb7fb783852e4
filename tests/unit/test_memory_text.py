"""Whatever a model or a user writes becomes a memory of whole bullets within its budget, or leaves the one
before."""

import pytest

from rft.errors import DataError
from rft.memory import text
from rft.memory.text import Update, accept, bullets, changes


def words(memory: str) -> int:
    return len(memory.split())


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("- a b\n- c", ["a b", "c"]),
        ("Here is the memory:\n* a\n• b\n1. c\n2) d", ["a", "b", "c", "d"]),
        ("<think>- not this</think>\n- this", ["this"]),
        ("- not this, the block was opened in the prompt</think>- this", ["this"]),
        ("- this\n<think>- not this, it is never closed", ["this"]),
        ("-dash without space\n--\n- \n-", []),
        ("  - nested   and\tspaced ", ["nested and spaced"]),
        ("", []),
        ("\x00\xff noise", []),
        ("- tea: \x1b[31mred\x1b[0m\x9b and\x07 green\r\n- b\x0b\u2028c\x85", ["tea: red and green", "b c"]),
    ],
)
def test_bullets(written, found):
    assert bullets(written) == found


def test_an_update_within_budget_is_taken_whole():
    assert accept("- a\n- b", "- old", finished=True, budget=4, count=words) == Update("- a\n- b")


def test_an_over_long_update_is_cut_at_its_last_whole_bullet():
    assert accept("- a\n- b\n- c d", "- old", finished=True, budget=5, count=words) == Update(
        "- a\n- b", cut=True
    )
    assert accept("- a\n- b\n- c ha", "- old", finished=False, budget=99, count=words) == Update(
        "- a\n- b", cut=True
    )


@pytest.mark.parametrize(
    ("written", "finished"),
    [
        ("", True),
        ("I cannot do that.", True),
        ("<think>- a", False),
        ("- hal", False),
        ("- one bullet beyond the budget of five", True),
    ],
)
def test_nothing_usable_keeps_the_previous_memory(written, finished):
    update = accept(written, "- old", finished, budget=5, count=words)
    assert update.memory == "- old"
    assert update.empty


def test_a_bullet_written_twice_is_kept_once():
    assert accept("- tea\n- jazz\n- tea\n- jazz\n- te", "", False, 100, words) == Update(
        "- tea\n- jazz", cut=True
    )


def test_what_a_line_says_to_forget_is_not_stored():
    written = (
        "- music: Enjoys jazz, forget it.\n- Plays golf; forget that\n- What I told of my cats: many, forget"
        " it\n"
    )
    written += "- tea: green"
    assert accept(written, "- old", finished=True, budget=9, count=words) == Update(
        "- music: forgotten.\n- tea: green"
    )
    assert accept(
        "- Plays golf, forget it.", "- Plays golf.", finished=True, budget=9, count=words
    ) == Update("")
    assert (
        accept("- Never wants to forget it all", "", finished=True, budget=9, count=words).memory
        == "- Never wants to forget it all"
    )


def test_a_memory_may_be_emptied_in_so_many_words():
    assert accept("(empty)", "- old", finished=True, budget=5, count=words) == Update("")
    assert accept("(empty)", "- old", finished=False, budget=5, count=words).memory == "- old"


@pytest.mark.parametrize(
    ("edited", "said"),
    [
        ("- a\nfree text", r"m.md: line 2 is not a bullet \('free text'\)"),
        ("- a\x00b", "line 1 contains control characters"),
        ("- a b c d e", "m.md: 6 tokens, but at most 5 are allowed"),
    ],
)
def test_nonsense_in_an_edited_memory_is_named(edited, said):
    with pytest.raises(DataError, match=said):
        text.read(edited, "m.md", 5, words)


def test_an_edited_memory_reads_as_it_is():
    assert text.read("- a\r\n\r\n- b  \n", "m.md", 5, words) == "- a\n- b"
    assert text.read("* a\n  1. b", "m.md", 5, words) == "- a\n- b"
    assert text.read("", "m.md", 5, words) == ""


def test_what_is_stored_can_be_read_again():
    """Whatever the model writes, character by character."""
    for character in map(chr, [*range(0x100), 0x2028, 0x2029, 0xFEFF, 0x202E]):
        for written in (
            f"- a{character}b",
            f"- {character}",
            f"{character}- a",
            f"- a: b{character}, forget it",
        ):
            stored = accept(written, "", finished=True, budget=9, count=words).memory
            assert text.read(stored, "m.md", 9, words) == stored


def test_changes_of_lines():
    assert changes("- a\n- b\n- c", "- a\n- B\n- c\n- d") == [
        ("kept", "- a"),
        ("removed", "- b"),
        ("added", "- B"),
        ("kept", "- c"),
        ("added", "- d"),
    ]
