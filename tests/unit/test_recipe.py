"""Recipes: each shipped one parses without CUDA, every field can be overridden, nothing unknown is taken in
silence."""

from pathlib import Path

import pytest
from trl import ModelConfig

from rft.errors import RecipeError
from rft.toy.pretrain import ReadingArguments, ReadingConfig
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.memory_rows import MemoryArguments
from rft.train.memory_sft import MemorySFTConfig
from rft.train.recipe import DataArguments, parse
from rft.train.sft import ColdStartArguments, ColdStartConfig, LabelArguments

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted((REPOSITORY / "recipes").glob("*/*.yaml"))
GRPO = (DataArguments, HistoryGRPOConfig, ModelConfig)
MEMORY_GRPO = (DataArguments, MemoryArguments, MemoryGRPOConfig, ModelConfig)
SFT = (DataArguments, ColdStartArguments, ColdStartConfig, ModelConfig)
TYPES = {
    "memory_sft": (DataArguments, MemoryArguments, LabelArguments, MemorySFTConfig, ModelConfig),
    "memory_grpo": MEMORY_GRPO,
    "base": (ReadingArguments, ReadingConfig),
    "sft": SFT,
    "grpo": GRPO,
}
COLD_START = ["--config", str(REPOSITORY / "recipes/quickstart/sft.yaml")]
QUICK = ["--config", str(REPOSITORY / "recipes/quickstart/grpo.yaml")]


def test_recipes_were_found():
    assert len(RECIPES) >= 7


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_recipe_parses_here(path: Path, tmp_path: Path):
    types = next(types for name, types in TYPES.items() if path.stem.startswith(name))
    parsed = parse(types, ["--config", str(path), "--output_dir", str(tmp_path)])
    for arguments in parsed:
        if isinstance(arguments, HistoryGRPOConfig):
            assert arguments.units_per_generation() >= 1


def test_the_paper_settings_of_the_32k_recipe():
    """32 questions x 8 completions a generation on 8 GPUs, two updates from each (the paper, section 4.2, and
    its script)."""
    data, args, model = parse(GRPO, ["--config", str(REPOSITORY / "recipes/personamem_v2/grpo_32k.yaml")])
    completions = 8 * args.per_device_train_batch_size * args.steps_per_generation
    assert completions == 32 * args.num_generations == 256
    assert args.steps_per_generation // args.gradient_accumulation_steps == 2
    assert (args.learning_rate, args.max_completion_length, data.max_prompt_tokens) == (5e-6, 2048, 38000)
    assert data.exclude_personas == ["78"]


def test_the_papers_settings_of_the_memory_recipe():
    """Chunks of 5,000 tokens, 8 updates, a memory of 2,048, 8 trajectories, batch 32 (the paper, section
    4.3): 32 x 8 answers."""
    _, memory, args, _ = parse(
        MEMORY_GRPO, ["--config", str(REPOSITORY / "recipes/personamem_v2/memory_grpo_32k.yaml")]
    )
    assert (memory.chunk_tokens, memory.max_chunks, memory.memory_tokens, args.num_generations) == (
        5000,
        8,
        2048,
        8,
    )
    memories = 8 * args.per_device_train_batch_size * args.steps_per_generation
    assert memories * args.questions_per_history * args.answers_per_memory == 32 * 8
    assert args.max_tree_tokens > memory.chunk_tokens + 2 * memory.memory_tokens


def test_the_quickstart_reads_memories_as_its_recipes_write_them():
    from rft.toy import quickstart

    for script in ("memory_sft", "memory_grpo"):
        memory = parse(TYPES[script], ["--config", str(REPOSITORY / f"recipes/quickstart/{script}.yaml")])[1]
        assert (memory.chunk_tokens, memory.memory_tokens) == (
            quickstart.CHUNK_TOKENS,
            quickstart.MEMORY_TOKENS,
        )


def test_a_recipe_can_be_joined_to_its_flag():
    separate, joined = (parse(GRPO, words)[1] for words in (QUICK, ["--seed=1", "--config=" + QUICK[1]]))
    assert (separate.max_steps, separate.seed, joined.max_steps, joined.seed) == (140, 0, 140, 1)


def test_the_command_line_overrides_the_recipe(tmp_path):
    data, args, model = parse(
        GRPO,
        [
            *QUICK,
            "--learning_rate",
            "1e-6",
            "--context",
            "none",
            "--output_dir",
            str(tmp_path),
            "--exclude_personas",
            "1",
            "2",
            "--use_peft",
            "--lora_r",
            "4",
        ],
    )
    assert args.learning_rate == 1e-6
    assert data.context == "none"
    assert data.exclude_personas == ["1", "2"]
    assert (model.use_peft, model.lora_r) == (True, 4)
    assert args.questions_per_history == 4


def recipe(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return ["--config", str(path)]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([*QUICK, "--learing_rate", "1"], "did you mean 'learning_rate'"),
        ([*QUICK, "--context", "everything"], "invalid choice"),
        ([*QUICK, "--max_steps", "many"], "invalid int value"),
        ([*QUICK, "--max_step", "3"], "did you mean 'max_steps'"),
        (["--config", "no/such.yaml"], "no/such.yaml: no such file, and no such recipe"),
        (["--config"], "--config needs a value: the path"),
        (["--config="], "--config needs a value: the path"),
        (["--config=no/such.yaml"], "no/such.yaml: no such file, and no such recipe"),
        ([*QUICK, "--prefix_sharing", "maybe"], "invalid choice"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(argv, said):
    with pytest.raises(RecipeError, match=said):
        parse(GRPO, argv)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "data: x\nnum_generation: 4\n",
            "recipe.yaml: no such field 'num_generation'; did you mean 'num_generations'",
        ),
        ("data: [x\n", "recipe.yaml: not valid YAML"),
        ("data: x\nseed: 1\ndata: y\n", "'data' is in line 1 and again in line 3; keep one"),
        ("- data\n", "recipe.yaml: expected a mapping"),
        ("output_dir: x\n", "data"),
        ("data: x\noutput_dir: x\nuse_cpu: true\nbf16: false\n", "model_name_or_path: missing"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path, text, said):
    with pytest.raises(RecipeError, match=said):
        parse(GRPO, recipe(tmp_path, text))


def test_a_batch_that_tears_histories_apart_is_refused_with_numbers(tmp_path):
    _, args, _ = parse(GRPO, [*QUICK, "--per_device_train_batch_size", "40", "--output_dir", str(tmp_path)])
    with pytest.raises(RecipeError, match=r"= 40 completions per rank.* = 32; make the product 32"):
        args.units_per_generation()


def test_a_cold_start_without_any_history_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="blind_share 1.0: expected a share from 0 to below 1"):
        parse(SFT, [*COLD_START, "--blind_share", "1", "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("script", ["grpo", "sft", "memory-sft", "memory-grpo"])
def test_help_is_a_page_of_our_own_fields_and_all_of_them_on_demand(script, capsys):
    from rft.cli import main

    pages = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as left:
            main([script, flag])
        assert left.value.code == 0
        pages[flag] = capsys.readouterr().out
    page = pages["--help"].splitlines()
    assert len(page) < 100 and max(map(len, page)) <= 130
    for name in ("--config", "--launch", "--data ", "--held_out_split", "--dry_run ", "--learning_rate"):
        assert f"  {name}" in pages["--help"], name
    assert "--adam_epsilon" not in pages["--help"] and "--adam_epsilon" in pages["--help-all"]
    assert "more fields of transformers, TRL and PEFT: --help-all" in page[-1]


def test_a_field_that_is_like_no_other_has_no_suggestion():
    with pytest.raises(RecipeError, match="--nonsense: no such field; --help lists the fields"):
        parse(GRPO, [*QUICK, "--nonsense", "1"])
