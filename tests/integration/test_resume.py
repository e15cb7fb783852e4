"""Killed anywhere and resumed, a run ends as if nothing had happened: the same weights, completions and
metrics, bit for bit."""

import json
import random
import shutil
from pathlib import Path

import pytest
from runs import Server, assert_same, left, zero
from wandb_file import ended, read_run

from rft.tasks.load import load_split

STEPS = [
    "--max_steps",
    "12",
    "--steps_per_generation",
    "2",
    "--gradient_accumulation_steps",
    "1",
    "--save_steps",
    "2",
    "--logging_steps",
    "3",
    "--learning_rate",
    "1e-3",
    "--save_total_limit",
    "3",
]
RESUME = ["--resume_from_checkpoint", "true"]
ZERO3 = zero(3)


@pytest.fixture(scope="module")
def server(mini_data, tiny_checkpoint, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("resume"), mini_data, tiny_checkpoint)
    yield server
    server.close()


def whole(
    server: Server, name: str, *words: str, recipe: str = "grpo", processes: int = 1, env: dict | None = None
) -> dict:
    """What the uninterrupted run leaves."""
    out = server.folder / name
    done = server.run(out, *STEPS, *words, recipe=recipe, processes=processes, env=env)
    assert done["statuses"] == [0] * processes, done["said"]
    return left(out)


@pytest.fixture(scope="module")
def uninterrupted(server):
    found = whole(server, "uninterrupted")
    rewards = [row["reward"] for row in found["metrics"] if "reward" in row]
    assert len(rewards) == 4 and len(set(rewards)) == 4
    return found


@pytest.fixture(scope="module")
def uninterrupted_memory(server):
    found = whole(server, "uninterrupted_memory", recipe="memory_grpo")
    assert len({row["reward"] for row in found["metrics"] if "reward" in row}) == 4
    return found


@pytest.mark.parametrize(
    "kill",
    [
        {"in": "complete", "call": 4},  # behind a rollout
        {"in": "training_step", "call": 8},  # behind a backward pass
        {"in": "sync", "call": 23},  # in the middle of writing a checkpoint
    ],
    ids=["rollout", "update", "checkpoint"],
)
def test_a_killed_run_resumes_bit_for_bit(server, uninterrupted, tmp_path, kill):
    out = tmp_path / "run"
    assert server.run(out, *STEPS, kill=kill)["statuses"] == [-9]
    done = server.run(out, *STEPS, *RESUME)
    assert done["statuses"] == [0], done["said"]
    assert "resume: " in done["said"] and "checkpoint-" in done["said"]
    assert_same(left(out), uninterrupted)


@pytest.mark.parametrize(
    "kill",
    [
        {"in": "complete", "call": 7},  # in the middle of a trajectory
        {"in": "training_step", "call": 8},  # between the two micro-batches of a generation
    ],
    ids=["rollout", "update"],
)
def test_a_killed_memory_run_resumes_bit_for_bit(server, uninterrupted_memory, tmp_path, kill):
    out = tmp_path / "run"
    assert server.run(out, *STEPS, recipe="memory_grpo", kill=kill)["statuses"] == [-9]
    done = server.run(out, *STEPS, *RESUME, recipe="memory_grpo")
    assert done["statuses"] == [0], done["said"]
    assert "resume: " in done["said"] and "checkpoint-" in done["said"]
    assert_same(left(out), uninterrupted_memory)


REDRAW = ["--redraw_rounds", "2"]
SOME_FLAT = [*REDRAW, "--rewards", f"{Path(__file__).with_name('rewards_for_tests.py')}:flat_for_some"]


@pytest.mark.parametrize("recipe", ["grpo", "memory_grpo"])
def test_a_killed_run_that_redraws_resumes_bit_for_bit(server, tmp_path, recipe):
    """Killed within a round of redraws, and between the two micro-batches of a generation."""
    words = [*STEPS, *SOME_FLAT]
    expected = whole(server, f"redraws_{recipe}", *SOME_FLAT, recipe=recipe)
    drawn = [row for row in expected["metrics"] if "redraw/completions" in row]
    assert any(row["redraw/flat_after"] < row["redraw/flat_before"] for row in drawn)
    kills = {"complete": 8 if recipe == "grpo" else 23, "training_step": 8}
    for name, call in kills.items():
        out = tmp_path / name
        killed = server.run(out, *words, recipe=recipe, kill={"in": name, "call": call})
        assert killed["statuses"] == [-9]
        done = server.run(out, *words, *RESUME, recipe=recipe)
        assert done["statuses"] == [0], done["said"]
        assert "resume: " in done["said"] and "checkpoint-" in done["said"]
        assert_same(left(out), expected)


def test_an_adaptive_entropy_bonus_resumes_bit_for_bit(server, tmp_path):
    """Killed when the coefficient has moved; TRL saves it with a checkpoint, and ours must let it."""
    words = ["--use_adaptive_entropy", "true", "--entropy_target", "100", "--entropy_coef_delta", "0.01"]
    expected = whole(server, "entropy", *words)
    coefficients = [row["entropy_coef"] for row in expected["metrics"] if "entropy_coef" in row]
    assert len(set(coefficients)) == len(coefficients) > 2
    assert server.run(tmp_path, *STEPS, *words, kill={"in": "training_step", "call": 9})["statuses"] == [-9]
    assert (tmp_path / "checkpoint-8").is_dir()
    done = server.run(tmp_path, *STEPS, *words, *RESUME)
    assert done["statuses"] == [0], done["said"]
    assert_same(left(tmp_path), expected)


def test_where_no_group_is_flat_redrawing_changes_nothing(server, uninterrupted):
    found = whole(server, "nothing_flat", *REDRAW)
    for rows in (found["metrics"], found["file"]):
        for row in rows:
            for name in [name for name in row if name.startswith("redraw/")]:
                assert row.pop(name) == 0
    assert_same(found, uninterrupted)


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_run_that_is_told_to_leave_leaves_a_checkpoint_and_75(server, uninterrupted, tmp_path, signal):
    out = tmp_path / "run"
    done = server.run(out, *STEPS, kill={"in": "training_step", "call": 5, "signal": signal})
    assert done["statuses"] == [75], done["said"]
    assert "stopped after step 5, saved checkpoint-5" in done["said"]
    assert json.loads((out / "interrupted.json").read_text()) == {
        "exit_code": 75,
        "signal": signal,
        "checkpoint": "checkpoint-5",
    }
    assert server.run(out, *STEPS, *RESUME)["statuses"] == [0]
    assert_same(left(out), uninterrupted)
    assert not (out / "interrupted.json").exists()


def test_two_processes_in_their_second_epoch_go_on_with_its_order(server, mini_data, tmp_path):
    """accelerate forgets to tell the epoch to the sampler of several processes that skip batches."""
    personas = sorted({q.persona_id for q in load_split(mini_data, "train").questions})
    # 3 people: 3 generations of 2 steps an epoch
    few = ["--exclude_personas", *personas[3:], "--save_steps", "1"]
    expected = whole(server, "epochs", *few, processes=2)
    assert expected["metrics"][-1]["epoch"] >= 2
    out = tmp_path / "run"
    assert (
        -9 in server.run(out, *STEPS, *few, processes=2, kill={"in": "training_step", "call": 9})["statuses"]
    )
    done = server.run(out, *STEPS, *few, *RESUME, processes=2)
    assert done["statuses"] == [0, 0], done["said"]
    assert_same(left(out), expected)


def test_zero3_on_two_processes_resumes_bit_for_bit(server, tmp_path):
    expected = whole(server, "zero3", processes=2, env=ZERO3)
    out = tmp_path / "run"
    assert (
        -9
        in server.run(
            out, *STEPS, processes=2, env=ZERO3, kill={"in": "training_step", "call": 6, "rank": 1}
        )["statuses"]
    )
    done = server.run(out, *STEPS, *RESUME, processes=2, env=ZERO3)
    assert done["statuses"] == [0, 0], done["said"]
    assert_same(left(out), expected)


def damage_model(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_one_bit(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-50] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_model, "skipping checkpoint-12: model.safetensors has"),
        (damage_one_bit, "skipping checkpoint-12: model.safetensors does not match its checksum"),
        (
            lambda folder: (folder / "optimizer.pt").unlink(),
            "skipping checkpoint-12: optimizer.pt is missing",
        ),
        (lambda folder: (folder / "whole.json").unlink(), "skipping checkpoint-12: no whole.json"),
    ],
    ids=["truncated", "flipped", "missing", "unlisted"],
)
def test_a_damaged_checkpoint_is_passed_over(server, uninterrupted, tmp_path, damage, said):
    out = tmp_path / "run"
    shutil.copytree(server.folder / "uninterrupted", out)
    damage(out / "checkpoint-12")
    done = server.run(out, *STEPS, *RESUME)
    assert done["statuses"] == [0], done["said"]
    assert said in done["said"]
    assert "resume: " in done["said"] and "checkpoint-10" in done["said"]
    assert_same(left(out), uninterrupted)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--learning_rate", "2e-3"], 2, "learning_rate: 0.001 then, 0.002 now"),
        (
            ["--learning_rate", "2e-3", "--allow_change", "learning_rate"],
            0,
            "changed, as allowed: learning_rate: 0.001 -> 0.002",
        ),
        (["--allow_change", "learing_rate"], 2, "allow_change learing_rate: not a field of the recipe"),
        (
            ["--num_generations", "2", "--temperature", "0.9", "--allow_change", "temperature"],
            2,
            "num_generations: 4 then, 2 now",
        ),
        (["--save_steps", "4", "--logging_steps", "2"], 0, "resume: "),
    ],
)
def test_another_recipe_is_refused_with_the_difference(server, uninterrupted, tmp_path, words, code, said):
    out = tmp_path / "run"
    shutil.copytree(server.folder / "uninterrupted", out)
    done = server.run(out, *STEPS, *RESUME, *words)
    assert done["statuses"] == [code], done["said"]
    assert said in done["said"]


def test_other_data_and_other_processes_are_refused(server, uninterrupted, mini_data, tmp_path):
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(server.folder / "uninterrupted", out)
    done = server.run(out, *STEPS, *RESUME, processes=2)
    assert done["statuses"] == [2, 2]
    assert "was written by 1 processes and this run has 2" in done["said"]
    shutil.copytree(mini_data, data)
    csv = data / "benchmark/text/train.csv"
    csv.write_text("".join(csv.read_text().splitlines(keepends=True)[:-1]))
    done = server.run(out, *STEPS, *RESUME, "--data", str(data))
    assert done["statuses"] == [2]
    assert "data_sha256: " in done["said"] and "--allow_change data_sha256" in done["said"]


def test_an_output_folder_belongs_to_one_run(server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(server.folder / "uninterrupted", out)
    done = server.run(out, *STEPS)
    assert done["statuses"] == [2]
    assert "contains checkpoint-12 of an earlier run: add --resume_from_checkpoint true" in done["said"]

    import fcntl

    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = server.run(out, *STEPS, *RESUME)
    assert done["statuses"] == [2]
    assert "another run writes to this folder" in done["said"]


def test_wandb_sees_one_run_with_steps_that_never_go_back(server, tmp_path):
    out = tmp_path / "run"
    words = [*STEPS, "--report_to", "wandb", "--logging_steps", "1", "--save_steps", "4"]
    env = {"WANDB_DIR": str(tmp_path)}
    assert server.run(out, *words, env=env, kill={"in": "training_step", "call": 7})["statuses"] == [-9]
    done = server.run(out, *words, *RESUME, env=env)
    assert done["statuses"] == [0], done["said"]
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.stem for file in files}) == 1  # run-ID: one run
    ended(files[-1])
    runs = [read_run(file) for file in files]
    logged: dict[int, dict] = {}
    for _, history in runs:
        for row in history:
            if row["_step"] >= max(logged, default=0):  # W&B drops a step below the run's
                logged.setdefault(row["_step"], {}).update(row)
    assert list(logged) == list(range(1, 13))  # monotone, and none is missing
    assert all(row["train/global_step"] == step for step, row in logged.items())
    config = runs[-1][0]
    assert config["recipe_sha256"] and config["data_sha256"] and config["git_commit"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(1, 13), 12]
    rewarded = [row for row in rows if "reward" in row]
    assert [row["step"] for row in rewarded] == [1, 3, 5, 7, 9, 11]  # where a generation is drawn
    for row in rewarded:
        assert logged[row["step"]]["train/reward"] == row["reward"]
    tables = list((tmp_path / "wandb").rglob("completions*.table.json"))
    newest = max((json.loads(table.read_text()) for table in tables), key=lambda table: len(table["data"]))
    # one table that has grown
    assert {row[newest["columns"].index("step")] for row in newest["data"]} == set(range(1, 13))


def random_kills(
    server,
    expected,
    folder: Path,
    *,
    recipe: str = "grpo",
    processes: int = 1,
    env: dict | None = None,
    seed: int,
) -> list[str]:
    """Ten kills at random moments of a run; what it was doing each time."""
    seconds = server.run(folder / "timed", *STEPS, recipe=recipe, processes=processes, env=env)["seconds"]
    rng, hit = random.Random(seed), []
    while len(hit) < 10:
        out = folder / f"run_{len(hit)}"
        kill = {"after": rng.uniform(0.15, 1.0) * seconds}
        killed = server.run(out, *STEPS, recipe=recipe, processes=processes, env=env, kill=kill)
        if -9 not in killed["statuses"]:  # it was done before
            shutil.rmtree(out)
            continue
        done = server.run(out, *STEPS, *RESUME, recipe=recipe, processes=processes, env=env)
        assert done["statuses"] == [0] * processes, done["said"]
        assert_same(left(out), expected)
        hit.append(killed["phases"][0])
        shutil.rmtree(out)
    print(f"ten kills of {recipe} on {processes} process{'es' * (processes > 1)}: {', '.join(hit)}")
    return hit


@pytest.mark.slow
def test_ten_random_kills(server, uninterrupted, tmp_path):
    assert len(random_kills(server, uninterrupted, tmp_path, seed=1)) == 10


@pytest.mark.slow
def test_ten_random_kills_of_a_memory_run(server, uninterrupted_memory, tmp_path):
    assert len(random_kills(server, uninterrupted_memory, tmp_path, recipe="memory_grpo", seed=3)) == 10


@pytest.mark.slow
def test_ten_random_kills_under_zero3(server, tmp_path):
    expected = whole(server, "zero3_slow", processes=2, env=ZERO3)
    assert len(random_kills(server, expected, tmp_path, processes=2, env=ZERO3, seed=2)) == 10
