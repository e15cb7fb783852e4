"""Converted benchmarks through training and evaluation with a tiny model: PrefEval trained on some topics and
reported on another, LoCoMo with each history read once.
"""

import json
import re
from pathlib import Path

import benchmark_files as made
from runs import HERE

from rft.cli import main
from rft.evaluate.model_answers import ModelAnswers
from rft.evaluate.run import evaluate
from rft.models.local import LocalModel
from rft.tasks.load import load_split

TINY = ["--max_steps", "2", "--bf16", "false", "--gradient_checkpointing", "false", "--dtype", "float32"]
TINY += ["--report_to", "none", "--per_device_train_batch_size", "4"]
GENERATES = ["--num_generations", "4", "--max_completion_length", "8"]
GENERATES += ["--rewards", f"{HERE / 'rewards_for_tests.py'}:scatter"]


def recipes(repository: Path, folder: Path) -> dict[str, str]:
    """Writes the recipes of docs/benchmarks.md and returns {name: path}."""
    page = (repository / "docs/benchmarks.md").read_text(encoding="utf-8")
    found = re.findall(r"`(\w+)\.yaml`[^`]*```yaml\n(.*?)```", page, re.DOTALL)
    return {name: str(made.write(folder / f"{name}.yaml", text)) for name, text in found}


def test_prefeval_trains_on_two_topics_and_reports_on_the_third(tiny_checkpoint, repository, tmp_path):
    source, data = made.prefeval(tmp_path, rows=4), tmp_path / "data"
    assert main(["data", "convert", "prefeval", str(source), "--out", str(data), "--filler-turns", "2"]) == 0
    files = recipes(repository, tmp_path)
    sft, grpo, out = (str(tmp_path / name) for name in ("sft", "grpo", "out"))
    words = ["--config", files["prefeval_sft"], "--data", str(data), *TINY]
    assert main(["sft", *words, "--model_name_or_path", str(tiny_checkpoint), "--output_dir", sft]) == 0
    words = ["--config", files["prefeval_grpo"], "--data", str(data), *TINY, *GENERATES]
    assert main(["grpo", *words, "--model_name_or_path", sft, "--output_dir", grpo]) == 0
    words = ["--model", grpo, "--data", str(data), "--out", out, "--max-new-tokens", "8"]
    assert main(["evaluate", *words]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert summary["n"] == 4 and set(summary["by"]["topic"]) == {"travel"}
    assert summary["controls"]["longest"]["accuracy"] == 1.0 and "blind" in summary["controls"]


def test_each_history_of_locomo_is_prefilled_once(tiny_checkpoint, tmp_path):
    path = made.locomo(tmp_path / "source")
    (conversation,) = json.loads(path.read_text(encoding="utf-8"))
    template = conversation["qa"][0]
    asked = {"conv-26": 199, "conv-30": 105}  # as in the original
    made.write(
        path,
        [
            {
                **conversation,
                "sample_id": sample,
                "conversation": {
                    **conversation["conversation"],
                    "session_2": [{"speaker": "Bo", "text": f"I am back in {sample}. " * 40}],
                },
                "qa": [{**template, "question": f"What about {place}?"} for place in range(count)],
            }
            for sample, count in asked.items()
        ],
    )
    assert main(["data", "convert", "locomo", str(path), "--out", str(tmp_path / "data")]) == 0
    split = load_split(tmp_path / "data", "benchmark")
    model = LocalModel(tiny_checkpoint, device="cpu", dtype="float32")
    forwarded: list[int] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: forwarded.append(kwargs["input_ids"].shape[-1]), with_kwargs=True
    )
    answerer = ModelAnswers(model, "history", max_new_tokens=1)  # one forward per batch: its prefill
    summary = evaluate(split, tmp_path / "out", answerer, batch_size=max(asked.values()))
    prompts: dict[str, list[list[int]]] = {}
    for question in split.questions:
        ids = answerer.tokens.prompt_ids(question, split.history_of(question))
        prompts.setdefault(question.persona_id, []).append(ids)
    assert {sample: len(ids) for sample, ids in prompts.items()} == asked
    assert len(forwarded) == len(asked)
    history = min(len(answerer.tokens.history_ids(history)) for history in split.histories.values())
    fewest = [distinct_prefixes(ids) for ids in prompts.values()]
    for tokens, least in zip(sorted(forwarded), sorted(fewest), strict=True):
        assert least <= tokens < least + history / 2  # a second pass over a history would not fit
    assert summary.n == 304 and summary.personas == 2 and set(summary.by["category"]) == {"temporal"}
    unshared = sum(len(ids) for each in prompts.values() for ids in each)
    assert unshared == summary.input_tokens_per_question * summary.n > 5 * sum(forwarded)


def distinct_prefixes(prompts: list[list[int]]) -> int:
    """The nodes of the trie of these prompts: the tokens that must be forwarded at least."""
    nodes: dict[tuple[int, int], int] = {}
    for prompt in prompts:
        node = 0
        for token in prompt:
            node = nodes.setdefault((node, token), len(nodes) + 1)
    return len(nodes)


def test_free_answers_of_prefeval_need_a_judge(tiny_checkpoint, tmp_path, capsys):
    source, data = made.prefeval(tmp_path), tmp_path / "data"
    words = ["--out", str(data), "--filler-turns", "1", "--answers", "free"]
    assert main(["data", "convert", "prefeval", str(source), *words]) == 0
    words = ["--model", str(tiny_checkpoint), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *words, "--max-new-tokens", "4"]) == 2
    assert "only a judge can score them" in capsys.readouterr().err
    assert not Path(tmp_path / "out/summary.json").exists()
