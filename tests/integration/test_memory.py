"""The memory from end to end with a tiny real model: trained, evaluated, resumed, and by hand on the command
line."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_train import launch, logged, recipe
from transformers import AutoTokenizer

from rft.errors import DataError
from rft.evaluate import command as evaluate_command
from rft.evaluate.memory import MEMORIES, Memory, MemoryAnswers
from rft.evaluate.results import read_rows
from rft.evaluate.run import evaluate
from rft.evaluate.timeline import forgotten
from rft.memory.agent import MemorySettings
from rft.memory.store import read_record
from rft.models.local import LocalModel
from rft.tasks.load import load_split
from rft.tasks.memory_targets import load_memory_targets

REPOSITORY = Path(__file__).resolve().parents[2]
LONG = REPOSITORY.parent / "shared/data/long_histories"
SETTINGS = MemorySettings(160, 128)
SHORT = ("--window", "32k", "--chunk_tokens", "160")  # the recipes read longer histories
HELD_OUT = ("--held_out_split", "val", "--held_out_questions", "8", "--held_out_steps", "50")


@pytest.fixture(scope="module")
def cold_start(mini_data, tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny model after enough steps to write bullets."""
    out = tmp_path_factory.mktemp("memory") / "sft"
    launch(
        "rft.train.memory_sft",
        *recipe(
            "memory_sft.yaml",
            mini_data,
            tiny_checkpoint,
            out,
            *SHORT,
            "--max_steps",
            "100",
            "--learning_rate",
            "3e-3",
            "--lr_scheduler_type",
            "constant_with_warmup",
            "--lr_scheduler_kwargs",
            "{}",
            "--answers_per_update",
            "0.33",
            "--save_strategy",
            "no",
            *HELD_OUT,
        ),
        cwd=out.parent,
    )
    return out


def test_the_cold_start_learns_to_write_bullets(cold_start, mini_data, tmp_path):
    losses = logged(cold_start, "loss")
    assert losses[-1] < losses[0] / 3
    right, missing = logged(cold_start, "held_out/lines_right"), logged(cold_start, "held_out/lines_missing")
    assert len(right) == len(missing) == 2 and all(0 <= share <= 1 for share in (*right, *missing))
    split = load_split(mini_data, "val")
    memory = Memory(LocalModel(cold_start, dtype="float32"), tmp_path / MEMORIES, SETTINGS)
    answerer = MemoryAnswers(memory, max_new_tokens=40)
    evaluate(split, tmp_path, answerer)
    records = [read_record(tmp_path / MEMORIES / f"{history}.md") for history in split.histories]
    assert all(record.finished for record in records)
    turns = [turn for record in records for turn in record.turns]
    share = sum(not turn.empty for turn in turns) / len(turns)
    assert share > 0.5  # 0 before training


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        ((), 1),
        # unequal rows a rank
        (("--per_device_train_batch_size", "16", "--window", "128k", "--chunk_tokens", "320"), 2),
        (
            (
                "--use_peft",
                "--lora_dropout",
                "0",
                "--lora_target_modules",
                "all-linear",
                "--beta",
                "0.01",
                "--turn_weighting",
                "trajectory",
                "--memory_rewards",
                "reward.memory.forgotten_absent",
                "reward.memory.within_budget",
                "--memory_reward_weights",
                "0.1",
                "0.1",
                "--answers_per_memory",
                "2",
                "--per_device_train_batch_size",
                "16",
                "--gradient_accumulation_steps",
                "2",
            ),
            1,
        ),
    ],
    ids=["one process", "two processes", "LoRA with a reference and memory rewards"],
)
def test_grpo_trains(cold_start, mini_data, tmp_path, words, processes):
    out = tmp_path / "grpo"
    done = launch(
        "rft.train.memory_grpo",
        *recipe(
            "memory_grpo.yaml",
            mini_data,
            cold_start,
            out,
            *SHORT,
            "--max_steps",
            "2",
            "--save_steps",
            "1",
            "--per_device_train_batch_size",
            "32",
            *HELD_OUT,
            *words,
        ),
        processes=processes,
        cwd=tmp_path,
    )
    assert "trajectories, each of which answers up to 8 questions" in done.stderr
    assert len(logged(out, "reward")) == 2
    # after the last
    assert len(logged(out, "held_out/lines_right")) == len(logged(out, "held_out/right_and_consistent")) == 1
    assert logged(out, "prefix_tree/token_ratio")[0] > 1.5
    assert max(logged(out, "sampling/logp_difference_max")) < 1e-3


@pytest.fixture(scope="module")
def model(cold_start) -> LocalModel:
    return LocalModel(cold_start, device="cpu", dtype="float32")


def test_memories_are_written_once_and_reused(model, mini_data, tmp_path):
    split = load_split(mini_data, "benchmark")
    answerer = MemoryAnswers(Memory(model, tmp_path / "a" / MEMORIES, SETTINGS), max_new_tokens=24)
    part = evaluate(split, tmp_path / "a", answerer, limit=5)
    files = sorted((tmp_path / "a" / MEMORIES).glob("[0-9a-f]*.md"))
    assert len([f for f in files if "previous" not in f.name]) == len(
        {q.history_id for q in split.questions[:5]}
    )
    written = {f: f.stat().st_mtime_ns for f in files}
    whole = evaluate(
        split,
        tmp_path / "a",
        MemoryAnswers(Memory(model, tmp_path / "a" / MEMORIES, SETTINGS), max_new_tokens=24),
    )
    assert all(f.stat().st_mtime_ns == then for f, then in written.items())
    again = evaluate(
        split,
        tmp_path / "b",
        MemoryAnswers(Memory(model, tmp_path / "b" / MEMORIES, SETTINGS), max_new_tokens=24),
        batch_size=3,
    )
    assert {k: v for k, v in whole.dump().items() if k != "seconds"} == {
        k: v for k, v in again.dump().items() if k != "seconds"
    }
    assert part.n == 5
    page = (tmp_path / "a" / "memory.html").read_text()
    assert all(f"history {history}" in page for history in split.histories)


def test_input_tokens_are_counted_both_ways(model, mini_data, tmp_path):
    split = load_split(mini_data, "benchmark")
    answerer = MemoryAnswers(Memory(model, tmp_path / MEMORIES, SETTINGS), max_new_tokens=8)
    summary = evaluate(split, tmp_path, answerer)
    rows = read_rows(tmp_path)
    answering = [
        len(
            answerer.memory.agent.answer_ids(
                q, (tmp_path / MEMORIES / f"{q.history_id}.md").read_text().strip()
            )
        )
        for q in split.questions
    ]
    assert summary.input_tokens_per_question == sum(answering) / len(answering)
    writing = sum(
        read_record(tmp_path / MEMORIES / f"{history}.md").input_tokens for history in split.histories
    )
    assert summary.input_tokens_with_writing == pytest.approx((sum(answering) + writing) / len(rows))


def test_what_was_withdrawn_is_looked_for_in_the_memories(model, mini_data, tmp_path):
    split = load_split(mini_data, "forget")
    summary = evaluate(
        split, tmp_path, MemoryAnswers(Memory(model, tmp_path / MEMORIES, SETTINGS), max_new_tokens=8)
    )
    assert summary.forgotten.withdrawn == 4 * len(split.histories)
    history, of = next(iter(load_memory_targets(split).items()))
    path = tmp_path / MEMORIES / f".{history}.md.json"
    record = json.loads(path.read_text())
    for last, gone in ((f"- Enjoys {of.withdrawn[1]}.", 1), ("- music: forgotten.", 2)):
        record["turns"] = [
            {**record["turns"][0], "memory": text}
            for text in (f"- Enjoys {of.withdrawn[0]}.\n- {of.withdrawn[1]}", last)
        ]
        path.write_text(json.dumps(record))
        for other in split.histories:
            if other != history:
                (tmp_path / MEMORIES / f".{other}.md.json").unlink(missing_ok=True)
        found = forgotten(split, tmp_path / MEMORIES)
        assert (found.written, found.gone, found.rate) == (2, gone, gone / 2)


def test_memories_of_other_settings_are_not_mixed(model, mini_data, tmp_path):
    split = load_split(mini_data, "val")
    Memory(model, tmp_path, SETTINGS).prepare(list(split.histories.values()))
    with pytest.raises(DataError, match="written by another model or with other settings"):
        Memory(model, tmp_path, MemorySettings(200, 128)).prepare(list(split.histories.values()))


def test_the_context_is_rendered_as_in_training(model, mini_data, tmp_path):
    split = load_split(mini_data, "val")
    answerer = MemoryAnswers(Memory(model, tmp_path, SETTINGS))
    for question in split.questions[:8]:
        history = split.history_of(question)
        made = answerer.memory.messages(question, history)
        memory = (tmp_path / f"{history.id}.md").read_text().strip()
        template = model.tokenizer.apply_chat_template(made, add_generation_prompt=True, return_dict=False)
        assert template == answerer.memory.agent.answer_ids(question, memory)
        assert answerer.memory.read(question, history).startswith(
            f"a memory of {len(memory.splitlines())} lines"
        )


def evaluate_by_hand(*words: str) -> int:
    parser = argparse.ArgumentParser()
    evaluate_command.add_arguments(parser)
    return evaluate_command.run(parser.parse_args(words))


def test_the_command_answers_from_memories_in_every_order(cold_start, mini_data, tmp_path, caplog):
    words = [
        "--model",
        str(cold_start),
        "--data",
        str(mini_data),
        "--split",
        "forget",
        "--context",
        "memory",
        "--limit",
        "4",
    ]
    words += [
        "--chunk-tokens",
        "160",
        "--memory-tokens",
        "128",
        "--max-new-tokens",
        "8",
        "--option-orders",
        "2",
    ]
    words += ["--passages", "3", "--token-cache", str(tmp_path / "tokens"), "--out", str(tmp_path / "out")]
    assert evaluate_by_hand(*words) == 0
    assert "--passages is ignored: the context is memory" in caplog.text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    rows = read_rows(tmp_path / "out")
    assert summary["n"] == 4 and len(rows) == 8 and "blind" in summary["controls"]
    writing = {row.history_id: row.writing_tokens for row in rows}
    assert summary["input_tokens_with_writing"] - summary["input_tokens_per_question"] == pytest.approx(
        sum(writing.values()) / 4
    )
    assert summary["settings"]["chunk_tokens"] == 160
    assert "Growth of each memory" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "memory.html").exists()
    with pytest.raises(DataError, match="memories are written by a model on this machine"):
        evaluate_by_hand(*words, "--base-url", "http://localhost:9/v1")


def rft(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "rft.cli", "memory", *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_by_hand(cold_start, mini_data, tmp_path):
    chat = next((mini_data / "data/chat_history_128k").glob("*.json"))
    size = ("--chunk-tokens", "160", "--memory-tokens", "128")
    done = rft(
        "write", "--model", str(cold_start), "--history", str(chat), "--out", "memory.md", *size, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "chunk 1 of" in done.stdout and "+ " in done.stdout
    assert re.search(r"written: [\d,]+; \d+ chunks in \d+\.\d s$", done.stdout.strip())
    memory = (tmp_path / "memory.md").read_text()
    assert all(line.startswith("- ") for line in memory.splitlines())
    shown = rft("show", "--memory", "memory.md", cwd=tmp_path)
    assert all(line in shown.stdout for line in memory.splitlines())
    answer = rft(
        "answer",
        "--model",
        str(cold_start),
        "--memory",
        "memory.md",
        "--max-new-tokens",
        "8",
        "What music should I put on?",
        cwd=tmp_path,
    )
    assert answer.returncode == 0 and answer.stdout.strip()
    again = rft(
        "write", "--model", str(cold_start), "--history", str(chat), "--out", "memory.md", *size, cwd=tmp_path
    )
    assert "chunk 1 of" not in again.stdout and (tmp_path / "memory.md").read_text() == memory


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_it_goes_on_at_its_chunk(cold_start, mini_data, tmp_path, signal_sent):
    chat = next((mini_data / "data/chat_history_128k").glob("*.json"))
    words = [
        "write",
        "--model",
        str(cold_start),
        "--history",
        str(chat),
        "--chunk-tokens",
        "60",
        "--memory-tokens",
        "128",
    ]
    whole = rft(*words, "--out", "whole.md", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "rft.cli", "memory", *words, "--out", "m.md"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs inherit that it is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in running.stdout:
        if line.startswith("chunk 3 of"):
            break
    running.send_signal(signal_sent)
    _, said = running.communicate(timeout=60)
    assert running.returncode == (130 if signal_sent == signal.SIGINT else -signal.SIGKILL)
    assert signal_sent == signal.SIGKILL or "run the same command again to resume" in said
    record = read_record(tmp_path / "m.md")
    assert 2 <= len(record.chunks) and not record.finished
    rest = rft(*words, "--out", "m.md", cwd=tmp_path)
    assert f"{len(record.chunks)} of them already read" in rest.stdout
    assert (tmp_path / "m.md").read_text() == (tmp_path / "whole.md").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "must be a list with at least one message"),
        (
            '[{"role": "human", "content": "hello"}]',
            "unknown role 'human'; expected one of system, user, assistant",
        ),
        ("\x00\x01 noise", "broken JSON"),
        ('[{"role": "system", "content": "persona"}]', "no conversation after the persona message"),
    ],
)
def test_a_chat_that_cannot_be_read_is_named(content, said, tiny_checkpoint, tmp_path):
    (tmp_path / "chat.json").write_text(content)
    done = rft(
        "write", "--model", str(tiny_checkpoint), "--history", "chat.json", "--out", "memory.md", cwd=tmp_path
    )
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "memory.md").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "--memory", "no.md"), "no.md: no such memory"),
        (
            ("write", "--model", "MODEL", "--history", "chat.json", "--out", "m.md", "--chunk-tokens", "0"),
            "--chunk-tokens 0: expected 1 or more",
        ),
        (
            (
                "write",
                "--model",
                "MODEL",
                "--history",
                "chat.json",
                "--out",
                "m.md",
                "--chunk-tokens",
                "4000",
            ),
            "positions of",
        ),
    ],
)
def test_a_mistake_ends_in_one_line(words, said, tiny_checkpoint, tmp_path):
    (tmp_path / "chat.json").write_text(
        json.dumps([{"role": "user", "content": "I was listening to jazz. " * 900}])
    )
    done = rft(*(str(tiny_checkpoint) if word == "MODEL" else word for word in words), cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not LONG.exists(), reason="the long histories are not on this machine")
def test_a_real_history_of_100k_tokens_is_read_in_chunks(tiny_checkpoint):
    from rft.data.history import read_history
    from rft.memory.agent import MemoryAgent

    agent = MemoryAgent(AutoTokenizer.from_pretrained(tiny_checkpoint), MemorySettings(5000, 256))
    history = read_history(sorted(LONG.glob("*.json"))[0])
    chunks = agent.chunks(history)
    empty = len(agent._tokens_without_history.history_ids(None))
    assert len(chunks) > 10
    assert all(len(agent.tokens.history_ids(chunk.history)) - empty <= 5000 for chunk in chunks)
