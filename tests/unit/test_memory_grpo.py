"""The memory's trainer: tree and plain rows give the same loss and gradients, no turn is lost, no question
reaches a memory."""

import pytest
import torch
from tiny_tree import tiny_model
from transformers import AutoTokenizer

import reward
from rft.errors import RecipeError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.prefix_tree.logprobs import plain_logps
from rft.tasks.load import load_split
from rft.tasks.memory_targets import load_memory_targets
from rft.train.memories import MemoryArm
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.memory_rows import memory_units
from rft.train.muon import MuonAdamW
from rft.train.rewards import Scorer
from rft.train.rollout import is_blind
from rft.train.trl import PolicyTrainer


def config(tmp_path, **fields) -> MemoryGRPOConfig:
    fields = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "questions_per_history": 2,
        "max_steps": 1,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 6,
        "loss_type": "dapo",
        "scale_rewards": "group",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-3,
        **fields,
    }
    return MemoryGRPOConfig(**fields)


def length_reward(completions, **columns):
    """Something that differs between answers of a random model."""
    return [len(text) % 5 / 4 for text in completions]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.fixture(scope="module")
def split(mini_data):
    return load_split(mini_data, "val")


@pytest.fixture
def make(tokenizer, split, tmp_path):
    def make(kind=PolicyTrainer, dtype=torch.float64, memory_rewards=(), **fields):
        agent = MemoryAgent(tokenizer, MemorySettings(90, 20))
        args = config(tmp_path, **fields)
        model = tiny_model(
            dtype,
            vocab_size=len(tokenizer),
            max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id,
        )
        units = memory_units(split.questions, args.questions_per_history, seed=0)
        scorer = Scorer([length_reward], memory_rewards=memory_rewards, targets=load_memory_targets(split))
        trainer = kind(
            arm=MemoryArm(split, agent, args),
            scorer=scorer,
            args=args,
            model=model,
            train_dataset=units,
            processing_class=tokenizer,
        )
        trainer.model.train()
        return trainer

    return make


class PlainTrainer(PolicyTrainer):
    """Log-probs one row at a time, nothing shared."""

    def score_tokens(self, model, part, entropy=False):
        rows = [
            [*prompt[seen.bool()].tolist(), *said[kept.bool()].tolist()]
            for prompt, seen, said, kept in zip(
                *(part.tensors[f"{x}_{y}"] for x in ("prompt", "completion") for y in ("ids", "mask")),
                strict=True,
            )
        ]
        prompts = part.tensors["prompt_mask"].sum(1).tolist()
        return plain_logps(model, rows, prompts, self.temperature, True)


def doubled(tensors):
    return {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}


def units_of(trainer, count=2):
    return [trainer.train_dataset[i] for i in range(count) for _ in range(trainer.args.num_generations)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"loss_type": "grpo", "turn_weighting": "trajectory", "max_tree_tokens": 700, "beta": 0.0},
        {"loss_type": "bnpo", "max_tree_tokens": 700},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "max_tree_tokens": 700},
        {"loss_type": "dr_grpo", "scale_rewards": "batch", "max_tree_tokens": 700},
        {
            "loss_type": "sapo",
            "turn_weighting": "turn",
            "multi_objective_aggregation": "normalize_then_sum",
            "answers_per_memory": 2,
        },
        {"turn_weighting": "trajectory", "answers_per_memory": 2, "scale_rewards": "none"},
        {"max_tree_tokens": 700, "turn_weighting": "turn"},
    ],
    ids=["token", "grpo", "bnpo", "luspo", "dr_grpo", "sapo", "trajectory", "parts"],
)
def test_tree_and_plain_rows_give_the_same_loss_and_gradients(make, fields):
    shared, plain = (
        make(**fields),
        make(PlainTrainer, **{k: v for k, v in fields.items() if k != "max_tree_tokens"}),
    )
    torch.manual_seed(0)
    tensors = shared.loop.generation(units_of(shared))[0].tensors
    assert tensors["advantages"].abs().max() > 0.1
    assert len(tensors["advantages"]) > 20
    losses = []
    for trainer in (shared, plain):
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer.compute_loss(trainer.model, trainer.loop.batch(doubled(tensors)))
        loss.backward()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-9
    total = 0.0
    for (name, a), b in zip(shared.model.named_parameters(), plain.model.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() < 1e-9, name
        total += a.grad.abs().sum().item()
    assert total > 1e-3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"top_entropy_quantile": 0.5},
        {"loss_type": "grpo", "turn_weighting": "turn"},
        {"loss_type": "bnpo"},
    ],
    ids=str,
)
def test_turns_without_an_advantage_are_left_out_and_change_nothing(make, fields):
    """But where the loss compares the entropies of all tokens."""
    trainer = make(answers_per_memory=2, **fields)
    torch.manual_seed(0)
    found = trainer.loop.rollouts(units_of(trainer))
    for turn in [turn for rollout in found for turn in rollout.answers][::3]:
        turn.advantage = 0.0
    few = trainer.loop.micro_batches(found)[0]
    trainer.arm.keeps_flat_turns = True
    whole = trainer.loop.micro_batches(found)[0]
    with_one = sum(turn.advantage != 0 for rollout in found for turn in rollout.turns)
    assert len(few) == (len(whole) if "top_entropy_quantile" in fields else with_one)
    assert with_one < len(whole) == sum(len(rollout.turns) for rollout in found)
    trainer.current_gradient_accumulation_steps = 1
    gradients = []
    for batch in (few, whole):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, trainer.loop.batch(doubled(batch.tensors)))
        loss.backward()
        gradients.append([loss.item(), *(p.grad.clone() for p in trainer.model.parameters())])
    assert abs(gradients[0][0] - gradients[1][0]) < 1e-9
    assert all((a - b).abs().max() < 1e-9 for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True))


@pytest.mark.parametrize(
    "fields",
    [{}, {"loss_type": "cispo", "epsilon_high": 5.0}, {"loss_type": "grpo"}, {"loss_type": "sapo"}],
    ids=str,
)
@pytest.mark.parametrize("weighting", ["turn", "trajectory"])
def test_the_loss_by_hand(make, fields, weighting):
    """With every ratio at 1 the loss is minus the weighted mean of the advantages (cispo's: times log-probs),
    whatever the weighting, and in parts too."""
    trainer = make(turn_weighting=weighting, max_tree_tokens=700, **fields)
    found = trainer.loop.rollouts(units_of(trainer))
    batch = trainer.loop.micro_batches(found)[0]
    assert len(batch.parts) > 1
    trainer.current_gradient_accumulation_steps = 1

    def worth(turn):
        log = sum(turn.logps) / len(turn.logps) if fields.get("loss_type") == "cispo" else 1.0
        # a soft gate: sigmoid(0) * 4 / temperature
        gate = 2 / (1.0 if turn.advantage > 0 else 1.05) if fields.get("loss_type") == "sapo" else 1.0
        return turn.advantage * log * gate

    means = [[worth(turn) for turn in rollout.turns] for rollout in found]
    if weighting == "turn":
        expected = -sum(map(sum, means)) / sum(map(len, means))
    else:
        expected = -sum(sum(mean) / len(mean) for mean in means) / len(means)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, abs=1e-6)


def test_sampled_and_trained_log_probs_agree(make):
    trainer = make()
    (batch,) = trainer.loop.generation(units_of(trainer))
    off_BC = trainer.logps(batch) - batch.tensors["sampling_per_token_logps"]
    assert (off_BC * batch.tensors["completion_mask"]).abs().max() < 1e-5


def test_turns_of_a_rollout_follow_from_one_another(make):
    trainer = make()
    agent = trainer.arm.agent
    for rollout in trainer.loop.rollouts(units_of(trainer)):
        chunks, memory = agent.chunks(rollout.history), ""
        assert len(rollout.updates) == len(chunks) > 2
        for chunk, turn in zip(chunks, rollout.updates, strict=True):
            assert turn.prompt == agent.update_ids(chunk, memory)
            memory = agent.accept(turn.completion, memory, trainer.ends).memory
        assert memory == rollout.memory
        assert [turn.question for turn in rollout.answers] == rollout.questions
        assert all(turn.prompt == agent.answer_ids(turn.question, memory) for turn in rollout.answers)


def test_a_share_of_the_histories_is_asked_with_an_empty_memory(make, split):
    seed = next(s for s in range(9) if len({is_blind(s, 0, name, 0.5) for name in split.histories}) == 2)
    trainer = make(blind_share=0.5, per_device_train_batch_size=16, seed=seed)
    found = trainer.loop.rollouts(units_of(trainer, 8))
    empty = [rollout for rollout in found if rollout.blind]
    assert empty and len(empty) < len(found)
    for rollout in found:
        assert rollout.blind == (not rollout.updates)
    assert all(rollout.memory == "" and rollout.answers for rollout in empty)
    assert any(turn.advantage for rollout in empty for turn in rollout.answers)
    (batch,) = trainer.loop.micro_batches(found)
    trainer.current_gradient_accumulation_steps = 1
    assert torch.isfinite(trainer.compute_loss(trainer.model, batch))
    assert trainer.recorded("right/blind") and trainer.recorded("memory/updates")[0] > 2


def test_permuting_or_replacing_the_questions_does_not_change_the_memories(make):
    trainer = make()
    units = units_of(trainer)

    def memories(units):
        torch.manual_seed(3)
        return [[turn.completion for turn in t.updates] for t in trainer.loop.rollouts(units)]

    of_history = {unit["history_id"]: [] for unit in trainer.train_dataset}
    for unit in trainer.train_dataset:
        of_history[unit["history_id"]] += unit["question_ids"]
    before = memories(units)
    assert before == memories([{**unit, "question_ids": unit["question_ids"][::-1]} for unit in units])
    assert before == memories(
        [{**unit, "question_ids": of_history[unit["history_id"]][-3:]} for unit in units]
    )


def test_training_moves_the_weights_and_logs(make, tmp_path):
    rewards = [
        reward.load(f"reward.memory.{name}")
        for name in ("within_budget", "not_copied", "forgotten_absent", "sensitive_absent")
    ]
    trainer = make(
        dtype=torch.float32,
        max_steps=4,
        steps_per_generation=2,
        per_device_train_batch_size=2,
        num_iterations=2,
        memory_rewards=rewards,
        log_completions=True,
        num_completions_to_print=0,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert any(not torch.equal(before[name], p) for name, p in trainer.model.named_parameters())
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert {
        "memory/tokens",
        "memory/empty_rate",
        "memory/cut_rate",
        "memory/bonus",
        "unparsed_rate",
        "time/rollout",
        "num_tokens",
        "prefix_tree/token_ratio",
    } <= logged[0].keys()
    assert list((tmp_path / "completions").glob("*.parquet"))


def test_muon_trains_the_matrices(make):
    trainer = make(muon=True)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, MuonAdamW)
    of_muon = {id(p) for p in trainer.optimizer.optimizer.parts[0].param_groups[0]["params"]}
    assert {name for name, p in trainer.model.named_parameters() if id(p) in of_muon} == {
        n for n in before if "proj" in n
    }
    assert not any(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())


def test_rows_made_are_rows_trained(make):
    trainer = make(dtype=torch.float32, max_steps=1)
    trainer.train()
    assert trainer.rows_trained == trainer.rows_made > 0

    class Loses(PolicyTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            few = {key: value[1:] if value.dim() else value for key, value in inputs.tensors.items()}
            return super().compute_loss(model, self.loop.batch(few), *args, **kwargs)

    with pytest.raises(RuntimeError, match="rows were trained, but .* turns were lost or trained twice"):
        make(Loses, dtype=torch.float32, max_steps=1).train()


def test_row_by_row_as_trl_does_it(make):
    trainer = make(dtype=torch.float32, max_steps=1, prefix_sharing="off")
    trainer.train()
    assert trainer.rows_trained == trainer.rows_made > 0


def test_the_batch_in_words(tmp_path):
    args = config(
        tmp_path,
        per_device_train_batch_size=8,
        steps_per_generation=2,
        num_generations=4,
        questions_per_history=3,
    )
    assert (
        args.arithmetic()
        == "a generation batch: 4 histories x 4 memories = 16 trajectories, each of which answers up to 3"
        " questions x 1; for 2 optimizer steps, in 2 micro-batches of 8 trajectories per process, over 1"
        " process. An update is compared with the 4 memories of its history, an answer to a question with"
        " the answers of the other memories; every token has the same weight"
    )
    assert (
        args.in_words(chunks=[2, 3, 3, 5], units=40)
        == "a history has 2 to 5 chunks (median 3), so a generation has about 48 updates and 48 answers:"
        " about 96 rows; 40 units make an epoch of 10 generations"
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss_type": "grpo"}, "loss_type grpo: a mean over turns, .* set `turn_weighting: turn`"),
        ({"loss_type": "vespo", "turn_weighting": "turn"}, "loss_type vespo: the ratio of a turn"),
        (
            {"importance_sampling_level": "sequence", "turn_weighting": "trajectory"},
            "importance_sampling_level sequence: the ratio of a turn",
        ),
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy steps: set held_out_split"),
        ({"answers_per_memory": 0}, "answers_per_memory 0"),
        (
            {"turn_weighting": "word"},
            "turn_weighting word: memory GRPO supports only token, turn, trajectory",
        ),
        ({"memory_rewards": ["a", "b"], "memory_reward_weights": [1.0]}, "1 numbers for 2 memory_rewards"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(tmp_path, fields, said):
    with pytest.raises(RecipeError, match=said):
        config(tmp_path, **fields)


def test_a_batch_that_tears_a_history_apart_is_refused_with_numbers(tmp_path):
    args = config(tmp_path, per_device_train_batch_size=8, num_generations=4)
    # TRL itself refuses this for one process, and not for each of several
    args.per_device_train_batch_size = 6
    with pytest.raises(
        RecipeError,
        match="= 6 memories per rank, which is not a multiple of num_generations 4; make the product 8",
    ):
        args.units_per_generation()


def test_truncated_completions_can_be_left_out_of_the_loss(make):
    trainer = make(mask_truncated_completions=True)
    tensors = trainer.loop.generation(units_of(trainer))[0].tensors
    lengths_B1 = tensors["completion_mask"].sum(1, keepdim=True)
    last_B = tensors["completion_ids"].gather(1, lengths_B1 - 1)[:, 0]
    ended_B = torch.isin(last_B, torch.tensor(trainer.ends))
    assert ended_B.any() and not ended_B.all()
    assert ((tensors["weights"].sum(1) > 0) == ended_B).all()
