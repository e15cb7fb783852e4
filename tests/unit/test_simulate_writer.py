"""The offline writer: varied, implicit, and fair to blind readers by construction."""

import json
import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from reward.mcq import LETTERS
from rft.data.faults import mentions
from rft.data.private import plausible_items
from rft.data.question import Question
from rft.errors import DataError
from rft.simulate.checks import check_record, conflict, item_faults
from rft.simulate.facts import draw_facts, make_fact
from rft.simulate.grammar import fill, load
from rft.simulate.history import evidence, order
from rft.simulate.persona import make_persona, read_personas, system_message
from rft.simulate.persona_record import (
    SCENARIOS,
    SENSITIVE_KINDS,
    USED_KINDS,
    PersonaRecord,
    Preference,
    QuestionItem,
)
from rft.simulate.pipeline import offline_writer
from rft.simulate.profile import PROFILES, Settings
from rft.simulate.question import ENJOYS, item_of
from rft.simulate.sensitive import MAKERS
from rft.simulate.topics import LINE, OPPOSITE, Topic, read_topics, shipped
from rft.tasks.audit import shortcuts

COUNTS = PROFILES["paper"].counts
KINDS = {
    "own",
    "open",
    "untold",
    "update",
    "ended",
    "renewed",
    "forget",
    "beside",
    "others",
    *SENSITIVE_KINDS,
}


@pytest.fixture(scope="module")
def records() -> list[PersonaRecord]:
    writer = offline_writer(Settings("paper", 40, seed=3))
    return [writer.write(persona_id) for persona_id in range(40)]


def test_there_are_enough_topics_and_values() -> None:
    topics = shipped()
    assert len(topics) >= 300 and sum(len(topic.values) for topic in topics) >= 2500
    for topic in topics:
        assert all(topic.with_value(value) != topic.doing for value in topic.values)
    for archetype in OPPOSITE:
        both = [t for t in topics if {archetype, OPPOSITE[archetype]} <= set(t.marks.values())]
        assert len(both) >= 50, archetype


def test_no_shipped_words_around_a_value_name_one() -> None:
    grammar = load("grammar")
    for topic in shipped():
        suffix = "" if topic.section == "general" else f"_{topic.section}"
        around = [
            topic.ask,
            *(
                text
                for rule in (f"generic{suffix}", f"option{suffix}", "option_more", "query", "query_lead")
                for text in grammar[rule]
            ),
        ]
        assert not [(value, text) for value in topic.values for text in around if mentions(value, text)]


def test_a_generic_option_names_none_of_the_values_beside_it() -> None:
    generic = load("grammar")["generic"]
    topic = Topic("Plans", "general", "planning by {}", "a plan", ("common choice", "reviews", "tea"))
    fact = make_fact("", topic, "forget", "reviews", "tea", topic.values)
    golds = {item_of(random.Random(seed), 0, fact, extras=False).gold for seed in range(60)}
    assert any("common choice" in text for text in generic) and any("reviews" in text for text in generic)
    assert not any("common choice" in gold or "reviews" in gold for gold in golds) and len(golds) > len(
        generic
    )


def test_dozens_of_frames_a_scenario() -> None:
    rules = load("grammar")
    for subject in ("personal", "work", "story", "bio", "post", "trouble", "own"):
        assert len(rules[subject]) >= 15, subject
    for name, entries in rules.items():
        assert len(set(entries)) == len(entries), name


def test_every_record_passes_the_checks_and_is_plain_json(records: list[PersonaRecord]) -> None:
    for record in records:
        check_record(record)
        assert json.loads(json.dumps(asdict(record))) == asdict(record)


def test_the_same_seed_writes_the_same(records: list[PersonaRecord]) -> None:
    again = offline_writer(Settings("paper", 40, seed=3)).write(17)
    assert again == records[17] != offline_writer(Settings("paper", 40, seed=4)).write(17)


def test_no_conversation_is_written_twice(records: list[PersonaRecord]) -> None:
    texts = Counter(
        tuple(m["content"] for m in c.messages) for record in records for c in record.conversations
    )
    assert max(texts.values()) == 1 and sum(texts.values()) > 1200


def test_all_kinds_and_scenarios_come_up(records: list[PersonaRecord]) -> None:
    kinds = Counter(p.kind for d in records for p in d.preferences)
    assert set(kinds) == KINDS
    assert {c.scenario for d in records for c in d.conversations} == set(SCENARIOS)
    types = Counter(p.pref_type for d in records for p in d.preferences)
    assert set(types) == {
        "stereotypical_pref",
        "anti_stereotypical_pref",
        "neutral_preferences",
        "therapy_background",
        "health_and_medical_conditions",
        "ask_to_forget",
        "sensitive_info",
    }


def test_preferences_show_only_in_passing(records: list[PersonaRecord]) -> None:
    for record in records:
        about = system_message(record.persona)
        for preference in record.preferences:
            if not preference.text:
                continue
            assert preference.text not in about
            said = [
                m["content"]
                for c in record.conversations
                if record.preferences[c.about] is preference
                for m in c.messages
            ]
            assert said and not any(preference.text in text for text in said)


def test_no_query_is_a_message_of_the_history(records: list[PersonaRecord]) -> None:
    for record in records:
        said = {m["content"] for c in record.conversations for m in c.messages}
        assert not any(item.query in said for item in record.items)


def test_a_quarter_of_each_section_has_the_generic_gold() -> None:
    for seed in range(20):
        persona = make_persona(0, seed)
        facts = draw_facts(random.Random(seed), persona, shipped(), COUNTS)
        for section, count in COUNTS.items():
            if section != "sensitive":
                generic = [f for f in facts if f.topic.section == section and f.current is None]
                assert len(generic) * 4 == count == len([f for f in facts if f.topic.section == section])


def as_question(record: PersonaRecord, number: int, row: int) -> Question:
    """An item with the labels that its row will have, but for the distance."""
    item = record.items[number]
    preference, told = record.preferences[item.about], evidence(record, item.about)
    options = random.Random(row).sample([item.gold, *item.distractors], 4)
    labels = {
        "pref_type": preference.pref_type,
        "who": preference.who,
        "updated": preference.updated,
        "scenario": told.scenario if told else "",
        "distance": None,
        "preference": preference.text,
        "prev_pref": preference.previous,
        "sensitive": False,
    }
    return Question(
        f"q-{row}",
        row,
        str(record.persona.id),
        "h",
        item.query,
        tuple(options),
        LETTERS[options.index(item.gold)],
        labels,
        task="personamem",
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def asked() -> tuple[list[Question], list[bool]]:
    """4,000 questions of the middle profile, and whether a value is gold."""
    questions, used = [], []
    writer = offline_writer(Settings("middle", 500, seed=1))
    for persona_id in range(500):
        record = writer.write(persona_id)
        for number, item in enumerate(record.items):
            questions.append(as_question(record, number, len(questions)))
            used.append(record.preferences[item.about].kind in USED_KINDS)
    return questions, used


def test_a_quarter_of_each_kind_of_question_has_the_generic_gold(
    asked: tuple[list[Question], list[bool]],
) -> None:
    """By label of every sort, withdrawn and others' preferences too; in scenarios somewhat less: what was
    never told has none."""
    kinds: dict[str, list[bool]] = {}
    for question, used in zip(*asked, strict=True):
        of = question.labels
        for kind in (
            of["pref_type"],
            of["who"],
            f"updated {of['updated']}",
            f"{of['pref_type']}, {of['who']}",
            f"in {of['scenario']}",
        ):
            kinds.setdefault(kind, []).append(not used)
    assert {
        "ask_to_forget",
        "others",
        "updated True",
        "in knowledge_query",
        "neutral_preferences, others",
    } < set(kinds)
    assert all(kinds.pop("in ")), "nothing was said"
    for kind, generic in kinds.items():
        error = (0.25 * 0.75 / len(generic)) ** 0.5
        low, high = (0.20, 0.25) if kind.startswith("in ") else (0.25, 0.25)
        assert low - 3.5 * error < sum(generic) / len(generic) < high + 3.5 * error, (kind, len(generic))


def test_no_rule_tells_the_gold_in_any_kind_of_question(asked: tuple[list[Question], list[bool]]) -> None:
    audit = shortcuts(asked[0])
    cells = [(name, value, cell) for name, table in audit["by"].items() for value, cell in table.items()]
    assert len(cells) > 15 and len(audit["rules"]) == 17
    assert not [cell for cell in [("all", "", audit["strongest"]), *cells] if cell[2]["telling"]]


def test_what_is_shown_together_is_shown_equally_often() -> None:
    """A value typical of somebody is no rarer than the one of nobody beside it, and the latter is no
    shorter."""
    shown, neither, lengths = (
        Counter[tuple[str, str]](),
        list[tuple[str, tuple[str, str, str]]](),
        Counter[int](),
    )
    for persona_id in range(300):
        persona = make_persona(2, persona_id)
        pair = {persona.archetype, OPPOSITE[persona.archetype]}
        for fact in draw_facts(random.Random(persona_id), persona, shipped(), {"general": 8}):
            shown.update((fact.topic.name, value) for value in fact.shown)
            of_nobody = [value for value in fact.shown if fact.topic.mark(value) not in pair]
            assert len(of_nobody) in (1, 3)
            if len(of_nobody) == 1:
                neither.append((of_nobody[0], fact.shown))
                lengths[sum(len(of_nobody[0]) > len(value) for value in fact.shown)] += 1
    assert len(neither) > 1500 and min(lengths.values()) > 0.25 * len(neither)


def test_stories_are_told_as_their_labels_say() -> None:
    """Each kind by what its history holds: what was never told is nowhere, what replaces or withdraws comes
    last."""
    writer, kinds = offline_writer(Settings("middle", 60, seed=5)), Counter[str]()
    for persona_id in range(60):
        record = writer.write(persona_id)
        ordered = order(random.Random(persona_id), record.conversations)
        for item in record.items:
            preference = record.preferences[item.about]
            told = ["\n".join(m["content"] for m in c.messages) for c in ordered if c.about == item.about]
            named = [value for value in (preference.text, preference.previous) if value]
            kinds[preference.kind] += 1
            assert bool(told) == (preference.kind != "untold")
            if preference.kind in ("open", "untold"):
                assert not named and not any(mentions(preference.keyword, text) for text in told)
            if preference.kind in ("own", "update", "renewed"):
                assert mentions(preference.keyword, told[-1])
            if preference.kind == "renewed":
                assert any(
                    word in told[0].casefold() for word in ("forget", "not keep in mind", "delete", "remove")
                )
                assert preference.pref_type == "ask_to_forget" and preference.updated and len(named) == 2
            if preference.kind == "ended":
                assert mentions(preference.keyword, told[-1]) and preference.updated and not preference.text
            if preference.kind == "beside":
                assert (
                    len(told) == 2
                    and preference.who == "others"
                    and preference.text != preference.previous != ""
                )
                assert all(any(preference_ends(text, said) for said in told) for text in named)
    assert set(kinds) == KINDS - set(SENSITIVE_KINDS)


def preference_ends(text: str, said: str) -> bool:
    """Whether what a preference says behind its verb was said."""
    return any(text.removeprefix(verb).strip() in said for verb in ENJOYS)


def test_values_of_a_persona_share_no_content_words() -> None:
    facts = draw_facts(random.Random(5), make_persona(0, 5), shipped(), COUNTS)
    assert len({f.topic.name for f in facts}) == len(facts) == 24
    for fact in facts:
        for other in facts:
            assert fact is other or not any(mentions(value, v) for value in fact.shown for v in other.shown)


def test_the_gold_is_any_of_the_four_equally_often() -> None:
    """Over 200 personas: each mark of a shown value, and the generic option, is gold for a quarter of its
    questions."""
    shown, gold = Counter[str](), Counter[str]()
    for persona_id in range(200):
        persona = make_persona(1, persona_id)
        for fact in draw_facts(random.Random(persona_id), persona, shipped(), {"general": 16}):
            for value in fact.shown:
                roles = {persona.archetype: "typical", OPPOSITE[persona.archetype]: "opposite"}
                role = roles.get(fact.topic.mark(value), "other")
                shown[role] += 1
                gold[role] += value == fact.current
    for role, count in shown.items():
        assert abs(gold[role] / count - 0.25) < 3.5 * (0.25 * 0.75 / count) ** 0.5, role


def test_each_sensitive_option_is_gold_for_a_quarter() -> None:
    writer = offline_writer(Settings("paper", 8, seed=0, counts={"sensitive": 3}))
    kinds = Counter(p.kind for persona_id in range(8) for p in writer.write(persona_id).preferences)
    # a cleared value is one of two that are shown
    assert kinds == {"cleared": 12, "leaked": 6, "declined": 6}


def test_personal_items_are_nobodys() -> None:
    rng = random.Random(0)
    for name, make in MAKERS.items():
        assert not [
            item for _ in range(200) for item in plausible_items(f"My {name} is {make(rng)}, yes.")
        ], name


def test_the_grammar_notation() -> None:
    rng = random.Random(0)
    assert fill(rng, "[a|a] {x} {x} [not a choice]", {"x": "1"}) == "a 1 1 [not a choice]"
    day, same = fill(rng, "{day},{day}", {}).split(",")
    assert day == same, "a slot keeps its value within an entry"
    assert all(fill(random.Random(i), "{friend2}", {"friend": "Kim"}) != "Kim" for i in range(200))
    with pytest.raises(KeyError):
        fill(rng, "{nosuchslot}", {})


GOOD = "Tea | drinking {} | something warm | chai, mint, sencha, rooibos"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("Tea | drinking {} | something warm", "3 fields"),
        ("Tea | drinking tea | something warm | chai, mint, sencha, rooibos", "for the value exactly once"),
        ("Tea | drinking {} | something warm | chai, mint, sencha", "3 values; expected at least 4"),
        ("Tea | drinking {} | something warm | chai, mint, Mint, rooibos", "is listed twice"),
        ("Tea | drinking {} | a mint drink | chai, mint, sencha, rooibos", "names the value 'mint'"),
        ("Tea | drinking {} | something warm | chai, iced chai, sencha, rooibos", "is part of 'iced chai'"),
        ("Tea | drinking {} | something warm | chai:Q, mint, sencha, rooibos", "has the mark 'Q'"),
        ("Tea | drinking {} | something warm | chai,, mint, sencha, rooibos", "an empty value"),
        (GOOD, "already in line 2"),
        ("[health", "no ]"),
    ],
)
def test_a_topic_file_with_a_mistake(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "topics.txt"
    path.write_text(f"[Drinks]\n{GOOD}\n\n{line}\n")
    with pytest.raises(DataError) as error:
        read_topics(path)
    assert str(error.value).startswith(f"{path}: line 4: ") and complaint in str(error.value)


def test_topic_files_that_hold_none(tmp_path: Path) -> None:
    (tmp_path / "topics.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="no topics") as error:
        read_topics(tmp_path / "topics.txt")
    assert LINE in str(error.value)
    with pytest.raises(DataError, match="cannot read"):
        read_topics(tmp_path / "missing.txt")


def test_too_few_topics_for_a_persona(tmp_path: Path) -> None:
    (tmp_path / "topics.txt").write_text(GOOD + "\n")
    with pytest.raises(DataError, match=r"section \[general\] has 1 topics"):
        offline_writer(Settings("middle", 3, 0, topics_file=tmp_path / "topics.txt")).write(0)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ('{"name": "Ada"}', "short_persona"),
        ('{"short_persona": "A", "archetype": "X"}', "archetype 'X'"),
    ],
)
def test_a_persona_file_with_a_mistake(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text('{"short_persona": "A diver", "archetype": "O"}\n' + line + "\n")
    with pytest.raises(DataError) as error:
        read_personas(path)
    assert str(error.value).startswith(f"{path}: line 2: ") and complaint in str(error.value)


def test_described_people_stay_as_they_are(tmp_path: Path) -> None:
    persona = make_persona(0, 4, {"short_persona": "A diver who sings", "shoe_size": 43, "archetype": "A"})
    assert (
        persona.short == "A diver who sings" and persona.archetype == "A" and persona.about["shoe_size"] == 43
    )
    assert "archetype" not in system_message(persona)


def test_conflicts_between_preferences() -> None:
    def preference(topic: str, keyword: str) -> Preference:
        return Preference(topic, f"Enjoys {keyword}", "neutral_preferences", "own", keyword)

    kept = [preference("Tea", "strong Assam tea")]
    assert "same topic" in (conflict(preference("tea", "mint leaves"), kept) or "")
    assert "same words" in (conflict(preference("Mornings", "Assam tea"), kept) or "")
    assert conflict(preference("Mornings", "long showers"), kept) is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"query": "I enjoy strong Assam tea, what now?"}, "the query tells the preference"),
        ({"distractors": ["One.", "Two.", "Two."]}, "not four different options"),
        ({"distractors": ["One.", "Two."]}, "not four different options"),
        ({"distractors": ["One.", "Strong assam tea.", "Three."]}, "a distractor uses the preference too"),
        ({"gold": "Sure, have strong Assam tea."}, "an option begins with a preamble"),
        ({"gold": " "}, "an empty text"),
    ],
)
def test_rules_for_questions(changes: dict[str, object], fault: str | None) -> None:
    preference = Preference(
        "Tea", "Enjoys strong Assam tea", "neutral_preferences", "own", "strong Assam tea"
    )
    plain: dict[str, object] = {
        "query": "What now?",
        "gold": "Have strong Assam tea.",
        "distractors": ["One.", "Two.", "Three."],
    }
    faults = item_faults(QuestionItem(0, **{**plain, **changes}), preference)  # type: ignore[arg-type]
    assert any(found.startswith(fault) for found in faults) if fault else not faults
