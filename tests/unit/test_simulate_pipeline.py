"""From settings to a folder: budgets, orders, resumption, the same bytes for any number of workers, nothing
overwritten."""

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from dataset_folder import tokenizer as make_tokenizer

from rft.cli import main
from rft.errors import DataError
from rft.simulate.history import TokenCounter, assemble, order, size
from rft.simulate.persona_record import SCENARIOS, SENSITIVE_KINDS, USED_KINDS
from rft.simulate.pipeline import offline_writer, simulate
from rft.simulate.profile import Settings
from rft.tasks.load import load_split
from rft.tasks.memory_targets import MEMORY_TARGETS, load_memory_targets
from rft.tasks.personamem.dataset import COLUMNS
from rft.tasks.personamem.reasoning import reasoning

TOKENS = 5200  # the test tokenizer knows few words, so it counts many tokens


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter(make_tokenizer())


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(tokenizer_folder: Path) -> Settings:
    return Settings(
        "middle",
        8,
        seed=1,
        tokenizer=str(tokenizer_folder),
        history_tokens=TOKENS,
        counts={"general": 8, "sensitive": 1},
    )


@pytest.fixture(scope="module")
def whole(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "data"
    simulate(settings, out)
    return out


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)
    ).hexdigest()


def command(settings: Settings, out: Path, *more: str) -> list[str]:
    return [
        "simulate",
        "--profile",
        "middle",
        "--personas",
        "8",
        "--seed",
        "1",
        "--tokenizer",
        settings.tokenizer,
        "--history-tokens",
        str(TOKENS),
        "--out",
        str(out),
        *more,
    ]


def test_what_changes_or_withdraws_something_stands_behind_it() -> None:
    writer = offline_writer(Settings("paper", 30, seed=0))
    for persona_id in range(30):
        ordered = order(random.Random(persona_id), writer.write(persona_id).conversations)
        for place, block in enumerate(ordered):
            before = [
                i for i, other in enumerate(ordered) if other.about == block.about and other.place == "first"
            ]
            if block.place == "later":
                assert before and max(before) < place


@pytest.mark.parametrize("budget", [60_000, 90_000])
def test_a_history_fills_its_budget_and_holds_every_conversation(counter: TokenCounter, budget: int) -> None:
    record = offline_writer(Settings("paper", 3, seed=0)).write(1)
    history = assemble(record, "32k", budget, counter, seed=0)
    assert history.tokens == size(counter, history.messages)
    assert budget - 1500 < history.tokens <= budget and history.messages[0]["role"] == "system"
    said = [m["content"] for m in history.messages]
    for block in record.conversations:
        start = said.index(block.messages[0]["content"])
        assert said[start : start + len(block.messages)] == [m["content"] for m in block.messages]
    for about, distance in history.distance.items():
        last = [c for c in record.conversations if c.about == about and c.evidence]
        ends = max(said.index(c.messages[0]["content"]) + len(c.messages) for c in last)
        assert distance == size(counter, history.messages[ends:])


def test_the_longer_window_has_the_same_conversations(counter: TokenCounter) -> None:
    record = offline_writer(Settings("paper", 3, seed=0)).write(2)
    short, long = (assemble(record, "32k", budget, counter, seed=0) for budget in (60_000, 90_000))
    assert short.relevant_tokens == long.relevant_tokens
    own = {m["content"] for c in record.conversations for m in c.messages}
    assert [m for m in short.messages if m["content"] in own] == [
        m for m in long.messages if m["content"] in own
    ]


def test_a_window_too_small(counter: TokenCounter) -> None:
    record = offline_writer(Settings("paper", 3, seed=0)).write(0)
    with pytest.raises(
        DataError, match=r"persona 0: its \d+ conversations have \d+ tokens, the window has 300; give"
    ):
        assemble(record, "32k", 300, counter, seed=0)


def test_the_folder_is_read_by_our_own_reader(whole: Path) -> None:
    people: dict[str, set[str]] = {}
    for name in ("train", "val", "benchmark"):
        split = load_split(whole, name)
        assert not split.skipped
        people[name] = {q.persona_id for q in split.questions}
        for question in split.questions:
            question.check()
            assert (question.labels["scenario"] in SCENARIOS) == (question.labels["distance"] is not None)
            assert (question.labels["scenario"] == "") == (question.labels["distance"] is None)
            assert question.query not in {m.content for m in split.history_of(question).messages}
    assert sum(map(len, people.values())) == len(set().union(*people.values())) == 8
    with open(whole / "benchmark/text/train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and all((whole / row["raw_persona_file"]).is_file() for row in rows)
    assert all(
        int(r["total_tokens_in_chat_history_32k"])
        == int(r["num_persona_relevant_tokens_32k"]) + int(r["num_persona_irrelevant_tokens_32k"])
        <= TOKENS
        for r in rows
    )


def test_the_card_and_the_record(whole: Path) -> None:
    record = json.loads((whole / "simulation.json").read_text())
    card = (whole / "README.md").read_text()
    assert sum(record["counts"]["questions"].values()) == 8 * 9
    files = [whole / f"benchmark/text/{split}.csv" for split in ("train", "val", "benchmark")]
    rows = [row for path in files for row in csv.DictReader(path.open(encoding="utf-8", newline=""))]
    assert record["counts"]["preferences"] == sum(row["preference"] != "" for row in rows) > 8 * 6
    assert all(audit["evidence"] == 1 and audit["personal_items"] == 0 for audit in record["audit"].values())
    untold = [row for row in rows if not row["related_conversation_snippet"]]
    assert sum(audit["never_told"] for audit in record["audit"].values()) == len(untold)
    for row in untold:
        blank = (
            "conversation_scenario",
            "preference",
            "prev_pref",
            "distance_from_related_snippet_to_query_32k",
        )
        assert (
            [row[column] for column in blank] == [""] * 4
            and row["who"] == "self"
            and row["updated"] == "False"
        )
    assert (
        card.startswith("---\nlicense: cc-by-4.0\n") and record["sha256"]["benchmark/text/train.csv"] in card
    )
    assert "score of: a trained probe on the options" in card
    names = ["README.md", "benchmark", "data", "memory_targets.jsonl", "simulation.json"]
    assert sorted(p.name for p in whole.iterdir()) == names and record["sha256"][names[3]] in card


def test_targets_of_cold_starts_say_what_the_histories_do(whole: Path, tmp_path: Path) -> None:
    """From the labels alone: what is reasoned of each kind of story, and what a memory holds of it at the
    end."""
    kinds: set[str] = set()
    whole = shutil.copytree(whole, tmp_path / "data")
    (whole / MEMORY_TARGETS).unlink()
    for name in ("train", "val", "benchmark"):
        split = load_split(whole, name)
        notes = load_memory_targets(split)
        for question in split.questions:
            raw = json.loads(
                (whole / f"data/raw_data/raw_data_persona{question.persona_id}.json").read_text()
            )
            (kind,) = {p["kind"] for p in raw["preferences"] if p["topic"] == question.labels["topic"]}
            kinds.add(kind)
            of, labels = notes[question.history_id], question.labels
            lines = of.lines(len(split.history_of(question).messages)).values()
            thought = {
                "others": f"{labels['preference']}, not the user's own",
                "forget": f"{labels['prev_pref']}, forget it",
                "ended": f"{labels['prev_pref']}, given up",
                "open": "nothing",
                "untold": "nothing",
            }
            if kind in SENSITIVE_KINDS:
                continue
            assert reasoning(question).startswith(f"Remembered: {thought.get(kind, labels['preference'])}. ")
            assert (f"{labels['preference']}." in lines) == (kind in USED_KINDS)
            assert (labels["prev_pref"] in of.withdrawn) == (kind in ("forget", "renewed"))
            assert not any(labels["prev_pref"] and labels["prev_pref"] in line for line in lines)
    assert {"own", "open", "update", "renewed", "beside", "forget"} <= kinds


def test_any_number_of_workers_writes_the_same_bytes(settings: Settings, whole: Path, tmp_path: Path) -> None:
    simulate(settings, tmp_path / "again", workers=3)
    assert digest(tmp_path / "again") == digest(whole)


def test_killed_anywhere_and_started_again(settings: Settings, whole: Path, tmp_path: Path) -> None:
    """SIGKILL after some personas are done; half-written files of a persona are written anew."""
    code = (
        "import sys; from pathlib import Path; from rft.simulate import pipeline; from rft.simulate.profile"
        f" import Settings;pipeline.simulate({settings!r}, Path(sys.argv[1]))"
    ).replace("PosixPath", "Path")
    out, partial = tmp_path / "data", tmp_path / ".data.partial"
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], cwd=Path(__file__).parents[2])
    while process.poll() is None and len(list(partial.glob("rows/*.json"))) < 2:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
    process.wait()
    if not out.exists():
        (partial / "data/chat_history_32k/.chat_history_32k_persona7.json.1.partial").write_text("{")
        simulate(settings, out)
    assert digest(out) == digest(whole) and not partial.exists()


def test_a_worker_that_dies_ends_the_run_and_the_next_goes_on(
    settings: Settings, whole: Path, tmp_path: Path
) -> None:
    """As where the machine's memory is full: a line, not a wait for ever."""
    words = [sys.executable, "-m", "rft.cli", *command(settings, tmp_path / "data", "--workers", "2")]
    words[words.index("8")] = "400"  # enough to be caught at work
    process = subprocess.Popen(words, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / ".data.partial").glob("rows/*.json")):
        time.sleep(0.01)
    workers = [
        child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    assert "a worker process died" in process.communicate(timeout=60)[1] and process.returncode == 2
    assert not (tmp_path / "data").exists() and list((tmp_path / ".data.partial").glob("rows/*.json"))


def test_a_finished_dataset_is_left_alone(settings: Settings, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    record = simulate(settings, whole)
    assert sum(record["counts"]["questions"].values()) == 72
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_another_dataset_is_only_replaced_when_told_to(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    assert main(command(settings, out)) == 0
    before = digest(out)
    assert main(command(settings, out, "--license", "mit")) == 2
    assert (
        "contains another dataset (license cc-by-4.0, not mit)" in capsys.readouterr().err
        and digest(out) == before
    )
    assert main(command(settings, out, "--license", "mit", "--overwrite")) == 0
    assert "license: mit" in (out / "README.md").read_text() and [p.name for p in tmp_path.iterdir()] == [
        "data"
    ]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/note.txt").write_text("mine")
    assert main(command(settings, tmp_path / "mine", "--overwrite")) == 2
    assert (
        "is not a simulated dataset" in capsys.readouterr().err
        and (tmp_path / "mine/note.txt").read_text() == "mine"
    )


def test_an_unfinished_run_of_other_settings(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".data.partial").mkdir()
    (tmp_path / ".data.partial/simulation.json").write_text(
        json.dumps({"settings": {**settings.identity(), "seed": 9}})
    )
    with pytest.raises(DataError, match=r"unfinished simulation with other settings \(seed 9, not 1\)"):
        simulate(settings, tmp_path / "data")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--profile", "middle", "--window", "128k"], "profile middle has 32k only"),
        (
            ["--profile", "paper", "--window", "32k", "128k", "--history-tokens", "9"],
            "give a single --window",
        ),
        (["--profile", "paper", "--personas", "2"], "give 3 or more"),
        (["--profile", "paper", "--workers", "0"], "--workers 0"),
        (["--profile", "paper", "--llm-model", "m"], "needed together"),
        (["--profile", "mini", "--tokenizer", "x"], "--tokenizer does not apply to --profile mini; use"),
        (["--profile", "mini", "--history-tokens", "9"], "--history-tokens does not apply to --profile mini"),
        (["--profile", "mini", "--topics", "x"], "--topics does not apply to --profile mini"),
        (["--profile", "mini", "--persona-file", "x"], "--persona-file does not apply to --profile mini"),
        (
            ["--profile", "mini", "--llm-model", "m", "--llm-base-url", "http://x"],
            "--llm-model does not apply to --profile mini",
        ),
        (
            ["--profile", "paper", "--llm-model", "m", "--llm-base-url", "http://x", "--llm-budget", "1"],
            "a budget needs prices",
        ),
        (["--profile", "paper", "--tokenizer", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_settings_that_cannot_be(
    words: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error and not (tmp_path / "out").exists()


def test_pushing_is_only_done_on_request(
    whole: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, repo_id: str, **options: Any) -> str:
            asked.append((repo_id, options))
            return f"https://hub/{repo_id}"

        def upload_folder(self, **options: Any) -> None:
            asked.append((options["repo_id"], options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    from rft.simulate.hub import push

    assert push(whole, "me/people") == "https://hub/me/people"
    assert asked[0] == ("me/people", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert asked[1][1]["folder_path"] == whole
