"""The layouts of launch/: each parses as accelerate reads it, and `--launch` makes the command that runs
it."""

import dataclasses
import os
import re
import shutil
import socket
import subprocess

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from rft.errors import RecipeError
from rft.launch import SEGMENTS, allocator, command, for_dry_run, layouts, take_launch
from rft.shipped import FILES, LAUNCH, RECIPES
from rft.train.runner import run_main

SCRIPTS = sorted((LAUNCH / "slurm").glob("*.sh"))


def test_the_layouts_are_all_there():
    assert layouts() == ["ddp", "fsdp2", "one_gpu", "zero2", "zero3", "zero3_offload"]
    assert [script.name for script in SCRIPTS] == ["nodes.sh", "one_node.sh", "vllm_server.sh"]


@pytest.mark.parametrize("layout", layouts())
def test_accelerate_reads_every_layout(layout):
    config = load_config_from_file(str(LAUNCH / f"{layout}.yaml"))
    assert config.num_machines == 1
    assert config.num_processes == (1 if layout == "one_gpu" else 8)
    expected = {"one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(layout, "DEEPSPEED")
    assert str(getattr(config.distributed_type, "value", config.distributed_type)) == expected
    if layout.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(layout[4])
        assert config.deepspeed_config["offload_optimizer_device"] == (
            "cpu" if "offload" in layout else "none"
        )
    if layout == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2


def test_the_command_is_accelerates():
    line = command(
        "zero3",
        "rft.train.grpo",
        ["--config", "r.yaml", "--num_processes", "2", "--learning_rate=1e-6"],
        gpus=0,
    )
    assert line[1:] == [
        "-m",
        "rft.launch",
        "--config_file",
        str(LAUNCH / "zero3.yaml"),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
        "rft.train.grpo",
        "--config",
        "r.yaml",
        "--learning_rate=1e-6",
    ]
    assert "--num_processes 4" in " ".join(command("ddp", "m", [], gpus=4))
    assert "--num_processes 1" in " ".join(command("one_gpu", "m", [], gpus=0))
    several = command(
        "ddp", "m", ["--num_machines", "2", "--machine-rank=1", "--num_processes", "16"], gpus=8
    )
    assert "--main_process_port" not in several and "--machine-rank=1" in several


@pytest.mark.parametrize(
    ("layout", "words", "said"),
    [
        ("zero4", [], "--launch zero4: no such layout; expected one of ddp, fsdp2"),
        ("ddp", [], "no GPU here; add --num_processes N"),
    ],
)
def test_a_layout_that_cannot_run_is_refused(layout, words, said):
    with pytest.raises(RecipeError, match=said):
        command(layout, "rft.train.grpo", words, gpus=0)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RecipeError, match=f"--main_process_port {port}: in use"):
            command("ddp", "m", ["--num_processes", "2", "--main_process_port", str(port)], gpus=0)


def test_take_launch():
    assert take_launch(["--config", "r", "--launch", "zero3", "--seed", "1"]) == (
        "zero3",
        ["--config", "r", "--seed", "1"],
    )
    assert take_launch(["--launch=ddp"]) == ("ddp", [])
    assert take_launch(["--config", "r"]) == (None, ["--config", "r"])
    with pytest.raises(RecipeError, match="needs a value: one of"):
        take_launch(["--launch"])


def commands_of_readmes():
    """The lines of the READMEs that train from a recipe of recipes/personamem_v2, with the recipe."""
    for page in ("README.md", "launch/README.md", "recipes/personamem_v2/README.md"):
        for line in (FILES / page).read_text().splitlines():
            if found := re.search(r"rft[. ].*--config (?:recipes/)?(personamem_v2/\w+\.yaml)", line):
                yield line, RECIPES / found[1]


def test_every_command_names_the_layout_that_its_recipe_needs():
    seen = list(commands_of_readmes())
    assert len(seen) >= 8
    for line, recipe in seen:
        lora = yaml.safe_load(recipe.read_text()).get("use_peft", False)
        wanted = "one_gpu|ddp" if lora else "zero3|fsdp2"
        assert re.search(rf"rft \S+ +--launch ({wanted}) ", line), line
        assert "--num_processes 8" in line or lora, line


def test_a_dry_run_without_a_gpu_plans_for_the_layouts_own_processes(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    words = ["--config", "quickstart/grpo.yaml", "--dry-run"]
    assert for_dry_run("zero3", "m", words) == [*words, "--dry_run_on", "zero3:8"]
    assert for_dry_run("one_gpu", "m", words) == [*words, "--dry_run_on", "one_gpu:1"]
    chosen = [*words, "--num_processes", "4"]
    assert for_dry_run("ddp", "m", chosen) == [*words, "--dry_run_on", "ddp:4"]
    assert for_dry_run("zero3", "m", words[:2]) is None
    with pytest.raises(RecipeError, match="--launch zero4: no such layout"):
        for_dry_run("zero4", "m", words)


@pytest.fixture
def unset(monkeypatch):
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)


def test_memory_is_taken_in_segments_that_grow(unset, monkeypatch, tmp_path):
    (tmp_path / "sleeps.yaml").write_text("vllm_enable_sleep_mode: true\n")
    segments = {"PYTORCH_CUDA_ALLOC_CONF": SEGMENTS}
    assert allocator(["--config", "no/such.yaml"]) == segments
    assert (
        allocator(["--vllm_enable_sleep_mode", "false", "--config", str(tmp_path / "sleeps.yaml")])
        == segments
    )
    assert (
        allocator(["--vllm_enable_sleep_mode", "true"])
        == allocator(["--config", str(tmp_path / "sleeps.yaml")])
        == {}
    )
    seen = []
    run_main(lambda argv: seen.append(os.environ.get("PYTORCH_CUDA_ALLOC_CONF")), [])
    assert seen == [SEGMENTS]
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512")  # the user's own
    assert allocator([]) == {}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_slurm_scripts_are_sound(script):
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert "--signal=USR1@" in text and "scontrol requeue" in text and "--resume_from_checkpoint true" in text
    usage = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert usage.returncode != 0 and "usage: sbatch" in usage.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck():
    everything = [*SCRIPTS, *sorted((FILES / "docker").glob("*.sh"))]
    done = subprocess.run(["shellcheck", *map(str, everything)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_secret_and_no_machine_in_the_layouts():
    for layout in layouts():
        config = yaml.safe_load((LAUNCH / f"{layout}.yaml").read_text())
        assert not {key for key in config if "token" in key or "ip" in key}


def test_the_commands_of_the_compose_file_have_only_flags_that_exist():
    from trl.scripts.vllm_serve import ScriptArguments

    from rft.train.grpo_config import HistoryGRPOConfig

    services = yaml.safe_load((FILES / "docker/compose.yaml").read_text())["services"]
    assert {service["image"] for service in services.values()} == {"rft:vllm"}
    for name, arguments in (("server", ScriptArguments), ("trainer", HistoryGRPOConfig)):
        flags = {word[2:] for word in services[name]["command"].split() if word.startswith("--")}
        assert flags - {"launch", "config"} <= {field.name for field in dataclasses.fields(arguments)}
    assert services["trainer"]["depends_on"]["server"]["condition"] == "service_healthy"
    assert "healthcheck" in services["server"]


def test_every_image_is_built_by_a_step_of_the_install_script():
    script = (FILES / "docker/install.sh").read_text()
    wanted = {"cpu", *re.findall(r"WITH=(\w+)", (FILES / "docker/cuda.Dockerfile").read_text())}
    assert wanted == {"cpu", "cuda", "vllm"} == set(re.findall(r"^  (\w+)\)$", script, re.MULTILINE))
