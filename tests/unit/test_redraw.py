"""Dynamic sampling: which groups are replaced, by what, and what is said about it, in both arms."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny_tree import exact_norms
from transformers import AutoTokenizer, Qwen3ForCausalLM, TrainerControl, TrainerState

from rft.data.prompt import PromptTokens
from rft.errors import RecipeError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.tasks.load import load_split
from rft.train.advantages import Contest
from rft.train.early_signs import STEPS, EarlySigns
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.histories import HistoryArm
from rft.train.memories import MemoryArm
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.memory_rows import memory_units
from rft.train.redraw import is_scored
from rft.train.rewards import Scorer
from rft.train.rollout import Rollout, Turn
from rft.train.targets import grpo_rows, mixed
from rft.train.trl import PolicyTrainer

FIELDS = {
    "questions_per_history": 2,
    "max_completion_length": 4,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "gradient_checkpointing": False,
    "remove_unused_columns": False,
}


def differs(completion_ids, question_id, **_):
    """Different within a group, for the questions with an even number; the others are flat."""
    return [i * even(name) / 100 for i, name in enumerate(question_id)]


def even(question_id):
    return sum(map(ord, question_id)) % 2 == 0


def never(completion_ids, **_):
    return [0.5] * len(completion_ids)


@pytest.fixture(scope="module")
def make(mini_data, tiny_checkpoint, tmp_path_factory):
    def trainer(arm, reward=differs, open_ended=0.0, people=30, **fields) -> PolicyTrainer:
        tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, padding_side="left")
        split = load_split(mini_data, "train")
        persons = sorted({q.persona_id for q in split.questions})[:people]
        questions = [q for q in mixed(split.questions, open_ended) if q.persona_id in persons]
        split = replace(split, questions=tuple(questions))
        out = str(tmp_path_factory.mktemp("run"))
        if arm == "histories":
            shape = {"num_generations": 4, "per_device_train_batch_size": 32}
            args = HistoryGRPOConfig(out, **FIELDS | shape | fields)
            made, rows = HistoryArm(split, PromptTokens(tokenizer), args), grpo_rows(questions)
        else:
            shape = {"num_generations": 2, "per_device_train_batch_size": 8}
            args = MemoryGRPOConfig(out, **FIELDS | shape | fields)
            made = MemoryArm(split, MemoryAgent(tokenizer, MemorySettings(400, 6)), args)
            rows = memory_units(questions, 2, seed=0)
        return PolicyTrainer(
            arm=made,
            scorer=Scorer([reward]),
            model=exact_norms(Qwen3ForCausalLM.from_pretrained(tiny_checkpoint)),
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
        )

    return trainer


def units_of(trainer, generation=0):
    size = trainer.args.per_device_train_batch_size
    order = [i for i, _ in zip(trainer.arm.sampler(trainer.train_dataset), range(99999), strict=False)]
    return [trainer.train_dataset[i] for i in order[generation * size : (generation + 1) * size]]


def groups(trainer, rollouts):
    size = trainer.args.num_generations
    return [rollouts[i : i + size] for i in range(0, len(rollouts), size)]


def asked(group):
    """What a group asks, the same in all its rollouts."""
    (names,) = {tuple(question.id for question in rollout.questions) for rollout in group}
    return names


def last(trainer, name):
    return trainer.recorded(name)[-1]


@pytest.mark.parametrize("arm", ["histories", "memories"])
def test_flat_groups_are_replaced_up_to_a_bound(make, arm):
    torch.manual_seed(0)
    trainer = make(arm, redraw_rounds=2)
    units = units_of(trainer)
    drawn = [tuple(q.id for q in trainer.arm.asked(unit)) for unit in units[:: trainer.args.num_generations]]
    rollouts = trainer.loop.rollouts(units)
    assert len(rollouts) == len(units)
    after = groups(trainer, rollouts)
    flat = [not any(map(even, names)) for names in drawn]
    assert any(flat) and not all(flat)
    for group, before, was_flat in zip(after, drawn, flat, strict=True):
        assert (asked(group) != before) == was_flat
        assert any(turn.advantage for r in group for turn in r.turns) == any(map(even, asked(group)))
    counts = Counter(name for group in after for name in asked(group))
    assert max(counts.values()) == 1  # no question twice
    still = [not any(map(even, asked(group))) for group in after]
    assert last(trainer, "redraw/flat_before") == sum(flat) / len(flat)
    assert last(trainer, "redraw/flat_after") == sum(still) / len(still) < sum(flat) / len(flat)
    assert last(trainer, "frac_reward_zero_std") == last(trainer, "redraw/flat_before")
    assert 1 <= last(trainer, "redraw/rounds") <= 2
    assert last(trainer, "redraw/completions") >= sum(flat) * trainer.args.num_generations
    taken, histories = {*drawn, *map(asked, after)}, [trainer.arm.questions[x[0]].history_id for x in drawn]
    for group, own in zip(after, histories, strict=True):  # another history only if its own has none left
        left = [unit for unit in map(trainer.arm.asked, trainer.train_dataset) if unit[0].history_id == own]
        assert group[0].history.id == own or all(tuple(q.id for q in unit) in taken for unit in left)
    (batch,) = trainer.loop.micro_batches(rollouts)
    assert len(batch) > 0


@pytest.mark.parametrize("arm", ["histories", "memories"])
def test_the_seed_and_the_step_decide_what_is_drawn(make, arm):
    def once(**state):
        trainer = make(arm, redraw_rounds=1)
        for name, value in state.items():
            setattr(trainer.state, name, value)
        return [asked(group) for group in groups(trainer, trainer.loop.rollouts(units_of(trainer)))]

    first = once()
    assert once() == first
    assert once(global_step=7) != first


def test_the_shares_of_blind_and_open_ended_questions_stay(make):
    trainer = make("histories", redraw_rounds=3, blind_share=0.5, open_ended=0.4, reward=differs)
    kinds = Counter()
    for generation in range(3):
        units = units_of(trainer, generation)
        trained = trainer.loop.rollouts(units)
        drawn = trainer.arm.roll_out(units, trainer)
        for before, after in zip(drawn, trained, strict=True):
            pair = [(r.blind, r.questions[0].open_ended) for r in (before, after)]
            assert pair[0] == pair[1]
            kinds[pair[0]] += before.questions != after.questions
    assert min(kinds[key] for key in [(b, o) for b in (True, False) for o in (True, False)]) > 0


def test_without_the_field_nothing_is_asked_of_anyone(make, monkeypatch):
    trainer = make("histories")
    calls = []
    complete = trainer.complete
    monkeypatch.setattr(trainer, "complete", lambda *args: calls.append(args) or complete(*args))
    rollouts = trainer.loop.rollouts(units_of(trainer))
    assert len(calls) == 1 and last(trainer, "frac_reward_zero_std") > 0
    assert not [name for name in trainer._metrics["train"] if "redraw" in name]
    assert trainer.loop.redraw([], rollouts, ([1.0], []), None) == (rollouts, {})


@pytest.mark.parametrize("arm", ["histories", "memories"])
def test_a_run_in_which_all_stays_flat_says_so(make, arm, caplog):
    trainer = make(arm, reward=never, redraw_rounds=2)
    trainer.loop.rollouts(units_of(trainer))
    assert last(trainer, "redraw/flat_after") == last(trainer, "redraw/flat_before") == 1.0
    assert last(trainer, "redraw/rounds") == 2
    EarlySigns(trainer).on_step_end(None, TrainerState(global_step=STEPS), TrainerControl())
    assert "had the same reward" in caplog.text


def test_a_run_whose_redraws_find_a_difference_does_not(make, caplog):
    trainer = make("histories", redraw_rounds=1)
    trainer.record("frac_reward_zero_std", 1.0)
    trainer.record("redraw/flat_after", 0.5)
    trainer.record("reward", 0.0)
    EarlySigns(trainer).on_step_end(None, TrainerState(global_step=STEPS), TrainerControl())
    assert "had the same reward" not in caplog.text


def test_where_the_data_is_exhausted_groups_stay(make):
    trainer = make("histories", reward=never, people=1, redraw_rounds=50)
    total = len(trainer.train_dataset)
    units = units_of(trainer)
    rollouts = trainer.loop.rollouts(units)
    assert len(rollouts) == len(units)
    assert last(trainer, "redraw/flat_after") == 1.0
    spare = total - len(units) // trainer.args.num_generations
    assert last(trainer, "redraw/completions") == spare * trainer.args.num_generations
    assert last(trainer, "redraw/rounds") < 50


def test_what_could_not_be_scored_is_not_drawn_again(make):
    def away(completion_ids, question_id, **_):
        return [None if not even(name) else 0.5 for name in question_id]

    trainer = make("histories", reward=away, redraw_rounds=1)
    units = units_of(trainer)
    rollouts = trainer.loop.rollouts(units)
    for unit, rollout in zip(units, rollouts, strict=True):
        stays = not even(unit["question_id"])
        assert (rollout.questions[0].id == unit["question_id"]) == stays
    lone = Rollout(None, answers=[Turn([], [1], None, reward=1.0), Turn([], [1], None)])
    assert not is_scored([lone]) and is_scored([lone, lone])


@pytest.mark.parametrize(
    ("scores", "aggregation", "flat"),
    [
        ([[1.0, 0.0], [0.0, 2.0]], "sum_then_normalize", True),
        ([[1.0, 0.0], [0.0, 2.0]], "normalize_then_sum", False),  # each function tells them apart
        ([[1.0, math.nan], [1.0, math.nan]], "normalize_then_sum", True),
        ([[1.0, math.nan], [math.nan, math.nan]], "sum_then_normalize", True),
        ([[1.0, 0.0], [1.0, 0.5]], "sum_then_normalize", False),
    ],
)
def test_a_contest_is_flat_if_no_advantage_can_differ(scores, aggregation, flat):
    class Args:
        multi_objective_aggregation, scale_rewards = aggregation, "group"

    turns = [[Turn([0], [1], None)], [Turn([0], [1], None)]]
    contest = Contest(turns, torch.tensor(scores, dtype=torch.float64), [1.0, 0.5], 2)
    assert contest.is_flat(Args) == flat
    contest.decide(Args, list)
    assert any(turn.advantage for of_one in turns for turn in of_one) != flat
    assert Contest([[], []], contest.scores_NF, [1.0, 1.0], 2).is_flat(Args)


def test_rounds_below_zero_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="redraw_rounds -1: expected 0"):
        HistoryGRPOConfig(str(tmp_path), **FIELDS, redraw_rounds=-1)
