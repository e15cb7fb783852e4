"""Which option words name, and the gate that pays for no contradiction between words and box."""

import pytest

from reward import paper, personamem, read
from reward.naming import mentions, named_letter, words

DRINKS = ("Tea", "Green tea", "Black coffee.", "Something quite new.")


@pytest.mark.parametrize(
    ("text", "options", "named"),
    [
        # options that contain one another
        ("Tea it is", DRINKS, "a"),
        ("Green tea it is", DRINKS, "b"),
        ("green  TEA.", DRINKS, "b"),
        ("Tea, or rather green tea? Green tea!", DRINKS, None),
        ("Green tea rather than tea", DRINKS, "b"),
        ("You drink tea and green tea", DRINKS, None),
        ("A steady hand", DRINKS, None),
        ("Teatime", DRINKS, None),
        # equal options
        ("Tea it is", ("Tea", "tea.", "Coffee", "Milk"), None),
        ("Milk it is", ("Tea", "tea.", "Coffee", "Milk"), "d"),
        # other scripts
        ("我喜欢绿茶", ("茶", "绿茶", "咖啡", "水"), "b"),
        ("喝茶吧", ("茶", "绿茶", "咖啡", "水"), "a"),
        ("ดื่มชาเขียว", ("ชา", "ชาเขียว", "กาแฟ", "น้ำ"), "b"),
        ("Я люблю зелёный чай", ("чай", "зелёный чай", "кофе", "вода"), "b"),
        ("crème brûlée", ("Crème brûlée.", "Cake", "Pie", "Jam"), "a"),
        # quotes all, or none
        ("Tea, green tea, black coffee, something quite new", DRINKS, None),
        ("", DRINKS, None),
        ("Water", DRINKS, None),
        # denied in a sentence, named in the next
        ("Not tea. Something quite new", DRINKS, "d"),
        ("You asked to forget tea. Something quite new", DRINKS, "d"),
        ("You gave up tea. Black coffee", DRINKS, "c"),
        ("You don't drink tea", DRINKS, None),
        ("I am done with tea", DRINKS, None),
        # in one sentence, a denial counts for what stands behind it in its clause, else before it
        ("Not tea but green tea", DRINKS, "b"),
        ("Green tea, not tea", DRINKS, "b"),
        ("Green tea instead of tea", DRINKS, "b"),
        ("You asked to forget tea, so black coffee", DRINKS, "c"),
        ("You like black coffee, forget it", DRINKS, None),
        ("Since you don't like milk, black coffee", DRINKS, "c"),
        ("Tea is not for you, black coffee is", DRINKS, "c"),
        ("Tea (a) is not for you, so (c)", DRINKS, "c"),
        # a denial by form alone
        ("No doubt tea", DRINKS, "a"),
        ("Don't forget tea", DRINKS, "a"),
        # an option of several sentences, or with a denial of its own
        ("I say: brew it slow, then wait", ("Brew it slow. Then wait!", "Don't brew", "Sip", "Gulp"), "a"),
        ("So don't brew", ("Brew it slow. Then wait!", "Don't brew", "Sip", "Gulp"), "b"),
        (
            "You do not want what they say: don't brew",
            ("Brew it slow. Then wait!", "Don't brew", "Sip", "Gulp"),
            "b",
        ),
        # a sentence that breaks off within an option
        ("Something quite", DRINKS, "d"),
        ("Something quite\nboxedboxed", DRINKS, "d"),
        ("Something", DRINKS, None),
        ("Something quite different", DRINKS, None),
        ("Doing the", ("Doing the waltz", "Doing the rumba", "Tea", "Milk"), None),
        ("Doing the", ("Doing the waltz", "Going out", "Tea", "Milk"), "a"),
        # a vowel sign belongs to its letter; ornament is no letter
        ("मुझे चाय", ("चाय", "चा", "दूध", "पानी"), "a"),
        ("Gre\u200ben\ufe0f ＴＥＡ", DRINKS, "b"),
        # a letter in parentheses, if the words name no single option
        ("So it is (b)", DRINKS, "b"),
        ("Tea or green tea: (b)", DRINKS, "b"),
        ("(a) or (b)", DRINKS, None),
        ("Black coffee is (b)", DRINKS, "c"),
        ("(e)", DRINKS, None),
        # options of nothing but marks name nothing
        ("Tea", ("...", "Tea", "!", "?"), "b"),
    ],
)
def test_what_words_name(text, options, named):
    assert mentions(text, options).option == named


def test_letters_and_words():
    assert named_letter("Tea is (B).") == "b"
    assert named_letter("(a) and (b)") is None
    assert words("Green tea, please!") == ["green", "tea", "please"]
    assert words("我喜欢茶") == ["我", "喜", "欢", "茶"]


OPTIONS = ("Learning Latin.", "Something quite new.", "Learning Welsh.", "Learning Czech.")
HONEST = r"<think>Remembered: Enjoys learning Latin. Learning Latin is (a).</think>Learning Latin \boxed{a}"
HOLLOW = (
    r"<think>Remembered: Enjoys learning Latin. Learning Latin is (a).</think>Something quite new \boxed{a}"
)
GARBLED = (
    r"<think>Remembered: Enjoys learning Latin. Watching Latin is (a).</think>Something quite"
    r" \boxed{a}boxed{boxed"
)
BARE = r"<think>Remembered: Enjoys learning Latin.</think>\boxed{a}"
OTHERWISE = r"<think>Remembered: Enjoys learning Welsh. Learning Welsh is (c).</think>\boxed{a}"
ONE_WORD = r"<think>Latin</think>Learning Latin \boxed{a}"
DENIED = r"<think>Remembered: Enjoys learning Welsh, not the user's own.</think>Learning Latin \boxed{a}"


@pytest.mark.parametrize(
    ("completion", "off", "contradiction", "naming"),
    [
        (HONEST, 1, 1, 1),
        (HOLLOW, 1, 0, 0),  # what our first headline was made of
        (GARBLED, 1, 0, 0),  # and what another run of it ended in
        (BARE, 1, 1, 0),
        (OTHERWISE, 1, 0, 0),
        (DENIED, 1, 1, 1),
    ],
)
def test_the_gate_pays_for_no_contradiction(completion, off, contradiction, naming):
    for gate, score in (("off", off), ("contradiction", contradiction), ("naming", naming)):
        assert personamem([completion], ["a"], options=[OPTIONS], consistency_gate=gate) == [score]
        assert personamem([completion], ["b"], options=[OPTIONS], consistency_gate=gate) == [0.0]
    assert paper([completion], ["a"], options=[OPTIONS]) == [1.0]


def test_a_thought_of_one_word_is_below_a_floor_of_three():
    assert personamem([ONE_WORD, HONEST], ["a", "a"], min_thought_words=3) == [0.0, 1.0]
    assert personamem([ONE_WORD], ["a"]) == [1.0]


def test_the_gate_needs_options_and_a_name_that_it_knows():
    with pytest.raises(ValueError, match="pass the column `options`"):
        personamem([HONEST], ["a"], consistency_gate="naming")
    with pytest.raises(ValueError, match="'strict': expected one of off, contradiction, naming"):
        personamem([HONEST], ["a"], options=[OPTIONS], consistency_gate="strict")
    with pytest.raises(ValueError, match="1 completions but 2 lists of options"):
        personamem([HONEST], ["a"], options=[OPTIONS, OPTIONS])
    assert personamem([HONEST, HONEST], ["a", None], options=[OPTIONS, None], consistency_gate="naming") == [
        1.0,
        None,
    ]


def test_a_completion_is_read_once():
    assert read(HONEST, OPTIONS) is read([{"role": "assistant", "content": HONEST}], tuple(OPTIONS))
    assert read(HONEST) != read(HONEST, OPTIONS)


def test_readings_of_broken_completions():
    empty = read(r"<think></think>Learning Latin \boxed{a}", OPTIONS)
    assert (empty.letter, empty.thought_words, empty.reasons, empty.consistent) == ("a", 0, False, True)
    cut = read(r"<think>Enjoys learning Latin.</think>Learning Latin \boxed{a", OPTIONS)
    assert (cut.letter, cut.answer_names, cut.consistent) == (None, "a", False)
    everything = read("<think>Let me see.</think>" + " ".join(OPTIONS) + r" \boxed{a}", OPTIONS)
    assert (everything.answer_names, everything.consistent) == (None, True)


def test_with_a_gate_an_answer_that_was_cut_off_is_paid_nothing():
    asked = {"completions": [HONEST, HONEST, HOLLOW], "answer": ["a", "a", None], "options": [OPTIONS] * 3}
    cut = {"finished": [True, False, False]}
    assert personamem(**asked, **cut, consistency_gate="contradiction") == [1.0, 0.0, None]
    assert personamem(**asked, **cut) == [1.0, 1.0, None]
