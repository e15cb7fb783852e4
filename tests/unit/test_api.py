"""The Python API: light to import, visible to type checkers, and thin: it does what the commands do."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from trl import ModelConfig

import rft
from rft import cli
from rft.errors import DataError, RecipeError
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.recipe import DataArguments, parse

CHAT = [
    {"role": "user", "content": "I gave up coffee for green tea."},
    {"role": "assistant", "content": "Good for your sleep!"},
]


def test_import_loads_nothing_but_the_version(repository):
    code = "import sys; before = {*sys.modules}; import rft; print(*({*sys.modules} - before))"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    loaded = said.stdout.split()
    assert sorted(name for name in loaded if name.startswith("rft")) == ["rft", "rft.version"]
    assert {name.split(".")[0] for name in loaded} - sys.stdlib_module_names == {"rft"}


def test_help_loads_no_torch(repository):
    code = "import sys; from rft.cli import main; main(['--help']); print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert not {"torch", "transformers", "numpy", "pydantic"} & {*said.stdout.split()}


def test_type_checkers_see_the_names_that_are_imported_later(repository):
    tree = ast.parse((repository / "rft/__init__.py").read_text())
    [typed] = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        alias.asname or alias.name: (node.module, alias.name) for node in typed.body for alias in node.names
    }
    assert seen == rft._HOMES and sorted([*seen, "__version__"]) == sorted(rft.__all__)
    assert (repository / "rft/py.typed").is_file()


def test_every_name_is_there_with_a_docstring():
    for name in rft.__all__:
        assert name in dir(rft) and (name == "__version__" or getattr(rft, name).__doc__), name
    with pytest.raises(AttributeError, match="no attribute 'load_splitt'"):
        rft.load_splitt  # noqa: B018


def test_counting_tokens(mini_data, tiny_checkpoint):
    from rft.data.prompt import PromptTokens
    from rft.data.tokenizer import load_tokenizer

    split = rft.load_split(mini_data, "benchmark")
    counted = rft.count_tokens(split, tiny_checkpoint)
    assert counted.keys() == {question.id for question in split.questions}
    question = split.questions[3]
    ids = PromptTokens(load_tokenizer(str(tiny_checkpoint))).prompt_ids(question, split.history_of(question))
    assert counted[question.id] == len(ids)
    alone = rft.count_tokens(split, load_tokenizer(str(tiny_checkpoint)), context="none")
    assert all(alone[id] < tokens for id, tokens in counted.items())


def test_checking_data_is_the_command(mini_data, tmp_path, capsys):
    assert cli.main(["data", "check", str(mini_data), "--json", str(tmp_path / "check.json")]) == 0
    assert json.loads(json.dumps(rft.check_data(str(mini_data)))) == json.loads(
        (tmp_path / "check.json").read_text()
    )


def test_an_evaluation_is_that_of_the_command(mini_data, tiny_checkpoint, tmp_path, capsys):
    split = rft.load_split(mini_data, "benchmark")
    summary = rft.evaluate_model(tiny_checkpoint, split, tmp_path / "api", limit=2, max_new_tokens=4)
    words = [
        "--model",
        str(tiny_checkpoint),
        "--data",
        str(mini_data),
        "--limit",
        "2",
        "--max-new-tokens",
        "4",
    ]
    assert cli.main(["evaluate", *words, "--out", str(tmp_path / "command")]) == 0
    of_command = json.loads((tmp_path / "command/summary.json").read_text())
    ours = json.loads((tmp_path / "api/summary.json").read_text())
    assert (
        ours | {"seconds": 0} == of_command | {"seconds": 0}
        and summary.n == 2
        and "blind" in ours["controls"]
    )
    assert cli.main(["evaluate", *words, "--out", str(tmp_path / "api")]) == 0  # resumes it


def test_evaluation_from_memories_and_passages(mini_data, tiny_checkpoint, tmp_path):
    split = rft.load_split(mini_data, "benchmark")
    model = rft.LocalModel(tiny_checkpoint)
    for context in ("memory", "retrieval"):
        asked = {"context": context, "limit": 1, "max_new_tokens": 4, "controls": False}
        asked |= {"chunk_tokens": 300, "memory_tokens": 16}
        assert rft.evaluate_model(model, split, tmp_path / context, **asked).context == context
    assert list((tmp_path / "memory/memories").glob("*.md"))


def test_what_cannot_be_evaluated_is_said_in_one_line(mini_data, tmp_path):
    split = rft.load_split(mini_data, "benchmark")
    with pytest.raises(DataError, match="unknown context 'chat'; expected one of history"):
        rft.evaluate_model("x", split, tmp_path, context="chat")
    with pytest.raises(DataError, match="samples 2: at temperature 0"):
        rft.evaluate_model("x", split, tmp_path, samples=2)
    with pytest.raises(DataError, match="written by a model on this machine"):
        rft.evaluate_model(rft.Endpoint("http://localhost:1/v1", "x"), split, tmp_path, context="memory")


def test_a_memory_reads_what_is_new_and_answers_as_the_command(tiny_checkpoint, tmp_path, capsys):
    model = rft.LocalModel(tiny_checkpoint)
    memory = rft.Memory(tmp_path / "ana.md", model, chunk_tokens=64, memory_tokens=16)
    assert memory.text == ""
    with pytest.raises(DataError, match=r"ana\.md: no such memory"):
        memory.answer("What do I drink?")
    first = memory.read(CHAT * 9)
    assert len(first) > 2 and memory.read(CHAT * 9) == [] and memory.read(CHAT * 12)
    with pytest.raises(DataError, match="written from another history"):
        memory.read(CHAT[::-1] * 9)
    with pytest.raises(DataError, match="chat: message 0: unknown role 'ana'"):
        memory.read([{"role": "ana", "content": "Hello"}])
    with pytest.raises(DataError, match="chat: expected a list with at least one message"):
        memory.read([])
    (tmp_path / "ana.json").write_text(json.dumps(CHAT * 12))
    assert memory.read(tmp_path / "ana.json") == []
    (tmp_path / "ana.md").write_text("- drinks: green tea\n")
    answer = memory.answer("What do I drink?", max_new_tokens=6)
    words = ["--model", str(tiny_checkpoint), "--memory", str(tmp_path / "ana.md"), "--max-new-tokens", "6"]
    assert cli.main(["memory", "answer", *words, "What do I drink?"]) == 0
    assert "".join(capsys.readouterr().out.split()) == "".join(answer.split())


def test_a_dict_is_read_as_the_command_line_is(tmp_path):
    types = (DataArguments, HistoryGRPOConfig, ModelConfig)
    fields = {"output_dir": tmp_path, "report_to": "none", "rewards": ["reward.paper"], "max_steps": 3}
    of_dict = parse(types, {"config": "quickstart/grpo.yaml", **fields})
    words = [
        "--output_dir",
        str(tmp_path),
        "--report_to",
        "none",
        "--rewards",
        "reward.paper",
        "--max_steps",
        "3",
    ]
    of_words = parse(types, ["--config", "quickstart/grpo.yaml", *words])
    assert of_dict == of_words


def test_a_wrong_field_or_method_is_refused_in_one_line():
    with pytest.raises(RecipeError, match="no such field 'lerning_rate'; did you mean 'learning_rate'"):
        rft.fine_tune("grpo", {"lerning_rate": 1e-4})
    with pytest.raises(RecipeError, match="max_steps"):
        rft.fine_tune("sft", {"config": "quickstart/sft.yaml", "max_steps": "few"})
    with pytest.raises(RecipeError, match="unknown method 'ppo'; expected one of sft, grpo"):
        rft.fine_tune("ppo", {})


def test_chats_are_imported_by_name(repository, tmp_path):
    record = rft.import_chats([str(repository / "examples/chats.jsonl")], str(tmp_path / "chats"))
    assert record["users"]["ana"]["messages"]["kept"] == 6
    assert [path.name for path in Path(tmp_path / "chats/histories").iterdir()] == ["ana.json"]
