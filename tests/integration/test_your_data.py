"""docs/your_data.md, tried as a new user would: its files, its recipes, its commands, on a tiny model."""

import json
import re
import shlex
from pathlib import Path

import pytest
from served import serve

from reward.judge import VOTES
from rft import cli
from rft.errors import RecipeError
from rft.plan.dry_run import DryRun
from rft.train.grpo import train as grpo
from rft.train.sft import train as sft

SMALL = ["--dtype", "float32", "--gradient_checkpointing", "false", "--token_cache", "tokens"]
SHORT = {"rft grpo": ["--max_completion_length", "8"], "rft evaluate --model": ["--max-new-tokens", "8"]}


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs/your_data.md").read_text()


@pytest.fixture
def here(page, tmp_path, monkeypatch):
    """A folder with the files and recipes of the page; the current folder and the home of caches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, text in re.findall(r"`(mine/[\w./]+)`[^`]*?:\n\n```json\n(.*?)```", page, re.S):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, text in zip(
        ("sft.yaml", "grpo.yaml"), re.findall(r"```yaml\n(.*?)```", page, re.S), strict=True
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_the_commands_of_the_page(here, page, tiny_checkpoint, capsys):
    [block] = re.findall(r"```bash\n(.*?)```", page, re.S)
    said = {}
    for line in block.splitlines():
        words = shlex.split(line.replace("MODEL", str(tiny_checkpoint)))
        trains = words[1] in ("sft", "grpo")
        more = next((words for start, words in SHORT.items() if line.startswith(start)), [])
        assert cli.main([*words[1:], *(SMALL if trains else []), *more]) == 0, line
        said[line.split()[1]] = capsys.readouterr().out
    assert "questions without options" in said["data"]
    summary = json.loads((here / "out/mine_evaluation/summary.json").read_text())
    assert (summary["task"], summary["n"], summary["personas"]) == ("jsonl", 2, 1)
    assert summary["guessing"] == pytest.approx(1 / 6) and summary["answer_letters"].keys() == {
        *"abc",
        "none",
    }
    assert summary["by"].keys() == {"topic", "history_length"} and "token_f1" in summary
    report = (here / "out/mine_evaluation/report.html").read_text()
    assert "Topic" in report and "Guessing gives 17" in report and "arXiv 2512" not in report
    options, free = sorted(rows_of(here / "out/mine_evaluation"), key=lambda row: row["id"])
    assert options["options"][ord(options["gold"]) - ord("a")] == "Mushrooms."
    assert (free["gold"], free["abstain"], free["options"]) == (None, True, [])
    logged = [json.loads(line) for line in (here / "out/mine_grpo/metrics.jsonl").read_text().splitlines()]
    assert all({"rewards/personamem/mean", "rewards/token_f1/mean"} & row.keys() for row in logged[:2])
    assert cli.main(["report", "out/mine_grpo"]) == 0 and cli.main(["report", "out/mine_sft"]) == 0
    assert cli.main(["compare", "out/mine_evaluation", "out/mine_longest", "--out", "out/both"]) == 0


def test_targets_score_one_and_rewards_are_chosen_by_the_questions(here, tiny_checkpoint):
    from rft.data.tokenizer import load_tokenizer
    from rft.tasks.load import load_split
    from rft.train.grpo_config import HistoryGRPOConfig
    from rft.train.judged import prepare
    from rft.train.rewards import Scorer, question_columns
    from rft.train.targets import ABSTENTION, target

    questions = load_split(here / "mine", "train").questions
    tokenizer = load_tokenizer(str(tiny_checkpoint))

    def prepared(asked, **fields):
        args = HistoryGRPOConfig(
            output_dir=str(here / "x"), bf16=False, use_cpu=True, report_to="none", **fields
        )
        scorer = Scorer(args.reward_functions(), args.reward_weights)
        prepare(scorer, args, asked, tokenizer)
        return scorer

    assert prepared(questions[:2]).names == ["personamem"]
    scorer = prepared(questions)
    assert scorer.names == ["personamem", "token_f1"]
    assert prepared(questions, rewards=["reward.personamem", "reward.exact_match"]).names[1] == "exact_match"
    with pytest.raises(RecipeError, match="reward_weights has 1 numbers, but .* token_f1 as well"):
        prepared(questions, reward_weights=[1.0])
    assert target(questions[2], knows=False).endswith(f"</think>{ABSTENTION}")
    assert target(questions[0], knows=False).endswith(f"\\boxed{{{questions[0].gold}}}")
    for question in questions:
        columns = {key: [value] for key, value in question_columns(question).items()}
        scores = [f.function([target(question)], **columns)[0] for f in scorer.rewards]
        assert [score for score in scores if score is not None] == [1.0], question.id


def test_a_judge_scores_answers_without_options(here, tiny_checkpoint, capsys):
    rows = []
    with serve(lambda messages: "VERDICT: YES") as server:
        words = [
            "evaluate",
            "--model",
            str(tiny_checkpoint),
            "--data",
            "mine",
            "--split",
            "train",
            "--no-controls",
        ]
        words += ["--judge-base-url", server.url, "--judge-model", "judge", "--max-new-tokens", "6"]
        assert cli.main([*words, "--out", "out"]) == 0
        shown = [request["messages"][1]["content"] for request in server.requests]
    rows = sorted(rows_of(here / "out"), key=lambda row: row["id"])
    assert ["votes" in row for row in rows] == [False, False, True, True]
    assert all(row["score"] is not None for row in rows)
    asked = [row for row in rows if row["open_ended"] and row["answered"]]
    assert len(shown) == VOTES * len(asked)
    for row in asked:
        fact = json.dumps("\n".join(row["accepted"]) if "accepted" in row else "")
        assert sum(f'"fact": {fact}' in text for text in shown) == VOTES


def test_a_cold_start_needs_answers_to_imitate(here, tiny_checkpoint):
    (here / "mine/dataset.json").write_text('{"judge_only": true}')
    words = ["--model_name_or_path", str(tiny_checkpoint), *SMALL]
    with pytest.raises(RecipeError, match="question train-2: only a judge can score"):
        sft(["--config", "sft.yaml", *words])
    with pytest.raises(RecipeError, match="question train-2 has no options .* set judge_base_url"):
        grpo(["--config", "grpo.yaml", *words])


def test_memory_sft_says_what_is_missing(here, tiny_checkpoint):
    from rft.train.memory_sft import train as memory_sft

    words = ["--config", "sft.yaml", "--model_name_or_path", str(tiny_checkpoint), *SMALL]
    with pytest.raises(RecipeError, match=r"mine: no memory_targets\.jsonl"):
        memory_sft(words)


def test_the_memory_arm_and_the_other_contexts(here, tiny_checkpoint):
    words = ["--config", "grpo.yaml", "--model_name_or_path", str(tiny_checkpoint), *SMALL]
    words += [
        "--chunk_tokens",
        "90",
        "--memory_tokens",
        "12",
        "--max_completion_length",
        "6",
        "--max_steps",
        "1",
    ]
    assert cli.main(["memory-grpo", *words, "--per_device_train_batch_size", "4"]) == 0
    asked = ["evaluate", "--data", "mine", "--no-controls", "--max-new-tokens", "6"]
    for context, more in (("memory", ["--chunk-tokens", "90", "--memory-tokens", "12"]), ("retrieval", [])):
        model = ["--model", "out/mine_grpo", "--context", context, *more, "--out", f"out/{context}"]
        assert cli.main([*asked, *model]) == 0 and len(rows_of(here / "out" / context)) == 2


def test_a_dry_run_of_both_trainings(here, tiny_checkpoint, capsys):
    for name, train in (("sft", sft), ("grpo", grpo)):
        with pytest.raises(DryRun):
            train(
                [
                    "--config",
                    f"{name}.yaml",
                    "--model_name_or_path",
                    str(tiny_checkpoint),
                    *SMALL,
                    "--dry_run",
                ]
            )
        assert "question train-" in capsys.readouterr().out
