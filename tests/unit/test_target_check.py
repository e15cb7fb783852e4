"""A correct answer survives encoding, the template's prompt and decoding, or the run does not start; all ends
end an answer."""

import json
import shutil
from pathlib import Path

import pytest

import reward
from rft.data.prompt import PromptTokens
from rft.data.tokenizer import load_tokenizer
from rft.errors import ModelError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.tasks.load import load_split
from rft.tasks.memory_targets import load_memory_targets
from rft.train import grpo, memory_grpo, memory_sft, sft
from rft.train.memory_rows import sft_rows
from rft.train.memory_sft import TurnCollator
from rft.train.runner import run_main
from rft.train.sft import AnswerCollator
from rft.train.target_check import check_target
from rft.train.targets import target

SCRIPTS = {"sft": sft, "grpo": grpo, "memory_sft": memory_sft, "memory_grpo": memory_grpo}


@pytest.fixture
def special(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with think tags that are special tokens."""
    folder = tmp_path / "special"
    shutil.copytree(tiny_checkpoint, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = json.loads((folder / name).read_text())
        tokens = text.get("added_tokens") or list(text.get("added_tokens_decoder", {}).values())
        for token in tokens:
            token["special"] = token["special"] or token["content"] in ("<think>", "</think>")
        (folder / name).write_text(json.dumps(text))
    return folder


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_special_think_tags_are_refused_before_the_model_is_loaded(
    recipe, special, repository, mini_data, tmp_path, capsys
):
    (special / "model.safetensors").unlink()
    argv = [
        "--config",
        str(repository / f"recipes/quickstart/{recipe}.yaml"),
        "--model_name_or_path",
        str(special),
        "--data",
        str(mini_data),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert run_main(SCRIPTS[recipe].train, argv) == 2
    said = capsys.readouterr().err
    assert (
        "the tokenizer drops <think> and </think> when it decodes (special tokens)" in said
        and '"special": false' in said
    )
    assert not (tmp_path / "out").exists()


def test_our_own_tokenizers_pass(tiny_checkpoint, repository):
    for folder in (tiny_checkpoint, repository / "recipes/quickstart/base"):
        check_target(PromptTokens(load_tokenizer(str(folder)), "none"))


def test_a_tokenizer_that_loses_what_the_box_holds_is_named(tiny_checkpoint):
    tokenizer = load_tokenizer(str(tiny_checkpoint))
    tokenizer.decode = lambda ids, **words: "<think>Remembered: enjoys tea.</think>Green tea boxed"
    with pytest.raises(
        ModelError, match="becomes '<think>Remembered.*boxed', which scores 0; expected '<think>"
    ):
        check_target(PromptTokens(tokenizer, "none"))


@pytest.fixture
def opening(tiny_checkpoint):
    """A tokenizer whose chat template opens the think block at the end of a prompt, as templates of thinking
    models do."""
    tokenizer = load_tokenizer(str(tiny_checkpoint))
    end = "<|im_start|>assistant\n"
    assert tokenizer.chat_template.count(end) == 1
    tokenizer.chat_template = tokenizer.chat_template.replace(end, end + "<think>{{ '\\n' }}")
    return tokenizer


def test_a_think_block_that_the_template_opens_is_opened_once(opening, mini_data):
    split = load_split(mini_data, "val")
    question, tokens = split.questions[0], PromptTokens(opening)
    check_target(tokens)
    batch = AnswerCollator(split, tokens)(
        [{"question_id": question.id, "completion": target(question), "blind": False}]
    )
    learned = batch["labels"][0] != -100
    prompt, completion = (opening.decode(batch["input_ids"][0][part]) for part in (~learned, learned))
    assert prompt.endswith("<think>\n") and completion.startswith("Remembered: ")
    assert reward.personamem([completion.removesuffix(opening.eos_token)], [question.gold]) == [1.0]


def test_an_update_closes_a_think_block_that_the_template_opens(opening, mini_data):
    split = load_split(mini_data, "val")
    agent = MemoryAgent(opening, MemorySettings(chunk_tokens=200, memory_tokens=160))
    rows = list(sft_rows(split.questions[:8], split, load_memory_targets(split), agent))
    collate = TurnCollator(split, agent)
    update, answer = rows[0], next(row for row in rows if row["turn"] < 0)
    assert collate.completion(update) == "</think>" + update["completion"]
    assert collate.completion(answer) == answer["completion"].removeprefix("<think>")
    ids = opening(collate.completion(update), add_special_tokens=False)["input_ids"]
    assert (
        agent.accept([*ids, opening.eos_token_id], "", [opening.eos_token_id]).memory == update["completion"]
    )


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_a_held_out_split_that_is_not_there_is_said_before_the_model_is_loaded(
    recipe, tiny_checkpoint, repository, mini_data, tmp_path, capsys
):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    (model / "model.safetensors").unlink()
    argv = [
        "--config",
        str(repository / f"recipes/quickstart/{recipe}.yaml"),
        "--model_name_or_path",
        str(model),
        "--data",
        str(mini_data),
        "--output_dir",
        str(tmp_path / "out"),
        "--held_out_split",
        "valid",
    ]
    if recipe == "sft":
        argv += ["--hard_targets", "1000"]
    assert run_main(SCRIPTS[recipe].train, argv) == 2
    assert "no split 'valid'; benchmark/text has train, val, benchmark, forget" in capsys.readouterr().err
