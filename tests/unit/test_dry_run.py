"""Dry runs: every shipped recipe says what it will do, and says no where it does not fit."""

import json
import re
from pathlib import Path

import pytest

from rft.plan.memory_estimate import GIB, ModelShape, Parallelism, Workload, estimate, peak
from rft.train import grpo, memory_grpo, memory_sft, sft
from rft.train.runner import run_main

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = [path for path in sorted((REPOSITORY / "recipes").glob("*/*.yaml")) if path.stem != "base"]
SCRIPTS = {"memory_grpo": memory_grpo, "memory_sft": memory_sft, "grpo": grpo, "sft": sft}
QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-6,
}
ALONE = ["--sequence_parallel", "1", "--per_device_train_batch_size", "16", "--steps_per_generation", "2"]
ALONE += ["--gradient_accumulation_steps", "1", "--mlp_tile_tokens", "16384", "--offload_checkpoints", "true"]
"""`grpo_128k.yaml` without sequence parallelism, as its comment says."""


@pytest.fixture(scope="module")
def qwen3_4b(tiny_checkpoint, tmp_path_factory) -> Path:
    """The shape of Qwen3-4B without its weights, and a tokenizer: all that a dry run asks for."""
    folder = tmp_path_factory.mktemp("qwen3_4b")
    (folder / "config.json").write_text(json.dumps(QWEN3_4B))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((tiny_checkpoint / name).read_bytes())
    return folder


def dry_run(recipe: Path, model: Path, data: Path, out: Path, *words: str) -> int:
    train = next(script.train for name, script in SCRIPTS.items() if recipe.stem.startswith(name))
    return run_main(
        train,
        [
            "--config",
            str(recipe),
            "--model_name_or_path",
            str(model),
            "--data",
            str(data),
            "--output_dir",
            str(out),
            "--token_cache",
            str(out.parent / "tokens"),
            "--dry-run",
            *words,
        ],
    )


@pytest.fixture(scope="module")
def long_data(tiny_checkpoint, tmp_path_factory) -> Path:
    """Histories as long as the large recipes read: prompts of 33,000 and 124,000 tokens."""
    from rft.simulate.pipeline import simulate
    from rft.simulate.profile import Settings

    out = tmp_path_factory.mktemp("long") / "data"
    simulate(Settings("paper", 14, 0, ("32k", "128k"), str(tiny_checkpoint)), out)
    return out


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_recipe(recipe, qwen3_4b, tiny_checkpoint, mini_data, long_data, tmp_path, capsys):
    large = recipe.parent.name == "personamem_v2"
    on = ["--dry_run_on", "one_gpu:1:80" if "lora" in recipe.name else "zero3:8:80"] if large else []
    data = long_data if large else mini_data
    code = dry_run(recipe, qwen3_4b if large else tiny_checkpoint, data, tmp_path / "out", *on)
    said = capsys.readouterr().out
    assert code == 0, said
    for expected in (
        "recipe (fields that differ",
        "batch: ",
        "optimizer steps per epoch",
        "longest prompt: ",
        f"estimated memory per process ({'1 process, ' * (not large)}",
        "activations",
        "masters: ",
        "it fits: ",
    ):
        assert expected in said
    if recipe.stem.startswith("memory_grpo") and large:
        assert "8 histories x 8 memories = 64 trajectories" in said and "over 8 processes" in said
    assert not (tmp_path / "out").exists()  # nothing is written


@pytest.mark.parametrize(
    ("recipe", "on", "words", "masters"),
    [
        ("grpo_128k_lora", "one_gpu:1:72", [], "66.1 million weights of adapters are float32"),
        ("grpo_128k", "zero3:8:72", [], "44.95 GiB, 5.62 GiB on each of 8 processes"),
        (
            "grpo_128k",
            "fsdp2:8:72",
            [],
            "4.02 billion weights are float32, with AdamW's two moments 12 bytes each",
        ),
        ("grpo_128k", "zero3:8:72", ALONE, "44.95 GiB, 5.62 GiB on each of 8 processes"),
        ("grpo_128k", "zero3_offload:1:72", ALONE, "in host memory: 44.95 GiB"),
    ],
)
def test_128k_fits_80_gb_with_some_to_spare(
    recipe, on, words, masters, qwen3_4b, long_data, tmp_path, capsys
):
    path = REPOSITORY / "recipes/personamem_v2" / f"{recipe}.yaml"
    code = dry_run(path, qwen3_4b, long_data, tmp_path / "out", "--dry_run_on", on, *words)
    said = capsys.readouterr().out
    assert code == 0, said
    assert masters in said
    offloads = "pinned host memory per process, for offloaded checkpoints: 36.0 GiB" in said
    assert offloads == (recipe == "grpo_128k_lora" or words == ALONE)
    print(said)


def test_sequence_parallel_spreads_activations_keys_and_values(qwen3_4b, long_data, tmp_path, capsys):
    path = REPOSITORY / "recipes/personamem_v2/grpo_128k.yaml"
    phases = {}
    for size, steps in ((1, 1), (8, 1), (8, 8)):
        words = ["--sequence_parallel", str(size), "--steps_per_generation", str(steps)]
        words += ["--mlp_tile_tokens", "16384", "--offload_checkpoints", "true", "--dry_run_on", "zero3:8:72"]
        words += ["--gradient_accumulation_steps", str(steps)]
        assert dry_run(path, qwen3_4b, long_data, tmp_path / "out", *words) == 0
        said = capsys.readouterr().out
        histories = steps * 8 // size
        assert f"{histories} histories x 4 questions x 8 completions = {32 * histories} completions" in said
        phases[size, steps] = [
            {
                name: float(size)
                for name, size in re.findall(
                    r"(?:\(|, )([^,()]+) ([0-9.]+)", re.search(rf"^  {phase}: .*", said, re.M).group()
                )
            }
            for phase in ("update", "rollout")
        ]
    assert "1 group of 8 processes (sequence_parallel) with 256 completions each" in said
    (alone, rollout_alone), (spread, rollout_spread), (_, rollout_of_eight) = phases.values()
    assert spread.pop("activations") < alone.pop("activations") / 4
    assert all(spread[name] == alone[name] for name in ("weights", "gathered weights", "optimizer"))
    # of one history, each process holds an eighth; of eight histories, as much as of one alone
    kept = "keys and values"
    assert abs(rollout_spread[kept] - rollout_alone[kept] / 8) < 0.02
    assert abs(rollout_of_eight[kept] - rollout_alone[kept]) < 0.05 * rollout_alone[kept]


def test_masters_on_one_gpu_are_said_and_counted(qwen3_4b, mini_data, tmp_path, capsys):
    recipe = REPOSITORY / "recipes/personamem_v2/grpo_32k.yaml"
    assert dry_run(recipe, qwen3_4b, mini_data, tmp_path / "out", "--dry_run_on", "one_gpu:1:60") == 1
    said = capsys.readouterr().out
    assert (
        "44.95 GiB, and 4 per gradient; autocast's 2-byte copies take 7.49 GiB more in a forward pass" in said
    )
    assert "mlp_tile_tokens: 16384 and offload_checkpoints: true: " in said


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("--mlp_tile_tokens", "0"), "mlp_tile_tokens 0: expected 1 or more"),
        (
            ("--gradient_checkpointing", "false", "--offload_checkpoints", "true"),
            "offload_checkpoints: needs activation",
        ),
        (
            ("--gradient_checkpointing", "false", "--keep_attention", "true"),
            "keep_attention: without activation checkpoints everything is kept",
        ),
        (
            (
                *("--gradient_checkpointing", "true", "--keep_attention", "true"),
                *("--gradient_checkpointing_kwargs", '{"use_reentrant": true}'),
            ),
            "keep_attention: needs gradient_checkpointing_kwargs {use_reentrant: false}",
        ),
    ],
)
def test_fields_that_cannot_be_are_refused(words, wrong, tiny_checkpoint, mini_data, tmp_path, capsys):
    recipe = REPOSITORY / "recipes/quickstart/grpo.yaml"
    assert dry_run(recipe, tiny_checkpoint, mini_data, tmp_path / "out", *words) == 2
    assert wrong in capsys.readouterr().err


@pytest.mark.parametrize("words", [(), ("--use_peft",)])
def test_weights_of_half_precision_without_masters_are_refused(words, qwen3_4b, mini_data, tmp_path, capsys):
    recipe = REPOSITORY / "recipes/quickstart/grpo.yaml"
    code = dry_run(
        recipe, qwen3_4b, mini_data, tmp_path / "out", "--dtype", "bfloat16", "--bf16", "false", *words
    )
    said = capsys.readouterr()
    if words:  # adapters are float32
        assert code in (0, 1) and "adapters are float32" in said.out
    else:
        assert (
            code == 2
            and "dtype bfloat16 with bf16: false would train bfloat16 weights without masters" in said.err
        )


def test_the_batch_in_words(tiny_checkpoint, mini_data, tmp_path, capsys):
    recipe = REPOSITORY / "recipes/quickstart/grpo.yaml"
    assert (
        dry_run(
            recipe,
            tiny_checkpoint,
            mini_data,
            tmp_path / "out",
            "--per_device_train_batch_size",
            "32",
            "--steps_per_generation",
            "2",
            "--gradient_accumulation_steps",
            "1",
            "--dry_run_on",
            "ddp:2",
        )
        == 0
    )
    said = capsys.readouterr().out
    assert (
        "4 histories x 4 questions x 8 completions = 128 completions per generation, for 2 optimizer steps; 2"
        " processes with 64 completions each, 32 at a time (micro-batch), 1 micro-batch per optimizer step"
        in said
    )


def test_what_does_not_fit_names_the_cheapest_changes(qwen3_4b, mini_data, tmp_path, capsys):
    recipe = REPOSITORY / "recipes/personamem_v2/grpo_32k.yaml"
    assert dry_run(recipe, qwen3_4b, mini_data, tmp_path / "out", "--dry_run_on", "one_gpu:1:24") == 1
    said = capsys.readouterr().out
    assert "it does not fit" in said and "Changes that would help, cheapest first" in said
    assert "use_peft: true" in said
    assert dry_run(recipe, qwen3_4b, mini_data, tmp_path / "out", "--dry_run_on", "huge") == 2
    assert "expected LAYOUT:PROCESSES:GIB" in capsys.readouterr().err


def test_the_estimate_moves_as_memory_does():
    shape = ModelShape(
        layers=36,
        model=2560,
        queries=4096,
        keys=1024,
        head=128,
        mlp=9728,
        vocabulary=151936,
        parameters=4_022_468_096,
        trained=4_022_468_096,
        width=2,
        frozen_width=0,
        trained_width=4,
    )
    sizes = {"update": 40_000, "scored": 16 * 2048, "prefix": 33_000, "rows": 32, "completion": 2048}
    work = Workload(checkpointing=True, accumulates=False, **sizes)

    def of(layout: Parallelism, **changes) -> float:
        return peak(estimate(shape, layout, Workload(**{**work.__dict__, **changes})))

    # masters: 4.0e9 x 4 bytes
    assert 14 < estimate(shape, Parallelism(), work)["update"]["weights"] / GIB < 16
    # DeepSpeed's: x 2, whole on every process
    assert 7 < estimate(shape, Parallelism(8, 2), work)["update"]["weights"] / GIB < 8
    # of the update; for a rollout, ZeRO-3 gathers the weights beside its shards
    assert of(Parallelism(8, 3), rows=0) < of(Parallelism(8, 2), rows=0) < of(Parallelism(8, 0), rows=0)
    assert of(Parallelism(8, 2)) < of(Parallelism(8, 0))
    assert of(Parallelism(8, 3, offload=True)) < of(Parallelism(8, 3))
    assert of(Parallelism(), checkpointing=False) > of(Parallelism())
    assert of(Parallelism(), update=80_000) > of(Parallelism())
    assert of(Parallelism(8, fsdp=True)) < of(Parallelism())
    large = {"update": 150_000, "rows": 0}
    assert (
        of(Parallelism(), **large, tile=16_384)
        < of(Parallelism(), **large)
        > of(Parallelism(), **large, offload=True)
    )
    assert of(Parallelism(), **large, tile=150_000) == of(Parallelism(), **large)  # one tile is the whole
