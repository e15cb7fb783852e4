"""`rft data convert` of bad input: one line that says what is wrong and where, and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path

import benchmark_files as made
import pytest
from benchmark_files import edit

from rft.cli import main

P, E, M = (
    "p/benchmark_dataset",
    "p/benchmark_dataset/explicit_preference/pets.json",
    "p/benchmark_dataset/mcq_options",
)
L, G, V = "l/data/locomo10.json", "m/longmemeval_oracle.json", "v/questions_32k.csv"
PREFEVAL = "prefeval p --filler-turns 0"


def text(path: str, change: Callable[[str], str]) -> None:
    """Applies `change` to the text of a file."""
    Path(path).write_text(change(Path(path).read_text(encoding="utf-8")), encoding="utf-8")


def audit(question: str) -> None:
    """Writes a list of wrong labels as the audit has them."""
    made.write(
        Path("a.json"), [{"question_id": "locomo_1_qa0", "error_type": "AMBIGUOUS", "question": question}]
    )


# (arguments, what is done to the good files, the error)
BAD: list[tuple[str, Callable[[], object], str]] = [
    ("prefeval .", lambda: None, "no folder explicit_preference, implicit_preference/choice-based"),
    (
        PREFEVAL,
        lambda: Path(f"{M}/ships.json").unlink(),
        "mcq_options: no ships.json; expected one file for each",
    ),
    ("prefeval p --filler-turns 5", lambda: None, "only 4 turns of filler; --filler-turns asks for 5"),
    ("prefeval p --filler-turns -1", lambda: None, "--filler-turns -1: expected 0 or more"),
    (PREFEVAL, lambda: text(E, lambda old: old[:30]), "pets.json: not UTF-8 JSON"),
    (
        PREFEVAL,
        lambda: edit(Path(E), lambda rows: rows[1].pop("preference")),
        "explicit_preference/pets.json: row 1: no 'preference'; expected a text there",
    ),
    (
        PREFEVAL,
        lambda: edit(Path(E), lambda rows: rows[1].update(question=" ")),
        "row 1: 'question' is empty",
    ),
    (
        PREFEVAL,
        lambda: edit(Path(E), lambda rows: rows.append(7)),
        "row 2: expected an object with 'preference'",
    ),
    (PREFEVAL, lambda: made.write(Path(E), {}), "pets.json: expected a JSON list, found object"),
    ("locomo .", lambda: None, "no locomo10.json or data/locomo10.json"),
    (
        "locomo l",
        lambda: edit(Path(L), lambda rows: rows[0]["conversation"]["session_2"][0].update(speaker="Cy")),
        "locomo10.json: conv-30: session_2: unknown speaker 'Cy'; expected Ann or Bo",
    ),
    (
        "locomo l",
        lambda: edit(Path(L), lambda rows: rows[0]["qa"][1].pop("answer")),
        "locomo10.json: conv-30-1: no 'answer'; only category 5 may lack it",
    ),
    (
        "locomo l",
        lambda: edit(Path(L), lambda rows: rows[0]["qa"][1].pop("question")),
        "row 0 (conv-30): question 1: no 'question'; expected a text there",
    ),
    (
        "locomo l",
        lambda: edit(Path(L), lambda rows: rows[0]["qa"][1].update(category=9)),
        "conv-30-1: category 9; expected one of 1, 2, 3, 4, 5",
    ),
    (
        "locomo l",
        lambda: edit(Path(L), lambda rows: rows[0]["conversation"].update(session_1_date_time="May 8")),
        "conv-30: 'May 8' is no date such as '1:56 pm on 8 May, 2023'",
    ),
    (
        "locomo l --skip-wrong ids.txt",
        lambda: made.write(Path("ids.txt"), "conv-26-0"),
        "ids.txt: no question 'conv-26-0' in this data; ids look like conv-30-0",
    ),
    ("locomo l --skip-wrong a.json", lambda: audit("Else?"), "a.json: row 0: conv-30-0 asks something else"),
    ("locomo l --skip-wrong none.txt", lambda: None, "none.txt: cannot read this file: No such file"),
    ("longmemeval .", lambda: None, "no longmemeval_*.json; expected one of oracle, s and m"),
    ("longmemeval none.json", lambda: None, "none.json: no such file; expected longmemeval_oracle.json"),
    (
        "longmemeval m",
        lambda: made.longmemeval(Path("m/longmemeval_s.json")),
        "several files (longmemeval_oracle.json, longmemeval_s.json); name one of them",
    ),
    ("longmemeval m", lambda: text(G, lambda old: old[:-40]), "longmemeval_oracle.json: row 2: broken JSON"),
    (
        "longmemeval m",
        lambda: text(G, lambda old: old[:-1]),
        "row 3: the file ends inside its list; download the file again",
    ),
    ("longmemeval m", lambda: text(G, lambda old: old[1:-1]), "expected a JSON list of objects"),
    (
        "longmemeval m",
        lambda: edit(Path(G), lambda rows: rows[1].update(question_type="riddle")),
        "row 1 (q2_abs): unknown question_type 'riddle'; expected one of single-session-user",
    ),
    (
        "longmemeval m",
        lambda: edit(Path(G), lambda rows: rows[1]["haystack_dates"].pop()),
        "row 1 (q2_abs): 1 haystack_dates for 2 haystack_sessions",
    ),
    (
        "longmemeval m",
        lambda: edit(Path(G), lambda rows: rows[0].update(question_date="2023/13/01 (Sat) 02:21")),
        "row 0 (q1): '2023/13/01 (Sat) 02:21' is no date such as",
    ),
    ("personamem_v1 .", lambda: None, "no questions_SIZE.csv; expected SIZE to be one of 32k, 128k, 1M"),
    (
        "personamem_v1 v",
        lambda: Path("v/shared_contexts_32k.jsonl").unlink(),
        "shared_contexts_32k.jsonl: cannot read this file: No such file",
    ),
    (
        "personamem_v1 v",
        lambda: made.write(Path("v/shared_contexts_32k.jsonl"), '{"c'),
        "shared_contexts_32k.jsonl: not UTF-8 JSON",
    ),
    (
        "personamem_v1 v",
        lambda: made.personamem_v1(Path("v"), size="1M"),
        "it has several sizes (32k, 1M); choose one with --size",
    ),
    ("personamem_v1 v --size 128k", lambda: None, "shared_contexts_128k.jsonl: cannot read this file"),
    (
        "personamem_v1 v",
        lambda: text(V, lambda old: old.replace("all_options", "options")),
        "questions_32k.csv: missing column all_options; expected the columns of PersonaMem v1",
    ),
    ("personamem_v1 v", lambda: text(V, lambda old: old[:-20]), "row 0: expected 10 cells as in the header"),
    (
        "personamem_v1 v",
        lambda: made.personamem_v1(Path("v"), {"shared_context_id": "d"}),
        "questions_32k.csv: row 0: context d is not in shared_contexts_32k.jsonl",
    ),
    (
        "personamem_v1 v",
        lambda: made.personamem_v1(Path("v"), {"end_index_in_shared_context": "6"}),
        "row 0: end_index_in_shared_context '6'; expected 1 to 5, the messages of its context",
    ),
    (
        "personamem_v1 v",
        lambda: made.personamem_v1(Path("v"), {"correct_answer": "(x)"}),
        "no question could be converted; the first reason: questions_32k.csv: row 0: correct_answer",
    ),
]


@pytest.mark.parametrize(("words", "damage", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(words, damage, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made.prefeval(Path("p"))
    made.locomo(Path("l"))
    made.longmemeval(Path(G))
    made.personamem_v1(Path("v"))
    damage()
    assert main(["data", "convert", *words.split(), "--out", "out/set"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(Path("out").iterdir())
