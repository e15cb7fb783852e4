"""docs/your_questions.md, tried as a new user would: its commands on two exports, a scripted LLM and a tiny
model."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from exports import START, sharegpt, talk, write, write_zip
from peculiar import peculiar
from question_llm import QuestionLlm, of_user, save

from rft import cli

SMALL = ["--dtype", "float32", "--gradient_checkpointing", "false", "--token_cache", "tokens"]
SHORT = {
    "rft sft": SMALL,
    "rft grpo": ["--max_completion_length", "8", *SMALL],
    "rft evaluate --model": ["--max-new-tokens", "8"],
}
ANA = (
    (
        "Plan my evening. For dinner I want red lentils.",
        "Cook them slowly.",
        "For travel I want night trains.",
        "Noted.",
    ),
    ("For travel I now want slow boats.", "Noted.", "For dinner forget that I want red lentils.", "I will."),
)
BO = (
    (
        "Translate: Dana wrote: for lunch I want cold soup.",
        "Done.",
        "For breakfast I want warm bread.",
        "Good.",
    ),
    ("What is the capital of Peru?", "Lima."),
)


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the exports of two users and the recipes that the page names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "exports").mkdir()
    days = [talk(f"c{day}", START + 86_400 * day, *said) for day, said in enumerate(ANA)]
    write_zip(tmp_path / "exports/ana.zip", {"conversations.json": json.dumps(days), "user.json": "{}"})
    write(tmp_path / "exports/bo.json", [sharegpt(f"s{n}", *said) for n, said in enumerate(BO)])
    recipes = re.findall(r"```yaml\n(.*?)```", (repository / "docs/your_data.md").read_text(), re.S)
    for name, recipe in zip(("sft.yaml", "grpo.yaml"), recipes, strict=True):
        (tmp_path / name).write_text(recipe)
    return tmp_path


def test_the_sample_of_the_page_has_the_lines_of_the_command(here, repository, capsys):
    """A line's form is its words without numbers; reasons, which are indented, may be others."""

    def forms(text: str) -> list[str]:
        lines = [re.sub(r"  \S+  .*", "  N  reason", line) for line in text.splitlines()]
        return list(dict.fromkeys(re.sub(r"\d[\d,.]*", "N", line) for line in lines))

    def change(task: str, given: dict, answer: Any) -> Any:
        spoiled = task == "findings" and "bread0" in json.dumps(given)
        return {"preferences": [answer["preferences"][-1] | {"quote": "no"}]} if spoiled else answer

    for number in range(5):
        save(here / "all_chats", f"user{number}", of_user(number))
    with peculiar(QuestionLlm(change)) as server:
        words = "questions write --chats all_chats --out questions --held-out-users 0.25 --llm-price 2 8"
        assert cli.main([*words.split(), "--llm-base-url", server.url, "--llm-model", "played"]) == 0
    page = (repository / "docs/your_questions.md").read_text()
    [sample] = re.findall(r"```text\n(.*?)```", page, re.S)
    assert forms(sample) == forms(capsys.readouterr().out)


def test_the_commands_of_the_page(here, repository, tiny_checkpoint, capsys):
    page = (repository / "docs/your_questions.md").read_text()
    [block] = re.findall(r"```bash\n(.*?)```", page, re.S)
    said = []
    with peculiar(QuestionLlm()) as server:
        for line in block.splitlines():
            given = (
                line.replace("URL", server.url)
                .replace("NAME", "played")
                .replace("MODEL", str(tiny_checkpoint))
            )
            more = next((words for start, words in SHORT.items() if line.startswith(start)), [])
            assert cli.main([*shlex.split(given)[1:], *more]) == 0, line
            said.append(capsys.readouterr().out)
    assert "questions: 4 questions (changed 1, others 1, plain 1, withdrawn 1)" in said[1]
    assert "users by split, none in two: train 1, val 0, benchmark 1" in said[1]
    assert "LLM: calls " in said[1] and "cost_usd" not in said[1], "no price was given"
    assert (here / "out/questions_grpo/training.html").exists()
    made = json.loads((here / "questions/dataset.json").read_text())["made"]
    assert {*made["users"]["train"], *made["users"]["benchmark"]} == {"ana", "bo"}
    history = json.loads((here / "questions/histories/ana.json").read_text())
    assert history[0]["content"].startswith("Plan my evening") and history[0]["session"] == 1
    steps = (here / "out/questions_grpo/metrics.jsonl").read_text().splitlines()
    assert json.loads(steps[-1])["step"] == 2 and (here / "out/questions_grpo/model.safetensors").exists()
    summary = json.loads((here / "out/questions_evaluation/summary.json").read_text())
    assert (summary["task"], summary["n"], summary["personas"]) == ("jsonl", 2, 1)
    assert list(summary["by"]["kind"]) in (["changed", "withdrawn"], ["others", "plain"])
    assert (here / "out/questions_evaluation/report.html").exists()
