"""docs/your_questions.md, tried as a new user would: its commands on two exports, a scripted LLM and a tiny
model."""

import json
import re
import shlex
from pathlib import Path

import pytest
from exports import START, sharegpt, talk, write
from peculiar import peculiar
from question_llm import QuestionLlm

from rft import cli

SMALL = ["--dtype", "float32", "--gradient_checkpointing", "false", "--token_cache", "tokens"]
SHORT = {
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
    """A folder with the exports of two users and the recipe that the page names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "exports").mkdir()
    days = [talk(f"c{day}", START + 86_400 * day, *said) for day, said in enumerate(ANA)]
    write(tmp_path / "exports/ana.json", days)
    write(tmp_path / "exports/bo.json", [sharegpt(f"s{n}", *said) for n, said in enumerate(BO)])
    _, grpo = re.findall(r"```yaml\n(.*?)```", (repository / "docs/your_data.md").read_text(), re.S)
    (tmp_path / "grpo.yaml").write_text(grpo)
    return tmp_path


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
    assert "train 1, val 0, benchmark 1" in said[1]
    made = json.loads((here / "questions/dataset.json").read_text())["made"]
    assert {*made["users"]["train"], *made["users"]["benchmark"]} == {"ana", "bo"}
    history = json.loads((here / "questions/histories/ana.json").read_text())
    assert history[0]["content"].startswith("Plan my evening") and history[0]["session"] == 1
    steps = (here / "out/grpo/metrics.jsonl").read_text().splitlines()
    assert json.loads(steps[-1])["step"] == 2 and (here / "out/grpo/model.safetensors").exists()
    summary = json.loads((here / "out/evaluation/summary.json").read_text())
    assert (summary["task"], summary["n"], summary["personas"]) == ("jsonl", 2, 1)
    assert list(summary["by"]["kind"]) in (["changed", "withdrawn"], ["others", "plain"])
    assert (here / "out/evaluation/report.html").exists()
