r"""The multiple-choice reward: what it pays for, and every way found to be paid without a proper answer.

Most cases are a completion and the letter that scores 1 ("-": none of the four does).
"""

import itertools

import pytest

from reward import has_reasoning, mcq_letter, personamem, read
from reward.mcq import lenient_letter

THOUGHT = "<think>\nThe user said so in spring.\n</think>\n\n"


def paid_letters(completion):
    """The gold letters for which `completion` scores 1, as one string; "-" if there are none."""
    scores = personamem([completion] * 4, answer=list("abcd"))
    assert set(scores) <= {0.0, 1.0}
    return "".join(letter for letter, score in zip("abcd", scores, strict=True) if score) or "-"


@pytest.mark.parametrize(
    ("completion", "paid"),
    [
        (THOUGHT + r"\boxed{b}", "b"),
        (THOUGHT + r"You like rowing, so $\boxed{D}$. Have fun!", "d"),
        (THOUGHT + r"\boxed{(c)}", "c"),
        (THOUGHT + r"\boxed{\text{a}}", "a"),
        (THOUGHT + r"\boxed{\text{(A)}}", "a"),
        (THOUGHT + r"\boxed{(\text{a})}", "a"),
        (THOUGHT + "\\boxed {\n ( b )\t}", "b"),
        (THOUGHT + r"\boxed{b}, yes, \boxed{(B)}", "b"),
        (THOUGHT + r"As asked, in \boxed{letter}: \boxed{b}", "b"),
        (THOUGHT + r"As asked, in \boxed and in braces: \boxed{b}", "b"),
        (THOUGHT + r"You eat \boxed{bread}, so \boxed{b}", "b"),
        (THOUGHT + r"\boxed{}\boxed{b}", "b"),
        # boxes of other content, in any order
        (THOUGHT + r"\boxed{b}\boxed{}", "b"),
        (THOUGHT + r"\boxed{42}\boxed{b}", "b"),
        (THOUGHT + r"\boxed{b}\boxed{42}", "b"),
        (THOUGHT + r"\boxed{b}\boxed{e}", "b"),
        (THOUGHT + r"\boxed{b}, so you eat \boxed{bread}", "b"),
        # the chat template opened the think block in the prompt
        ("The user said so.\n</think>\n\\boxed{b}", "b"),
        ("The user said so. <think> Again. </think> Yes. </think>\\boxed{b}", "b"),
        # a box in the reasoning is thinking aloud, whatever it says
        (r"<think>Maybe \boxed{a}, maybe \boxed{c}.</think>\boxed{b}", "b"),
        (r"<think>I am to write <think> and </think> tags. \boxed{a}</think>\boxed{b}", "b"),
        (r"<think>用户喜欢茶</think>\boxed{b}", "b"),
    ],
)
def test_a_proper_answer_is_paid(completion, paid):
    assert paid_letters(completion) == paid
    assert paid_letters([{"role": "assistant", "content": completion}]) == paid


@pytest.mark.parametrize(
    "completion",
    [
        "",
        " \n",
        r"\boxed{b}",
        r"The user said so in spring. \boxed{b}",
        # no reasoning inside the tags
        r"<think></think>\boxed{b}",
        "<think>\n\n</think>\n\n\\boxed{b}",
        r"</think>\boxed{b}",
        r"The user said so. <think></think>\boxed{b}",
        r"<think></think>The user said so.<think> </think>\boxed{b}",
        r"<think></think>The user said so.</think>\boxed{b}",
        r"<think><think></think></think>\boxed{b}",
        "<think>...</think>\\boxed{b}",
        "<think>\u200b\u2800\ufeff\u3164\uffa0\x00</think>\\boxed{b}",
        # no answer after them
        r"<think>The user said so: \boxed{b}</think>",
        "<think>The user said so: \\boxed{b}</think>\n",
        r"\boxed{b}<think>The user said so.</think>",
        # a block that never closes
        r"<think>The user said so. \boxed{b}",
        r"<think>The user said so. <think>Indeed.</think>\boxed{b}",
        THOUGHT + r"<think>\boxed{b}",
        THOUGHT + r"\boxed{b}<think>",
        THOUGHT + r"\boxed{b}<think>Or else \boxed{c}",
        THOUGHT + r"\boxed{a}<think>\boxed{b}",
        # tags that are none
        r"<THINK>The user said so.</THINK>\boxed{b}",
        r"<think >The user said so.</think >\boxed{b}",
        r"<thinking>The user said so.</thinking>\boxed{b}",
        r"＜think＞The user said so.＜/think＞\boxed{b}",
        r"<think>The user said so.<\think>\boxed{b}",
        r"<think>The user said so.<think/>\boxed{b}",
    ],
)
def test_the_gate_pays_nothing_without_reasoning_and_an_answer(completion):
    assert paid_letters(completion) == "-"
    assert not has_reasoning(completion)


@pytest.mark.parametrize(
    "answer",
    [
        "b",
        "The answer is (b).",
        r"The answer is **b**, so \boxed{}",
        # more than one letter in one box
        r"\boxed{a, b}",
        r"\boxed{ab}",
        r"\boxed{abcd}",
        r"\boxed{a}{b}\boxed{b}",
        r"\boxed{a/b}",
        r"\boxed{\text{a}\text{b}}",
        r"\boxed{b}\boxed{a}",
        r"\boxed{a}\boxed{b}\boxed{c}\boxed{d}",
        r"\boxed{b}\boxed{a}\boxed{b}",
        r"\boxed{a or b} I mean \boxed{b}",
        r"\boxed{\text{a} or \text{c}} I mean \boxed{b}",
        r"\boxed{\frac{{a}}{2}} I mean \boxed{b}",
        "\\boxed{a}\x00\\boxed{b}",
        # cut off in a last box
        r"\boxed{b} and so \boxed",
        r"\boxed{b}\boxed{b",
        # cut off before the box closes
        r"\boxed",
        r"\boxed{",
        r"\boxed{b",
        r"\boxed{\text{b",
        r"\boxed{\text{b}",
        r"\boxed{(b)",
        r"\boxed{a \boxed{b}",
        r"\boxed{\boxed{b}",
        # boxes that are none
        r"\boxed b",
        r"\boxed(b)",
        r"\boxed\{b\}",
        r"\boxed}b{",
        r"\boxed{(b}",
        r"\boxed{b)}",
        r"\boxed{(b) you like rowing}",
        r"\boxed{b.}",
        r"\boxed{{b}}",
        r"\boxed{\textbf{b}}",
        r"\boxed{\boxed{a}\boxed{b}}",
        r"\Boxed{b}",
        r"\boxes{b}",
        r"\boxedb{b}",
        r"boxed{b}",
        r"\fbox{b}",
        "\boxed{b}",
        # look-alikes: Cyrillic ve and a, full width, mathematical bold, circled, combining dot, zero-width
        "\\boxed{\u0432}",
        "\\boxed{\u0430}",
        "\\boxed{\uff42}",
        "\\boxed{\U0001d41b}",
        "\\boxed{\u24d1}",
        "\\boxed{b\u0323}",
        "\\boxed{\u200bb}",
        "\\boxed{\x00b}",
        "\\b\u200boxed{b}",
        "\uff3cboxed{b}",
        "\\boxed\uff5bb\uff5d",
    ],
)
def test_no_letter_is_guessed(answer):
    completion = THOUGHT + answer
    assert has_reasoning(completion)
    assert mcq_letter(completion) is None
    assert paid_letters(completion) == "-"


def test_only_what_follows_the_last_closing_tag_is_the_answer():
    assert paid_letters(THOUGHT + r"\boxed{a}" + THOUGHT + r"\boxed{b}") == "b"
    assert paid_letters(THOUGHT + r"\boxed{a}</think>\boxed{b}") == "b"
    assert paid_letters(THOUGHT + r"\boxed{a}" + THOUGHT + "so be it") == "-"


def test_no_short_sequence_of_pieces_is_paid_for_two_letters_or_without_reasoning():
    """Every completion of up to six pieces: at most one letter is paid, and only for the proper form."""
    pieces = ["<think>", "</think>", "word", r"\boxed{a}", r"\boxed{b}", r"\boxed{"]
    seen = set()
    for length in range(7):
        for chosen in itertools.product(pieces, repeat=length):
            completion = "".join(chosen)
            before, closed, after = completion.rpartition("</think>")
            paid = paid_letters(completion)
            seen.add(paid)
            if paid == "-":
                continue
            assert closed and any(said in before for said in ("word", r"\boxed")), completion
            assert after.replace("word", "") == rf"\boxed{{{paid}}}" * after.count(r"\boxed"), completion
    assert seen == {"a", "b", "-"}


def test_the_letter_alone_does_not_ask_for_reasoning():
    assert mcq_letter(r"The user said so. \boxed{B}") == "b"
    assert mcq_letter(r"<think>The user said so. \boxed{b}") is None
    assert not has_reasoning(r"The user said so. \boxed{B}")


def test_a_prefix_of_an_answer_is_paid_only_once_its_box_closes():
    completion = THOUGHT + r"My answer: \boxed{\text{(b)}} as ever"
    closes = completion.index("}}") + 2
    for end in range(len(completion) + 1):
        assert paid_letters(completion[:end]) == ("b" if end >= closes else "-")


def test_messages_are_scored_by_the_last_one():
    good, bad = THOUGHT + r"\boxed{b}", "Let me look it up."
    assistant, tool = "assistant", "tool"
    assert paid_letters([{"role": assistant, "content": bad}, {"role": assistant, "content": good}]) == "b"
    assert paid_letters([{"role": assistant, "content": good}, {"role": assistant, "content": bad}]) == "-"
    assert paid_letters([{"role": assistant, "content": bad}, {"role": tool, "content": good}]) == "-"
    assert paid_letters([{"content": good}]) == "b"
    assert paid_letters([{"role": assistant, "content": None}]) == "-"
    assert paid_letters([{"role": assistant}]) == "-"
    assert paid_letters([]) == "-"


@pytest.mark.parametrize(
    ("reasoning", "content", "paid"),
    [
        ("The user said so.", r"\boxed{b}", "b"),
        ("<think>\nThe user said so.", r"\boxed{b}", "b"),  # opened in the prompt and again by the model
        ("The user said so. \\boxed{b}", None, "-"),
        ("The user said so.</think>\\boxed{b}", "", "-"),
        (" ", r"\boxed{b}", "-"),
        (None, r"\boxed{b}", "-"),
        ("The user said so.", r"\boxed{b}<think>", "-"),
    ],
)
def test_reasoning_parsed_apart_counts_as_a_think_block(reasoning, content, paid):
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    assert paid_letters([message]) == paid


def test_what_cannot_be_scored_is_none_and_never_zero():
    good = THOUGHT + r"\boxed{b}"
    for completion in (
        None,
        3,
        good.encode(),
        [good],
        [{"content": 3}],
        [{"content": [good]}],
        {"content": good},
    ):
        assert personamem([completion], answer=["b"]) == [None]
        assert mcq_letter(completion) is None
        assert has_reasoning(completion) is False
    assert personamem([good], answer=[None]) == [None]
    assert personamem([good, good, good], answer=["b", None, "B"]) == [1.0, None, 1.0]


@pytest.mark.parametrize("gold", ["b", "B", "(b)", " b ", "b.", "(B)."])
def test_a_gold_letter_may_be_dressed(gold):
    assert personamem([THOUGHT + r"\boxed{b}", THOUGHT + r"\boxed{a}"], answer=[gold, gold]) == [1.0, 0.0]


@pytest.mark.parametrize("gold", ["", "e", "ab", "an open-ended answer", 1])
def test_a_gold_that_is_no_letter_is_refused(gold):
    with pytest.raises(ValueError, match="is not a letter; use one of a, b, c, d, or None"):
        personamem([THOUGHT + r"\boxed{b}"], answer=[gold])


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        (r"\boxed{B.}", "b"),
        (r"\boxed{\textbf{b}}", "b"),
        (r"$\boxed b$", "b"),
        (r"\boxed{(b) You like rowing}", "b"),
        (r"\boxed{b: rowing}", "b"),
        (r"\boxed{$b$}", "b"),
        (r"\boxed{b}", "b"),
        (r"\boxed{B.} or \boxed{c.}", None),
        (r"\boxed{a dog}", None),
        (r"\boxed{bread}", None),
        (r"\boxed{b.", None),
        ("b", None),
    ],
)
def test_a_lenient_reading_stands_beside_the_strict_one(answer, letter):
    assert lenient_letter(THOUGHT + answer) == letter
    assert read(THOUGHT + answer).lenient == letter
    assert mcq_letter(THOUGHT + answer) in (None, letter)


def test_it_takes_whatever_the_trainer_passes():
    def log(*_):
        raise AssertionError("the reward logs nothing of its own")

    completions = [[{"role": "assistant", "content": THOUGHT + r"\boxed{b}"}]] * 2
    scores = personamem(
        prompts=[[{"role": "user", "content": r"\boxed{a}"}]] * 2,
        completions=completions,
        completion_ids=[[1, 2], [3]],
        answer=["b", "c"],
        persona_id=["1", "2"],
        trainer_state=object(),
        log_metric=log,
        log_extra=log,
    )
    assert scores == [1.0, 0.0]
    assert personamem([], answer=[]) == []


def test_a_missing_answer_names_the_counts():
    with pytest.raises(ValueError, match="2 completions but 1 answers"):
        personamem(["", ""], answer=["a"])


@pytest.mark.parametrize(
    "hostile",
    [
        "{" * 100_000,
        "}" * 100_000,
        r"\boxed{" * 15_000,
        r"\boxed{" * 15_000 + "}" * 15_000,
        r"\boxed{a}\boxed{b}" * 5_000,
        r"\boxed{" + " " * 100_000,
        r"\boxed{" + r"\text{" * 20_000,
        r"\boxed{" + "(" * 100_000,
        r"\boxed" * 20_000,
        r"\boxed{a b}" * 10_000,
        "\\" * 100_000,
        "<think>" * 15_000,
        "</think>" * 15_000,
        "<think></think>" * 7_000,
        "<" * 100_000,
        "\u200b" * 100_000,
        "\x00" * 100_000,
        "\ud800" * 100_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hostile_text_is_read_and_not_paid(hostile):
    around = ("%s", THOUGHT + "%s", "<think>%s</think>", "%s</think>", "<think>%s")
    for completion in [text % hostile for text in around]:
        assert paid_letters(completion) == "-"
