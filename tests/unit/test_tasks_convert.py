"""`rft data convert`: each benchmark from small files of its layout, and what is dropped and said.
Real samples are read if they are there.
"""

import json
from collections import Counter
from pathlib import Path

import benchmark_files as made
import pytest
from benchmark_files import card, convert, edit, history, rows, told
from dataset_folder import real_data

from rft.cli import main
from rft.data.history import headed
from rft.errors import DataError
from rft.tasks import source_files
from rft.tasks.dataset_writer import DatasetWriter
from rft.tasks.load import load_split, task_named
from rft.tasks.prefeval import ACKNOWLEDGED, HELD_OUT
from rft.tasks.source_files import json_objects


def test_prefeval_puts_filler_between_preference_and_question(tmp_path, capsys):
    out = tmp_path / "out"
    assert convert("prefeval", made.prefeval(tmp_path), out, "--filler-turns", "3") == 0
    assert [row["id"] for row in rows(out, "train")] == ["pets-0", "pets-1", "ships-0", "ships-1"]
    row = rows(out)[1]
    assert (row["id"], row["query"]) == ("travel-1", "Which travel suit me on day 1?")
    assert row["answer"] == row["options"][0] == "travel of another number, and that is the long one"
    assert row["labels"] == {"topic": "travel", "form": "explicit", "filler_turns": 3}
    messages = history(out, row)
    assert [message["content"] for message in messages] == [
        "I never buy travel number 1.",
        ACKNOWLEDGED,
        *(
            f"filler {chat} {turn} {role}"
            for chat, turn in ((0, 0), (0, 1), (1, 0))
            for role in ("user", "assistant")
        ),
    ]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 4
    assert card(out)["dropped"] == [
        {"where": f"mcq_options/{name}", "reason": "a stray file: its name is no topic of the form"}
        for name in ("pets copy.json", "without_suffix")
    ]
    printed = capsys.readouterr().out
    assert "4 questions in train, 2 questions in benchmark" in printed
    assert "held out for the test: travel (the last third of 3 topics" in printed
    assert "longest of the four in 6 of 6 questions (100.0%" in printed
    assert "mcq_options/pets copy.json" in printed


@pytest.mark.parametrize(
    ("form", "contents"),
    [
        ("choice-based", ["What do you have?", "One or two.", "Two, please.", "Good."]),
        ("persona-driven", [f"{who}{turn}" for turn in range(11) for who in "ua"]),
    ],
)
def test_implicit_forms_of_prefeval(tmp_path, form, contents):
    out = tmp_path / "out"
    assert convert("prefeval", made.prefeval(tmp_path), out, "--form", form, "--filler-turns", "0") == 0
    messages = history(out, rows(out)[0])
    assert [message["content"] for message in messages] == contents
    assert "I never buy" not in json.dumps(messages)


def test_free_answers_of_prefeval_have_a_rubric_and_no_options(tmp_path):
    out = tmp_path / "out"
    assert convert("prefeval", made.prefeval(tmp_path), out, "--answers", "free", "--filler-turns", "1") == 0
    row = rows(out)[0]
    assert "options" not in row and row["answer"] == "I never buy travel number 0."
    assert card(out)["judge_only"] is True
    assert "Most travel have that number." in row["labels"]["rubric"]


def test_prefeval_holds_out_the_fixed_topics_if_they_are_there(tmp_path):
    out = tmp_path / "out"
    source = made.prefeval(tmp_path, topics=(*HELD_OUT, "zebras", "zithers"), rows=1)
    assert convert("prefeval", source, out, "--filler-turns", "0") == 0
    assert {row["labels"]["topic"] for row in rows(out)} == set(HELD_OUT)
    assert {row["labels"]["topic"] for row in rows(out, "train")} == {"zebras", "zithers"}
    assert "(the fixed list)" in told(out)


def test_prefeval_names_each_row_that_it_drops(tmp_path):
    source = made.prefeval(tmp_path, rows=4)
    data = source / "benchmark_dataset"
    edit(data / "explicit_preference/pets.json", lambda rows: rows.append(rows[0]))
    edit(data / "mcq_options/pets.json", lambda rows: rows[1].update(question="Another question?"))
    edit(
        data / "mcq_options/ships.json",
        lambda rows: rows[0].update(classification_task_options=["a", "a", "b"]),
    )
    edit(data / "mcq_options/ships.json", lambda rows: rows[2].update(preference="I never ever buy ships."))
    edit(data / "explicit_preference/travel.json", lambda rows: rows[1].update(question=rows[0]["question"]))
    edit(data / "mcq_options/travel.json", lambda rows: rows[1].update(question=rows[0]["question"]))
    edit(data / "mcq_options/travel.json", lambda rows: rows.reverse())
    out = tmp_path / "out"
    assert convert("prefeval", source, out, "--filler-turns", "0") == 0
    dropped = {
        drop["where"]: drop["reason"] for drop in card(out)["dropped"] if "stray" not in drop["reason"]
    }
    assert dropped == {
        "explicit_preference/pets.json: row 1": (
            "mcq_options/pets.json has no row, or several, with its question"
        ),
        "explicit_preference/pets.json: row 4": (
            "repeats explicit_preference/pets.json: row 0: the same preference and question"
        ),
        "explicit_preference/ships.json: row 0": "mcq_options/ships.json: row 0: an option occurs twice: 'a'",
        "explicit_preference/travel.json: row 0": (
            "mcq_options/travel.json has no row, or several, with its question"
        ),
        "explicit_preference/travel.json: row 1": (
            "mcq_options/travel.json has no row, or several, with its question"
        ),
    }
    assert [row["id"] for row in rows(out)] == ["travel-2", "travel-3"]
    assert (
        "worded differently in mcq_options, where the history has the wording of the form: 1 (ships-2)"
        in told(out)
    )


def test_prefeval_keeps_a_question_of_two_preferences(tmp_path):
    source = made.prefeval(tmp_path)
    for folder in ("explicit_preference", "mcq_options"):
        edit(
            source / f"benchmark_dataset/{folder}/pets.json",
            lambda rows: rows[1].update(question=rows[0]["question"]),
        )
    out = tmp_path / "out"
    assert convert("prefeval", source, out, "--filler-turns", "0") == 0
    assert [row["id"] for row in rows(out, "train")][:2] == ["pets-0", "pets-1"]
    assert rows(out, "train")[1]["options"][3] == "number 1"
    assert "questions that occur twice, with different preferences, and stay: 1 (pets-0 = pets-1)" in told(
        out
    )


def test_locomo_keeps_every_question_on_one_history(tmp_path, capsys):
    out = tmp_path / "out"
    assert convert("locomo", made.locomo(tmp_path).parent.parent, out) == 0
    found = rows(out)
    assert [row["answer"] for row in found] == ["2022", "a boat", None, "No", "Perhaps", "Bo", "Bo did"]
    assert [row["labels"]["category"] for row in found] == [
        "temporal",
        "multi-hop",
        "adversarial",
        "adversarial",
        "open-domain",
        "single-hop",
        "single-hop",
    ]
    assert [row["labels"]["evidence"] for row in found[:5]] == ["D1:2", "D1:1 D1:2", "D1:2", "", ""]
    assert {row["history"] for row in found} == {"histories/conv-30.json"}
    assert history(out, found[0]) == [
        {
            "role": role,
            "name": name,
            "content": content,
            "date": "2023-05-08T13:56" if session == 1 else "2023-09-13T00:09",
            "session": session,
        }
        for role, name, content, session in (
            ("user", "Ann", "Look. [shares a photo of a boat]", 1),
            ("user", "Ann", "I painted it last year.", 1),
            ("assistant", "Bo", "Lovely.", 1),
            ("assistant", "Bo", "Back again.", 2),
        )
    ]
    for note in (
        "answers that are numbers in the file and became texts: 1",
        "adversarial questions without an answer, where the right answer is to abstain: 1",
        "questions with several evidence ids in one text, taken apart: 1",
        "questions with a malformed evidence id, left out: 1",
        "questions without evidence: 2",
        "dates of sessions that do not exist, left out: 1",
        "questions asked twice about one history, which stay: 1 (conv-30-5 = conv-30-6)",
        "leaves a ceiling of 93.6%",
    ):
        assert note in capsys.readouterr().out or note in told(out)


def test_wrong_labels_of_locomo_are_skipped_and_leave_a_ceiling(tmp_path):
    made.locomo(tmp_path)
    ids = tmp_path / "wrong.txt"
    ids.write_text("# from a colleague\nconv-30-1\n\n", encoding="utf-8")
    errors = [
        ("locomo_1_qa0", "TEMPORAL_ERROR", "When did Ann paint?"),
        ("locomo_1_qa4", "WRONG_CITATION", "Is Ann a sailor?"),
        ("locomo_0_qa7", "HALLUCINATION", "A question of another conversation?"),
    ]
    audit = made.write(
        tmp_path / "errors_conv_1.json",
        [{"question_id": id, "error_type": kind, "question": text} for id, kind, text in errors],
    )
    out = tmp_path / "out"
    assert convert("locomo", tmp_path, out, "--skip-wrong", str(ids), str(audit)) == 0
    assert card(out)["dropped"] == [
        {"where": "locomo10.json: conv-30-0", "reason": "known to be wrong: TEMPORAL_ERROR"},
        {"where": "locomo10.json: conv-30-1", "reason": "known to be wrong: on the list of wrong labels"},
    ]
    assert [row["id"] for row in rows(out)] == [f"conv-30-{place}" for place in range(2, 7)]
    assert "left out: 2; with them, and no others, the ceiling would be 71.4%" in told(out)
    assert "multi-hop 0.0% (1 of 1 wrong)" in told(out) and "single-hop 100.0% (0 of 2 wrong)" in told(out)


def test_longmemeval_sorts_sessions_and_hides_the_evidence(tmp_path):
    out = tmp_path / "out"
    assert convert("longmemeval", made.longmemeval(tmp_path / "longmemeval_oracle.json"), out) == 0
    first, abstention, update = rows(out)
    assert history(out, first) == [
        {"role": "user", "content": "I have two boats.", "date": "2023-05-20T02:21", "session": 1},
        {"role": "assistant", "content": "Nice.", "date": "2023-05-20T02:21", "session": 1},
        {"role": "user", "content": "One more boat.", "date": "2023-05-21T10:00", "session": 2},
    ]
    assert (first["answer"], first["date"]) == ("3", "2023-05-30T23:40")
    assert abstention["answer"] is None and abstention["labels"]["abstention"] is True
    assert "You never spoke of trains." in abstention["labels"]["rubric"]
    assert update["labels"]["question_type"] == "knowledge-update"
    assert len({row["labels"]["rubric"] for row in rows(out)}) == 3
    assert "histories that were not in the order of their dates, sorted: 3" in told(out)
    assert "empty messages, left out: 3" in told(out)
    assert "converted from longmemeval_oracle.json" in told(out)


def test_a_repeated_question_of_longmemeval_is_dropped(tmp_path):
    path = made.longmemeval(tmp_path / "longmemeval_s.json")
    edit(path, lambda rows: rows.append(rows[0]))
    out = tmp_path / "out"
    assert convert("longmemeval", tmp_path, out) == 0  # the folder has one file
    assert card(out)["dropped"] == [
        {"where": "longmemeval_s.json: row 3 (q1)", "reason": "its question_id occurred before"}
    ]


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**20])
def test_objects_are_read_one_at_a_time_whatever_the_chunk(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(source_files, "CHUNK", chunk)
    path = made.longmemeval(tmp_path / "x.json")
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert [record for _, record in json_objects(path)] == expected
    path.write_text(json.dumps(expected, indent=3) + "\n", encoding="utf-8-sig")
    assert list(json_objects(path)) == list(enumerate(expected))


def test_reading_stops_at_the_object_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(source_files, "CHUNK", 64)
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, ' + '{"b": 2}, ' * 1000 + "broken", encoding="utf-8")
    objects = json_objects(path)
    assert next(objects) == (0, {"a": 1}) and next(objects) == (1, {"b": 2})


def test_personamem_v1_ends_the_history_at_the_question(tmp_path):
    later = {"question_id": "q-1", "end_index_in_shared_context": "5.0", "correct_answer": "d"}
    twice = {"question_id": "q-2", "all_options": "['(a) A raft.', '(b) A raft.']"}
    again = {"user_question_or_message": "Once more?"}
    source = made.personamem_v1(tmp_path / "v1", {}, later, twice, again)
    out = tmp_path / "out"
    assert convert("personamem_v1", source, out) == 0
    first, second = rows(out)
    assert first["options"] == ["A raft.", "It's a sloop.", "A ferry.", "A tub."]
    assert (first["answer"], second["answer"], first["person"]) == ("It's a sloop.", "A tub.", "4")
    assert first["labels"] == {
        "question_type": "recall_user_shared_facts",
        "topic": "boats",
        "distance_tokens": 812,
    }
    assert [message["content"] for message in history(out, first)] == [
        "The user sails.",
        "I bought a sloop.",
        "Fair winds.",
    ]
    assert [message["session"] for message in history(out, second)] == [1, 1, 1, 2, 2]
    assert card(out)["dropped"] == [
        {"where": "questions_32k.csv: row 2", "reason": "two options have the same text"},
        {"where": "questions_32k.csv: row 3", "reason": "question_id q-0 occurred before"},
    ]
    assert card(out)["task"] == "jsonl"


def test_an_existing_folder_is_never_overwritten(tmp_path, capsys):
    out = tmp_path / "out"
    made.write(out / "mine.txt", "keep me")
    assert convert("locomo", made.locomo(tmp_path), out) == 2
    assert "already exists and is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert convert("locomo", made.locomo(tmp_path), tmp_path / "out") == 0
    assert (tmp_path / "out/dataset.json").is_file()


def test_half_surrogates_are_replaced_and_counted(tmp_path):
    with DatasetWriter(tmp_path / "out", name="x", source="here", license="mine", report_by=()) as dataset:
        link = dataset.history("a/../b", [{"role": "user", "content": "half \ud83d"}])
        dataset.row("train", {"history": link, "query": "\udc00?", "answer": "x"})
        with pytest.raises(DataError, match="two histories have this name"):
            dataset.history("a/../b", [{"role": "user", "content": "x"}])
    assert link == "histories/a_.._b.json"
    assert history(tmp_path / "out", rows(tmp_path / "out", "train")[0])[0]["content"] == "half \ufffd"
    assert "replaced with U+FFFD: 2" in told(tmp_path / "out")


MADE = {
    "prefeval": lambda root: (made.prefeval(root), "--filler-turns", "1"),
    "locomo": lambda root: (made.locomo(root),),
    "longmemeval": lambda root: (made.longmemeval(root / "longmemeval_s.json"),),
    "personamem_v1": lambda root: (made.personamem_v1(root),),
}


@pytest.mark.parametrize("name", MADE)
def test_the_reader_takes_every_row(name, tmp_path):
    source, *options = MADE[name](tmp_path / "source")
    out = tmp_path / "out"
    assert convert(name, source, out, *options) == 0
    split = load_split(out, "benchmark")
    assert not split.skipped and [question.id for question in split.questions] == [
        row["id"] for row in rows(out)
    ]
    assert split.published and all(0 < value < 1 and source for *_, value, source in split.published)
    assert split.report_by and set(split.report_by) <= set().union(*(q.labels for q in split.questions))
    assert list(split.notes) == card(out)["notes"]
    for question, row in zip(split.questions, rows(out), strict=True):
        assert question.gold_text == (row["answer"] or "")
        assert question.abstain == (row["answer"] is None)
        assert question.judge_only == card(out)["judge_only"] is False


def test_a_judge_gets_the_rubric_of_each_question(tmp_path):
    assert convert("longmemeval", made.longmemeval(tmp_path / "longmemeval_m.json"), tmp_path / "out") == 0
    judged = task_named("jsonl").judged
    first, abstention, update = map(judged, load_split(tmp_path / "out", "benchmark").questions)
    assert "only a part" in first[0] and first[1] == "3"
    assert "cannot be answered" in abstention[0] and "You never spoke of trains." in abstention[0]
    assert "latest value" in update[0] and update[1] == "two {boats}"
    words = ("--filler-turns", "0", "--answers", "free")
    assert convert("prefeval", made.prefeval(tmp_path / "p"), tmp_path / "free", *words) == 0
    rubric, fact = judged(load_split(tmp_path / "free", "benchmark").questions[0])
    assert "a preference that the user once revealed" in rubric and fact == "I never buy travel number 0."


def test_people_of_locomo_are_conversations_and_speakers_are_shown(tmp_path):
    assert convert("locomo", made.locomo(tmp_path), tmp_path / "out") == 0
    split = load_split(tmp_path / "out", "benchmark")
    assert {question.persona_id for question in split.questions} == {"conv-30"}
    (history,) = split.histories.values()
    first, second = history.messages[:2]
    assert headed(first) == "[session 1, Mon 2023-05-08 13:56]\nAnn: Look. [shares a photo of a boat]"
    assert headed(second, first) == "Ann: I painted it last year."


def test_the_longest_option_of_prefeval_is_found_by_its_rule(tmp_path, capsys):
    assert convert("prefeval", made.prefeval(tmp_path), tmp_path / "out", "--filler-turns", "0") == 0
    words = [
        "evaluate",
        "--rule",
        "longest",
        "--data",
        str(tmp_path / "out"),
        "--out",
        str(tmp_path / "longest"),
    ]
    assert main(words) == 0
    summary = json.loads((tmp_path / "longest/summary.json").read_text(encoding="utf-8"))
    assert (summary["accuracy"], summary["n"]) == (1.0, 2)
    assert summary["published"][0][1] == "preference following, free answers"
    assert "arXiv 2502.09597, abstract" in (tmp_path / "longest/report.html").read_text(encoding="utf-8")


def sample(name: str) -> Path:
    folder = real_data() / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: put a sample of the benchmark there")
    return folder


def test_the_prefeval_sample(tmp_path, capsys):
    out = tmp_path / "out"
    assert convert("prefeval", sample("prefeval_sample"), out, "--filler-turns", "70") == 0
    assert Counter(row["labels"]["topic"] for row in rows(out, "train") + rows(out)) == {
        "education_resources": 54,
        "lifestyle_dietary": 57,
        "travel_hotel": 54,
    }
    assert {row["labels"]["topic"] for row in rows(out)} == {"travel_hotel"}
    assert len(history(out, rows(out)[0])) == 2 + 2 * 70
    assert [drop["where"] for drop in card(out)["dropped"]] == ["mcq_options/travel_hotel copy.json"]
    assert "longest of the four in 59 of 165 questions (35.8%" in capsys.readouterr().out


def test_the_locomo_sample(tmp_path):
    out = tmp_path / "out"
    assert convert("locomo", sample("locomo_sample"), out) == 0
    assert Counter(row["person"] for row in rows(out)) == {"conv-26": 199, "conv-30": 105}
    assert Counter(row["labels"]["category"] for row in rows(out)) == {
        "multi-hop": 43,
        "temporal": 63,
        "open-domain": 13,
        "single-hop": 114,
        "adversarial": 71,
    }
    assert sum(row["answer"] is None for row in rows(out)) == 69
    assert "answers that are numbers in the file and became texts: 6" in told(out)
