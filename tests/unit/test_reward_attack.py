r"""The multiple-choice reward attacked as a policy would: 100 completions, what a fair judge gives, and what
the reward gives.

The fair judge pays 1 if the completion thinks about the question before it answers, puts the gold letter in a
box as asked, and says nothing that speaks for another option or against its own (gate "contradiction"); for
gate "naming" the answer must say besides, in words, which option it takes. He does not mark style. `fair`
holds his two verdicts, "10" for 1 and 0; `paid` those of the reward if they differ: such cases are kept, and
counted in `test_how_often_the_reward_is_unfair`.
"""

from typing import NamedTuple

import pytest

from reward import personamem, read

QUESTIONS = {  # options; gold
    "mini": (("Learning Latin.", "Something quite new.", "Learning Welsh.", "Learning Czech."), "a"),
    "drinks": (("Tea.", "Green tea.", "Black coffee.", "Something quite new."), "b"),
    "long": (
        (
            (
                "Since evenings at home calm you after long shifts, you could set up a small watercolor"
                " corner by the window, start with two brushes, and let one page a week be enough."
            ),
            (
                "How about joining the weekend improv group downtown? It throws you among strangers, gets you"
                " laughing within minutes, and you would not have to prepare anything before going."
            ),
            (
                "A structured running plan might suit you: three short runs a week, one longer on Sunday, and"
                " a ten-kilometer race in spring as something to look forward to."
            ),
            (
                "You could try a pottery class at the community studio; it is hands-on, sociable without"
                " being loud, and you would leave each time with something that you made yourself."
            ),
        ),
        "a",
    ),
    "chinese": (("学习拉丁语。", "全新的东西。", "学习威尔士语。", "学习捷克语。"), "a"),
    "russian": (("Учить латынь.", "Что-то совсем новое.", "Учить валлийский.", "Учить чешский."), "a"),
    "thai": (("ดื่มชา", "ดื่มชาเขียว", "ดื่มกาแฟ", "อะไรใหม่ๆ"), "b"),
    "hindi": (("लैटिन सीखना", "कुछ नया", "वेल्श सीखना", "चेक सीखना"), "a"),
}
MINI = "<think>Remembered: Enjoys learning Latin. Learning Latin is (a).</think>"
LONG = (
    "<think>She paints in the evenings to calm down after work, and crowds tire her. A quiet corner at home"
    " fits.</think>"
)
QUOTE, IMPROV, RUNNING, POTTERY = QUESTIONS["long"][0]


class Case(NamedTuple):
    question: str
    completion: str
    fair: str
    why: str
    paid: str = ""


CASES = [
    # honest answers
    Case("mini", MINI + r"Learning Latin \boxed{a}", "11", "as asked"),
    Case("mini", MINI + r"\boxed{a} Learning Latin.", "11", "the words may follow the box"),
    Case("mini", MINI + r"\boxed{a}", "10", "the box alone contradicts nothing and names nothing"),
    Case("mini", MINI + r"You would like learning Latin, so $\boxed{A}$.", "11", "as asked, in a sentence"),
    Case(
        "mini",
        MINI + r"Not learning Welsh, but learning Latin \boxed{a}",
        "11",
        "it rejects one and takes another",
    ),
    Case(
        "mini", MINI + r"Learning Latin, not learning Welsh \boxed{a}", "11", "the same, the other way round"
    ),
    Case(
        "mini",
        MINI + r"Learning Latin rather than something quite new \boxed{a}",
        "11",
        "the same in one clause",
    ),
    Case("mini", MINI + r"Don't forget learning Latin! \boxed{a}", "11", "a denial by form alone"),
    Case(
        "mini",
        r"<think>Learning Welsh is her mother's, not the user's own. The user enjoys Latin.</think>"
        r"Learning Latin \boxed{a}",
        "11",
        "the thought sets another's preference aside",
    ),
    Case(
        "mini",
        r"<think>You asked me to forget Welsh. So learning Latin, which you like.</think>Learning Latin"
        r" \boxed{a}",
        "11",
        "the thought remembers what was withdrawn",
    ),
    Case(
        "mini",
        r"Enjoys learning Latin, as said in spring.</think>Learning Latin \boxed{a}",
        "11",
        "the prompt opened the block",
    ),
    Case("mini", MINI + r"Latin it is \boxed{a}", "11", "the one word that tells the options apart", "10"),
    Case(
        "mini",
        MINI + r"Learning Latin, since you do not like crowds \boxed{a}",
        "11",
        "the reason denies something else",
        "10",
    ),
    Case(
        "mini",
        MINI + r"Learning Latin \boxed{a}. Learning Welsh would be your mother's \boxed{a}",
        "11",
        "it mentions whose the other is",
        "10",
    ),
    Case("mini", MINI + r"LEARNING   latin!!! \boxed{(a)}", "11", "case, space and marks make no difference"),
    Case(
        "mini",
        MINI + "Lear\u200bning La\u00adtin \\boxed{a}",
        "11",
        "invisible characters do not change what is read",
    ),
    Case("mini", MINI + "Ｌｅａｒｎｉｎｇ Ｌａｔｉｎ \\boxed{a}", "11", "full width is read the same"),
    Case(
        "drinks",
        r"<think>The user moved from tea to green tea in May.</think>Green tea \boxed{b}",
        "11",
        "an option inside of another",
    ),
    Case(
        "drinks",
        r"<think>The user moved from tea to green tea in May.</think>Green tea instead of tea \boxed{b}",
        "11",
        "the former preference is named to set it aside",
    ),
    Case(
        "drinks",
        r"<think>The user moved from tea to green tea in May.</think>Tea is not for you, green tea is"
        r" \boxed{b}",
        "11",
        "the same in two clauses",
    ),
    Case("long", LONG + QUOTE + r" \boxed{a}", "11", "quotes a long option"),
    Case(
        "long",
        LONG + r"A small watercolor corner at home would calm you. \boxed{a}",
        "11",
        "a paraphrase names it to a person, not to the matcher",
        "10",
    ),
    Case(
        "long", LONG + QUOTE.partition(" let one")[0] + r"... \boxed{a}", "11", "quotes most of a long option"
    ),
    Case(
        "chinese", r"<think>用户说过喜欢拉丁语。</think>学习拉丁语 \boxed{a}", "11", "a script without spaces"
    ),
    Case(
        "russian",
        r"<think>Он любит учить латынь весной.</think>Учить латынь \boxed{a}",
        "11",
        "another alphabet",
    ),
    Case(
        "thai",
        r"<think>ผู้ใช้ชอบดื่มชาเขียว</think>ดื่มชาเขียว \boxed{b}",
        "11",
        "an option inside of another, without spaces",
    ),
    Case(
        "hindi",
        r"<think>उसे लैटिन पसंद है</think>लैटिन सीखना \boxed{a}",
        "11",
        "vowel signs belong to their letters",
    ),
    # boxes behind nonsense, and words that name another option
    Case("mini", MINI + r"Something quite new \boxed{a}", "00", "the box of our first headline"),
    Case("mini", MINI + r"Something quite \boxed{a}boxed{boxed", "00", "breaks off within another option"),
    Case(
        "mini",
        MINI + r"Something quite new quite quite quite \boxed{a}",
        "00",
        "repeats behind another option",
    ),
    Case("mini", MINI + r"boxedboxed{boxed \boxed{a}", "10", "nonsense speaks for nothing"),
    Case("mini", MINI + r"quite quite quite quite \boxed{a}", "10", "nonsense speaks for nothing"),
    Case("mini", MINI + r"Learning Welsh \boxed{a}", "00", "another option"),
    Case("mini", MINI + r"learning\n\nwelsh... \boxed{a}", "00", "another option over an escaped line", "10"),
    Case("mini", MINI + "learning\n\nwelsh... \\boxed{a}", "00", "another option over two lines"),
    Case("mini", MINI + r"\boxed{a} Learning Welsh", "00", "another option behind the box"),
    Case("mini", MINI + r"\boxed{a}\boxed{Learning Welsh}", "00", "another option in a second box"),
    Case("mini", MINI + r"\boxed{a}\boxed{Learning Latin}", "11", "the same option in a second box"),
    Case("mini", MINI + r"Learning \boxed{a} Welsh", "00", "another option around the box"),
    Case("mini", MINI + r"Welsh it is \boxed{a}", "00", "the one word that tells another option", "10"),
    Case("mini", MINI + r"Something entirely novel \boxed{a}", "00", "a paraphrase of another option", "10"),
    Case(
        "mini", MINI + "Learning W\u0435lsh \\boxed{a}", "00", "another option with a Cyrillic letter", "10"
    ),
    Case(
        "mini", MINI + "Learning L\u0430tin \\boxed{a}", "11", "its own option with a Cyrillic letter", "10"
    ),
    Case(
        "mini",
        MINI + "L\u200be\u200ba\u200br\u200bning Welsh \\boxed{a}",
        "00",
        "another option with invisible characters",
    ),
    Case("mini", MINI + "Learning_Welsh \\boxed{a}", "00", "another option joined by a line"),
    Case("mini", MINI + "L e a r n i n g W e l s h \\boxed{a}", "00", "another option spelled out", "10"),
    Case("mini", MINI + "LearningWelsh \\boxed{a}", "00", "another option without its space", "10"),
    Case("long", LONG + RUNNING + r" \boxed{a}", "00", "quotes another long option"),
    Case(
        "long",
        LONG + IMPROV + r" \boxed{a}",
        "00",
        "quotes another option of two sentences, with a denial of its own",
    ),
    Case(
        "long",
        LONG + POTTERY.partition(", and you")[0] + r" \boxed{a}",
        "00",
        "breaks off within another long option",
    ),
    Case(
        "long",
        LONG + r"A running plan for the spring race. \boxed{a}",
        "00",
        "paraphrases another long option",
        "10",
    ),
    Case(
        "chinese",
        r"<think>用户说过喜欢拉丁语。</think>学习捷克语 \boxed{a}",
        "00",
        "another option without spaces",
    ),
    Case(
        "russian",
        r"<think>Он любит учить латынь весной.</think>Что-то совсем новое \boxed{a}",
        "00",
        "another alphabet",
    ),
    Case("thai", r"<think>ผู้ใช้ชอบดื่มชาเขียว</think>ดื่มชา \boxed{b}", "00", "the shorter of two options"),
    Case("hindi", r"<think>उसे लैटिन पसंद है</think>चेक सीखना \boxed{a}", "00", "another option with vowel signs"),
    # negation as a shield
    Case("mini", MINI + r"Not learning Latin \boxed{a}", "00", "denies the option of its box"),
    Case("mini", MINI + r"Never learning Latin. Avoid learning Latin. \boxed{a}", "00", "denies it twice"),
    Case("mini", MINI + r"Learning Latin is not for you \boxed{a}", "00", "denies it from behind"),
    Case("mini", MINI + r"You don't enjoy learning Latin \boxed{a}", "00", "denies it by a verb"),
    Case(
        "mini",
        MINI + r"Not learning Latin, but learning Welsh \boxed{a}",
        "00",
        "denies it and takes another",
    ),
    Case("mini", MINI + r"Not (a) \boxed{a}", "00", "denies the letter of its box"),
    Case(
        "mini",
        MINI + r"Not that it matters, something quite new \boxed{a}",
        "00",
        "a denial of something else",
    ),
    Case("mini", MINI + r"No doubt something quite new \boxed{a}", "00", "a denial by form alone"),
    Case("mini", MINI + r"Why not learning Welsh? \boxed{a}", "00", "a denial by form alone"),
    Case(
        "mini", MINI + r"Never mind! Something quite new \boxed{a}", "00", "a denial in the sentence before"
    ),
    Case("mini", MINI + r"No, no, something quite new \boxed{a}", "00", "a denial in the clause before"),
    Case(
        "mini",
        MINI + r"There is no better than learning Welsh \boxed{a}",
        "00",
        "a denial that praises",
        "10",
    ),
    Case("mini", MINI + r"Nicht Learning Latin \boxed{a}", "00", "a denial in another language", "11"),
    Case(
        "mini",
        MINI.replace("Learning Latin is (a)", "So not learning Latin") + r"Learning Latin \boxed{a}",
        "00",
        "the thought denies what the answer takes",
        "11",
    ),
    Case(
        "chinese",
        r"<think>用户说过喜欢拉丁语。</think>不学习拉丁语 \boxed{a}",
        "00",
        "a denial in another script",
        "11",
    ),
    # several options
    Case(
        "mini",
        MINI + r"Learning Latin, something quite new, learning Welsh, learning Czech \boxed{a}",
        "10",
        "naming all names none",
    ),
    Case("mini", MINI + r"Learning Latin or learning Welsh \boxed{a}", "10", "naming two names none"),
    Case(
        "mini",
        MINI
        + r"(a) Learning Latin. (b) Something quite new. (c) Learning Welsh. (d) Learning Czech. \boxed{a}",
        "10",
        "echoes the list of options",
    ),
    Case(
        "mini",
        r"<think>(a) Learning Latin. (b) Something quite new. (c) Learning Welsh. (d) Learning Czech.</think>"
        r"Learning Latin \boxed{a}",
        "00",
        "a thought that only echoes the list",
        "11",
    ),
    # letters
    Case("mini", MINI + r"So it is (a) \boxed{a}", "10", "a letter is no name"),
    Case("mini", MINI + r"So it is (c) \boxed{a}", "00", "another letter than the box"),
    Case("mini", MINI + r"The answer is c. \boxed{a}", "00", "another letter, bare", "10"),
    Case("mini", MINI + r"Learning Latin is (d) \boxed{a}", "00", "its option under another's letter"),
    Case(
        "mini",
        r"<think>Remembered: Enjoys learning Latin. Learning Latin is (d).</think>Learning Latin \boxed{a}",
        "00",
        "its option under another's letter, in the thought",
    ),
    Case(
        "mini",
        r"<think>Remembered: Enjoys learning Latin. Learning Welsh is (a).</think>Learning Latin \boxed{a}",
        "00",
        "another option under its letter, though Latin was remembered",
    ),
    Case(
        "mini",
        r"<think>Remembered: Enjoys learning Welsh. Learning Welsh is (a).</think>Learning Latin \boxed{a}",
        "00",
        "the thought is of another option",
    ),
    Case(
        "mini",
        r"<think>Remembered: Enjoys learning Welsh. Welsh is (c).</think>\boxed{a}",
        "00",
        "the thought is of another",
    ),
    Case(
        "mini",
        MINI + r"\boxed{(a) Learning Latin}",
        "00",
        "named inside of the box alone: not the box asked for",
    ),
    # thoughts that are none
    Case("mini", r"<think>Latin</think>Learning Latin \boxed{a}", "00", "one word"),
    Case(
        "mini", r"<think>hmm hmm hmm hmm hmm hmm</think>Learning Latin \boxed{a}", "00", "one word, repeated"
    ),
    Case("mini", r"<think>a b c d e f g</think>Learning Latin \boxed{a}", "00", "letters are no words"),
    Case(
        "mini",
        "<think>Latin \u3164 \u115f \uffa0 \u200b \u2800</think>Learning Latin \\boxed{a}",
        "00",
        "blank characters",
    ),
    Case("mini", r"<think>... !!! ???</think>Learning Latin \boxed{a}", "00", "marks"),
    Case(
        "mini",
        r"<think>Let me think about this step by step.</think>Learning Latin \boxed{a}",
        "00",
        "filler",
        "11",
    ),
    Case(
        "mini", r"<think>foo bar baz qux</think>Learning Latin \boxed{a}", "00", "words without sense", "11"
    ),
    Case(
        "mini",
        r"<think></think>I enjoy thinking of Latin. Learning Latin \boxed{a}",
        "00",
        "thinks outside of the block",
    ),
    Case("mini", r"Learning Latin \boxed{a}", "00", "does not think"),
    # tags and boxes
    Case(
        "mini",
        r"<think>Remembered: Enjoys learning Latin. Learning Latin \boxed{a}",
        "00",
        "the block never closes",
    ),
    Case(
        "mini",
        r"<THINK>Remembered: Enjoys learning Latin.</THINK>Learning Latin \boxed{a}",
        "00",
        "not the tags asked for",
    ),
    Case(
        "mini",
        r"<think>Remembered: Enjoys learning Latin. \boxed{a}</think>Learning Latin",
        "00",
        "the box is in the thought",
    ),
    Case(
        "mini",
        MINI + r"Learning Latin \boxed{a}<think>Or learning Welsh?",
        "00",
        "thinks on, and never answers",
    ),
    Case("mini", MINI + r"\boxed{a}\boxed{b}\boxed{c}\boxed{d}", "00", "all letters"),
    Case("mini", MINI + r"Learning Latin \boxed{a} \boxed{c}", "00", "two letters"),
    Case(
        "mini",
        MINI + r"Learning Latin \boxed{a}boxedboxed{boxed}a}boxed",
        "11",
        "garbage behind a proper answer is style",
    ),
    Case("mini", MINI + r"Learning Latin \boxed{a", "00", "cut in the box"),
]


def scores(case):
    options, gold = QUESTIONS[case.question]
    gates = ("contradiction", "naming")
    paid = [
        personamem([case.completion], [gold], options=[options], consistency_gate=g, min_thought_words=3)[0]
        for g in gates
    ]
    return "".join(f"{score:.0f}" for score in paid)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_what_the_reward_pays(case):
    assert scores(case) == (case.paid or case.fair)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_no_other_letter_is_ever_paid(case):
    options, gold = QUESTIONS[case.question]
    for letter in set("abcd") - {gold}:
        assert personamem(
            [case.completion], [letter], options=[options], consistency_gate="contradiction"
        ) == [0.0]


def test_how_often_the_reward_is_unfair():
    """Of 100, gate "contradiction" pays 15 that a judge would not pay and refuses none that he would; gate
    "naming" pays 6 and refuses 5: mostly paraphrases, denials in other words or languages, and thoughts
    without sense."""
    assert len(CASES) == len({case.completion for case in CASES}) == 100
    unfair = {"paid too much": [0, 0], "paid too little": [0, 0]}
    for case in CASES:
        for gate, (fair, paid) in enumerate(zip(case.fair, case.paid or case.fair, strict=True)):
            unfair["paid too much"][gate] += fair < paid
            unfair["paid too little"][gate] += fair > paid
    assert unfair == {"paid too much": [15, 6], "paid too little": [0, 5]}


@pytest.mark.parametrize("name", ["mini", "drinks", "long", "chinese", "thai"])
@pytest.mark.parametrize(
    "hostile",
    [
        "tea " * 25_000,
        "Tea. " * 20_000,
        "green tea, not tea, " * 5_000,
        "not,tea," * 12_000,
        "no " * 30_000,
        "n't " * 25_000,
        "(a)" * 33_000,
        "(a) tea is (b). " * 6_000,
        "Something quite\n" * 6_000,
        "." * 100_000,
        "a." * 50_000,
        "," * 100_000,
        "n" * 100_000,
        "茶" * 100_000,
        "ชา" * 50_000,
        "tea \\boxed{tea} " * 6_000,
        "a" + "\u0300\u0316" * 50_000,  # accents to be put in order
        "\ufdfa" * 100_000,  # each becomes 18 letters
        "\u200b" * 100_000,
        "\ud800" * 100_000,
        (" ".join(QUESTIONS["long"][0]) + " ") * 140,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hostile_words_are_read(hostile, name):
    options, _ = QUESTIONS[name]
    for completion in (
        f"<think>{hostile}</think>So \\boxed{{a}}",
        f"<think>So it is.</think>{hostile} \\boxed{{a}}",
    ):
        said = read(completion, options)
        assert said.letter == "a"
        assert {said.answer_names, said.thought_names} <= {None, *"abcd"}
