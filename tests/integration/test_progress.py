"""What a run says while it trains: in a log file a line at every logging step, and early when nothing will be
learned."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from rft.runs.progress import RichProgress, duration
from rft.train import grpo
from rft.train.early_signs import STEPS, EarlySigns

LINE = re.compile(
    r"^GRPO step (\d+)/(\d+) loss \S+ reward (\S+) unparsed (\S+), \S+ s a step, \d+ s left$", re.M
)


@pytest.fixture
def train(mini_data, tiny_checkpoint, tmp_path, repository):
    """GRPO in small; a random model, in which no letter can be read."""

    def run(*words, model=tiny_checkpoint):
        return grpo.train(
            [
                "--config",
                str(repository / "recipes/quickstart/grpo.yaml"),
                "--data",
                str(mini_data),
                "--model_name_or_path",
                str(model),
                "--output_dir",
                str(tmp_path / "out"),
                "--token_cache",
                str(tmp_path / "tokens"),
                "--use_cpu",
                "true",
                "--per_device_train_batch_size",
                "8",
                "--questions_per_history",
                "2",
                "--num_generations",
                "4",
                "--max_completion_length",
                "4",
                "--save_strategy",
                "no",
                *words,
            ]
        )

    return run


def test_a_log_file_gets_a_line_a_logging_step(train, capsys):
    train("--max_steps", "4", "--logging_steps", "2")
    said = capsys.readouterr().err
    assert [found[:2] for found in LINE.findall(said)] == [("2", "4"), ("4", "4")]
    assert "\x1b" not in said and "━" not in said


def test_a_terminal_gets_a_bar_and_no_lines(tmp_path):
    screen = io.StringIO()
    shown = RichProgress("GRPO", Console(file=screen, force_terminal=True, width=120))
    args, control = TrainingArguments(output_dir=str(tmp_path)), TrainerControl()
    state = TrainerState(max_steps=3, global_step=0, is_world_process_zero=True)
    shown.on_train_begin(args, state, control)
    state.global_step = 1
    shown.on_step_end(args, state, control)
    shown.on_log(args, state, control, logs={"loss": 0.25})
    shown.on_train_end(args, state, control)
    assert "━" in screen.getvalue() and "1/3" in screen.getvalue() and "loss 0.250" in screen.getvalue()
    assert "s a step" not in screen.getvalue()


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_speaks(first, tmp_path):
    log = io.StringIO()
    shown = RichProgress("SFT", Console(file=log))
    args, control = TrainingArguments(output_dir=str(tmp_path)), TrainerControl()
    state = TrainerState(max_steps=3, global_step=1, is_world_process_zero=first)  # resumed from step 1
    shown.on_train_begin(args, state, control)
    shown.on_log(args, state, control, logs={"loss": 1.0})  # nothing was done yet: no time of a step
    state.global_step = 2
    shown.on_log(args, state, control, logs={"loss": 0.5})
    shown.on_log(args, state, control, logs={"train_runtime": 2.0})
    assert bool(re.fullmatch(r"SFT step 2/3 loss 0.500, \S+ s a step, \S+ s left\n", log.getvalue())) == first
    assert log.getvalue().count("\n") == first


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(7.4, "7 s"), (99, "99 s"), (150, "2 min"), (7500, "2 h 5 min"), (200000, "2 d 7 h")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_a_run_in_which_no_letter_can_be_read_says_so_once(train, caplog):
    train("--max_steps", str(STEPS + 2), "--logging_steps", "1")
    said = [record.getMessage() for record in caplog.records if record.name == "rft.train.early_signs"]
    assert len([line for line in said if "no letter can be read" in line]) == 1
    assert (
        len(
            [
                line
                for line in said
                if "all completions of a question had the same reward" in line and "mean 0)" in line
            ]
        )
        == 1
    )
    assert len(said) == 2 and all(
        f"after step {STEPS}: " in line and "A completion: '" in line for line in said
    )


def test_rewards_that_differ_are_not_called_flat(train, tmp_path, caplog):
    (tmp_path / "rewards.py").write_text(
        "def scatter(completion_ids, **columns):\n    return [sum(ids) % 7 / 7 for ids in completion_ids]\n"
    )
    train("--max_steps", "3", "--rewards", f"{tmp_path}/rewards.py:scatter")
    said = [record.getMessage() for record in caplog.records if record.name == "rft.train.early_signs"]
    assert len(said) == 1 and "no letter can be read" in said[0]  # and nothing else


def test_rewards_that_tell_nothing_apart_are_named_before_the_first_step(train, tmp_path, caplog):
    (tmp_path / "rewards.py").write_text(
        "def same(completions, **columns):\n    return [0.5] * len(completions)\n"
        "def needs(completions, trainer_state, **columns):\n"
        "    return [0.0 * trainer_state.global_step] * len(completions)\n"
    )
    said = {}
    for name in ("same", "needs"):
        caplog.clear()
        caplog.set_level("INFO")
        train("--max_steps", "1", "--rewards", f"{tmp_path}/rewards.py:{name}")
        said[name] = [record.getMessage() for record in caplog.records if record.name == "rft.train.rewards"]
    assert said["same"] == [
        "the rewards give a correct answer, a wrong one and an empty one the same score (0.5): nothing can "
        "be learned from them; check `rewards`"
    ]
    assert len(said["needs"]) == 1 and said["needs"][0].startswith(
        "cannot check the rewards before the first step (AttributeError: "
    )


def test_the_signs_are_said_by_the_first_process_alone(tmp_path, caplog):
    class Trainer:  # as the other processes have it: its table of completions is never read there
        state = TrainerState(global_step=STEPS)
        args = SimpleNamespace(redraw_rounds=0)

        def recorded(self, name):
            return {"unparsed_rate": [1.0], "reward": [0.0], "frac_reward_zero_std": [1.0]}[name]

        def last_completion(self):
            return "something"

    for first in (False, True):
        state = TrainerState(global_step=STEPS, is_world_process_zero=first)
        EarlySigns(Trainer()).on_step_end(None, state, TrainerControl())
        assert (
            len([record for record in caplog.records if record.name == "rft.train.early_signs"]) == 2 * first
        )
