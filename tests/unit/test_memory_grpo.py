"""The memory's trainer: tree and plain rows give the same loss and gradients, no turn is lost, no question
reaches a memory."""

import pytest
import torch
from tiny_tree import tiny_model
from transformers import AutoTokenizer

import reward
from rft.data.dataset import load_split
from rft.errors import RecipeError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.targets import load_memory_targets
from rft.prefix_tree.logprobs import plain_logps
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.memory_rows import memory_units
from rft.train.memory_trainer import MemoryGRPOTrainer
from rft.train.muon import MuonAdamW


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
    def make(kind=MemoryGRPOTrainer, dtype=torch.float64, memory_rewards=(), ref=False, **fields):
        agent = MemoryAgent(tokenizer, MemorySettings(90, 20))
        args = config(tmp_path, **fields)
        model = tiny_model(
            dtype,
            vocab_size=len(tokenizer),
            max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id,
        )
        units = memory_units(split.questions, args.questions_per_history, seed=0)
        return kind(
            agent=agent,
            split=split,
            args=args,
            model=model,
            reward_funcs=[length_reward],
            train_dataset=units,
            processing_class=tokenizer,
            notes=load_memory_targets(split),
            memory_rewards=memory_rewards,
        )

    return make


class PlainTrainer(MemoryGRPOTrainer):
    """Log-probs one row at a time, nothing shared."""

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ):
        prompt = input_ids.shape[1] - logits_to_keep
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        logps_BC, entropies_BC = plain_logps(
            model, rows, attention_mask[:, :prompt].sum(1).tolist(), self.temperature, True
        )
        self._logps_BC = logps_BC.detach()
        return logps_BC, entropies_BC, None


def units_of(trainer, count=2):
    return [trainer.train_dataset[i] for i in range(count) for _ in range(trainer.args.num_generations)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"turn_weighting": "trajectory", "answers_per_memory": 2, "scale_rewards": "none"},
        {"max_tree_tokens": 700, "turn_weighting": "turn"},
    ],
    ids=["token", "trajectory", "parts"],
)
def test_tree_and_plain_rows_give_the_same_loss_and_gradients(make, fields):
    shared, plain = (
        make(**fields),
        make(PlainTrainer, **{k: v for k, v in fields.items() if k != "max_tree_tokens"}),
    )
    torch.manual_seed(0)
    batch = shared._micro_batches(shared._roll_out(units_of(shared)), 1)[0]
    assert batch["advantages"].abs().max() > 0.1
    assert len(batch["advantages"]) > 20
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    losses = []
    for trainer in (shared, plain):
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-9
    total = 0.0
    for (name, a), b in zip(shared.model.named_parameters(), plain.model.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() < 1e-9, name
        total += a.grad.abs().sum().item()
    assert total > 1e-3


@pytest.mark.parametrize("top_entropy_quantile", [1.0, 0.5])
def test_turns_without_an_advantage_are_left_out_and_change_nothing(make, monkeypatch, top_entropy_quantile):
    """But where the loss compares the entropies of all tokens."""
    trainer = make(answers_per_memory=2, top_entropy_quantile=top_entropy_quantile)
    torch.manual_seed(0)
    found = trainer._roll_out(units_of(trainer))
    for turn in [turn for t in found for turn in t.answers][::3]:
        turn.advantage = 0.0
    batch = trainer._micro_batches(found, 1)[0]
    monkeypatch.setattr("rft.train.memory_trainer._with_advantage", lambda batch: batch)
    whole = trainer._micro_batches(found, 1)[0]
    with_one = sum(turn.advantage != 0 for t in found for turn in t.turns)
    assert len(batch["advantages"]) == (with_one if top_entropy_quantile == 1 else len(whole["advantages"]))
    assert with_one < len(whole["advantages"]) == sum(len(t.turns) for t in found)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    gradients = []
    for rows in (batch, whole):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(
            trainer.model, {k: v.double() if v.is_floating_point() else v for k, v in rows.items()}
        )
        loss.backward()
        gradients.append([loss.item(), *(p.grad.clone() for p in trainer.model.parameters())])
    assert abs(gradients[0][0] - gradients[1][0]) < 1e-9
    assert all((a - b).abs().max() < 1e-9 for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True))


def test_the_loss_by_hand(make):
    """With every ratio at 1 the loss is minus the weighted mean of the advantages, whatever the weighting."""
    trainer = make(turn_weighting="trajectory")
    found = trainer._roll_out(units_of(trainer))
    batch = trainer._micro_batches(found, 1)[0]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    expected = -sum(sum(turn.advantage for turn in t.turns) / len(t.turns) for t in found) / len(found)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, abs=1e-6)


def test_sampled_and_trained_log_probs_agree(make):
    trainer = make()
    found = trainer._roll_out(units_of(trainer))
    batch = trainer._micro_batches(found, 1)[0]
    ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    logps_BC = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, batch["completion_ids"].shape[1]
    )[0]
    assert ((logps_BC - batch["sampling_per_token_logps"]) * batch["completion_mask"]).abs().max() < 1e-5


def test_turns_of_a_trajectory_follow_from_one_another(make, split):
    trainer = make()
    agent = trainer._agent
    for t in trainer._roll_out(units_of(trainer)):
        chunks, memory = agent.chunks(t.history), ""
        assert len(t.updates) == len(chunks) > 2
        for chunk, turn in zip(chunks, t.updates, strict=True):
            assert turn.prompt == agent.update_ids(chunk, memory)
            memory = agent.accept(turn.completion, memory, trainer.eos_token_ids).memory
        assert memory == t.memory
        assert [turn.question for turn in t.answers] == t.questions
        assert all(turn.prompt == agent.answer_ids(turn.question, memory) for turn in t.answers)


def test_permuting_or_replacing_the_questions_does_not_change_the_memories(make):
    trainer = make()
    units = units_of(trainer)

    def memories(units):
        torch.manual_seed(3)
        return [[turn.completion for turn in t.updates] for t in trainer._roll_out(units)]

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
    assert trainer._trained == trainer._made > 0

    class Loses(MemoryGRPOTrainer):
        def _prepare_inputs(self, generation_batch):
            inputs = super()._prepare_inputs(generation_batch)
            return {key: value[1:] if value.dim() else value for key, value in inputs.items()}

    with pytest.raises(RuntimeError, match="rows were trained, but .* turns were lost or trained twice"):
        make(Loses, dtype=torch.float32, max_steps=1).train()


def test_row_by_row_as_trl_does_it(make):
    trainer = make(dtype=torch.float32, max_steps=1, prefix_sharing="off")
    trainer.train()
    assert trainer._trained == trainer._made > 0


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
        ({"loss_type": "grpo"}, "loss_type grpo: memory GRPO supports only dapo, cispo"),
        ({"scale_rewards": "batch"}, "scale_rewards batch: memory GRPO supports only group, none"),
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
    batch = trainer._micro_batches(trainer._roll_out(units_of(trainer)), 1)[0]
    last_B = batch["completion_ids"].gather(1, batch["completion_mask"].sum(1, keepdim=True) - 1)[:, 0]
    ended_B = torch.isin(last_B, torch.tensor(trainer.eos_token_ids))
    assert ended_B.any() and not ended_B.all()
    assert ((batch["tool_mask"].sum(1) > 0) == ended_B).all()
