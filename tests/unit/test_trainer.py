"""The GRPO trainer on one batch, in float64: tree, tree in parts and plain transformers rows give one loss
and one gradient."""

import inspect

import pytest
import torch
import trl
from tiny_tree import exact_norms
from transformers import AutoTokenizer, Qwen3ForCausalLM
from trl import GRPOTrainer

import reward
from rft.data.prompt import PromptTokens
from rft.errors import RecipeError
from rft.tasks.load import load_split
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.histories import HistoryArm
from rft.train.micro_batch import pack
from rft.train.rewards import Scorer
from rft.train.rollout import Turn
from rft.train.targets import grpo_rows
from rft.train.trl import PolicyTrainer, RecordsMixin

ROWS = 24  # 3 histories x 2 questions x 4 completions


def config(out, **fields) -> HistoryGRPOConfig:
    plain = {
        "questions_per_history": 2,
        "num_generations": 4,
        "per_device_train_batch_size": ROWS,
        "max_completion_length": 12,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
    }
    return HistoryGRPOConfig(output_dir=str(out), **plain | fields)


class PlainTrainer(PolicyTrainer):
    """Every padded row through the model by itself. (TRL's own path computes logits in float32, too coarse to
    compare with.)"""

    def score_tokens(self, model, part, entropy=False):
        ids, mask = (
            torch.cat([part.tensors[f"prompt_{x}"], part.tensors[f"completion_{x}"]], 1)
            for x in ("ids", "mask")
        )
        keep = part.tensors["completion_ids"].shape[1]
        places = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = model.model(input_ids=ids, attention_mask=mask, position_ids=places).last_hidden_state
        logits = model.lm_head(hidden[:, -keep - 1 : -1]) / self.temperature
        logps = logits.log_softmax(-1)
        return logps.gather(2, ids[:, -keep:, None]).squeeze(2), -(logps.exp() * logps).sum(-1)


@pytest.fixture(scope="module")
def make(mini_data, tiny_checkpoint, tmp_path_factory):
    """A trainer on the same tiny float64 model every time."""

    def trainer(kind=PolicyTrainer, **fields) -> PolicyTrainer:
        tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, padding_side="left")
        split = load_split(mini_data, "train")
        args = config(tmp_path_factory.mktemp("run"), **fields)
        trainer = kind(
            model=exact_norms(Qwen3ForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float64)),
            arm=HistoryArm(split, PromptTokens(tokenizer), args),
            scorer=Scorer([reward.personamem]),
            args=args,
            train_dataset=grpo_rows(split.questions),
            processing_class=tokenizer,
        )
        trainer.model.train()
        return trainer

    return trainer


def drawn(trainer, count=ROWS):
    order = trainer.arm.sampler(trainer.train_dataset)
    return [trainer.train_dataset[i] for i, _ in zip(order, range(count), strict=False)]


@pytest.fixture(scope="module")
def batch(make):
    """The tensors of a generation, with rewards that differ, so that no advantage is zero by chance."""
    trainer = make(beta=0.1)
    (batch,) = trainer.loop.generation(drawn(trainer))
    tensors = batch.tensors
    generator = torch.Generator().manual_seed(0)
    tensors["advantages"] = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    tensors["old_per_token_logps"] = tensors["sampling_per_token_logps"] + 0.1 * torch.randn(
        tensors["completion_ids"].shape, generator=generator, dtype=torch.float64
    )
    return tensors


def loss_and_gradients(trainer, tensors):
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, trainer.loop.batch(dict(tensors)))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    return loss.item(), gradients


def assert_equal(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-9)
    assert one[0] != 0
    for name, gradient in one[1].items():
        assert torch.allclose(gradient, other[1][name], rtol=0, atol=1e-9), name
    assert max(gradient.abs().max() for gradient in one[1].values()) > 1e-4


SEQUENCE = {"importance_sampling_level": "sequence"}
VARIANTS = {
    "grpo": {"loss_type": "grpo"},
    "gspo": {"loss_type": "grpo", **SEQUENCE},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "dapo with sequence ratios": {"loss_type": "dapo", **SEQUENCE},
    "clip higher, on both sides": {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.1},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.05},
    "sapo": {"loss_type": "sapo"},
    "luspo": {"loss_type": "luspo", **SEQUENCE},
    "vespo": {"loss_type": "vespo"},
    "unbiased KL": {"loss_type": "dapo", "use_bias_correction_kl": True},
    "off-policy mask": {"loss_type": "grpo", "off_policy_mask_threshold": 0.0},
}
OF_THE_WHOLE_BATCH = {  # refused with max_tree_tokens
    "tokens of high entropy": {"top_entropy_quantile": 0.5},
    "entropy bonus": {"entropy_coef": 0.01},
    "adaptive entropy bonus": {"use_adaptive_entropy": True, "entropy_coef": 0.01},
}


def by_stock_trl(make, tensors, **fields):
    """Loss and gradients of TRL's own trainer, from its own padding and masks to its loss."""

    class Stock(PlainTrainer):
        def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, *args, **kwargs):
            return (*self.score_tokens(model, part, True), None)

    stock = make(Stock, prefix_sharing="off", **fields)
    stock.current_gradient_accumulation_steps = 1
    (part,) = stock.loop.batch(dict(tensors)).parts
    extra = ("weights", "groups", "num_rows", "weight")
    inputs = {name: tensor for name, tensor in tensors.items() if name not in extra}
    loss = GRPOTrainer.compute_loss(stock, stock.model, inputs)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in stock.model.named_parameters()}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_over_the_tree_and_in_parts_is_that_of_stock_trl(make, batch, name):
    fields = {"beta": 0.1, **VARIANTS[name]}
    stock = by_stock_trl(make, batch, **fields)
    assert_equal(loss_and_gradients(make(**fields), batch), stock)
    split = make(**fields, max_tree_tokens=1200)
    assert_equal(loss_and_gradients(split, batch), stock)
    assert split.recorded("prefix_tree/parts")[0] >= 3
    assert max(split.recorded("prefix_tree/token_ratio")) < 12
    halves = make(**fields, max_tree_tokens=1200, gradient_checkpointing=True)
    assert_equal(loss_and_gradients(halves, batch), stock)


@pytest.mark.parametrize("name", OF_THE_WHOLE_BATCH)
def test_variants_that_need_the_whole_batch_are_those_of_stock_trl(make, batch, name):
    fields = {"beta": 0.1, **OF_THE_WHOLE_BATCH[name]}
    assert_equal(loss_and_gradients(make(**fields), batch), by_stock_trl(make, batch, **fields))
    with pytest.raises(RecipeError, match="lower per_device_train_batch_size instead"):
        make(**fields, max_tree_tokens=1200)


@pytest.mark.parametrize("name", VARIANTS | OF_THE_WHOLE_BATCH)
def test_every_variant_takes_a_step_over_the_tree(make, name):
    fields = (VARIANTS | OF_THE_WHOLE_BATCH)[name]
    trainer = make(**fields, max_steps=1, learning_rate=1e-3, save_strategy="no", logging_steps=1)
    trainer.loop.scorer = Scorer([lambda completion_ids, **_: [sum(ids) % 7 for ids in completion_ids]])
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.log_history[0]["prefix_tree/plain_path"] == 0
    assert all((p - old).abs().max() > 0 for p, old in zip(trainer.model.parameters(), before, strict=True))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_generation_is_that_of_stock_trl(make, monkeypatch, scale):
    """Rows, masks, advantages and the number of tokens of the same completions, as TRL makes them."""
    trainer = make(scale_rewards=scale, mask_truncated_completions=True)
    rows = drawn(trainer)

    def spread(completion_ids, **_):
        return [None if sum(ids) % 5 == 0 else sum(ids) % 7 / 7 for ids in completion_ids]

    trainer.loop.scorer = Scorer([spread])
    ended = trainer.ends[0]
    complete = trainer.complete
    said = []

    def some_end(prompts, longest):
        drawn = [
            (ids[: 3 + b % 4] + [ended], logps[: 4 + b % 4]) if b % 3 else (ids, logps)
            for b, (ids, logps) in enumerate(complete(prompts, longest))
        ]
        said.extend((prompt, ids) for prompt, (ids, _) in zip(prompts, drawn, strict=True))
        return drawn

    monkeypatch.setattr(trainer, "complete", some_end)
    (batch,) = trainer.loop.generation(rows)
    ours = batch.tensors

    trainer.reward_funcs = [spread]
    monkeypatch.setattr(trainer, "_tokenize_prompts", lambda prompts: ([ids for ids, _ in said], None, {}))
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_: ([ids for _, ids in said], None))
    theirs = GRPOTrainer._generate_and_score_completions(trainer, rows)
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "advantages"):
        assert torch.equal(ours[name], theirs[name]), name
    assert torch.equal(ours["completion_mask"] * ours["weights"], theirs["completion_mask"].float())
    assert ours["num_items_in_batch"] == theirs["num_items_in_batch"] < ours["completion_mask"].sum()
    assert (ours["advantages"] != 0).any()


def test_log_probs_without_gradients_go_through_the_tree_in_parts(make, batch):
    """As old and reference log-probs do: for a whole generation batch, within the same budget."""
    counts = batch["completion_mask"]
    plain, split = make(PlainTrainer, prefix_sharing="off"), make(max_tree_tokens=1200)
    expected, found = (trainer.logps(trainer.loop.batch(dict(batch))) for trainer in (plain, split))
    assert torch.allclose(found * counts, expected * counts, rtol=0, atol=1e-9)
    assert len(split.recorded("prefix_tree/token_ratio")) >= 3


def test_rows_that_share_nothing_take_the_plain_path_and_are_counted(make):
    ids = torch.randint(5, 200, (4, 30), generator=torch.Generator().manual_seed(0)).tolist()
    tensors = pack([Turn(row[:22], row[22:], None) for row in ids], 0)
    tree, plain = make(), make(prefix_sharing="off")
    found, expected = (trainer.logps(trainer.loop.batch(dict(tensors))) for trainer in (tree, plain))
    assert torch.equal(found, expected)
    assert tree.recorded("prefix_tree/plain_path") == [1.0]


def test_a_share_of_the_histories_is_asked_without_them(make):
    trainer = make(blind_share=0.5)
    blind = {}
    for rollout in trainer.loop.rollouts(drawn(trainer, 4 * ROWS)):
        prompt = trainer.decode([rollout.answers[0].prompt])[0]
        said = [message.content for message in rollout.history.messages]
        assert rollout.questions[0].query in prompt
        assert all((text in prompt) != rollout.blind for text in said)
        blind.setdefault(rollout.history.id, set()).add(rollout.blind)
    assert all(len(kinds) == 1 for kinds in blind.values())
    assert {kind for kinds in blind.values() for kind in kinds} == {True, False}


def test_the_first_batch_holds_the_longest_history(make):
    trainer = make()
    histories = trainer.arm.split.histories
    lengths = {name: sum(len(m.content) for m in h.messages) for name, h in histories.items()}
    assert lengths[drawn(trainer, 1)[0]["history_id"]] == max(lengths.values())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tree_tokens": 0}, "max_tree_tokens 0: expected 1 or more"),
        ({"max_tree_tokens": 100, "prefix_sharing": "off"}, "remove it"),
        ({"max_tree_tokens": 100, "top_entropy_quantile": 0.5}, "top_entropy_quantile"),
        ({"blind_share": 1.0}, "blind_share 1.0"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy steps: set held_out_split instead"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights has 2 numbers for 1 rewards"),
        ({"loss_type": "ppo"}, "loss_type ppo: expected one of cispo, dapo, vespo, grpo, sapo, dr_grpo"),
        ({"importance_sampling_level": "turn"}, "importance_sampling_level turn: expected one of token,"),
        ({"scale_rewards": "all"}, "scale_rewards all: expected one of group, batch, none"),
        ({"repetition_penalty": 1.1}, "repetition_penalty 1.1"),
        ({"generation_kwargs": {"typical_p": 0.9}}, "generation_kwargs"),
        ({"prefix_sharing": "perhaps"}, "expected on or off"),
        ({"num_generations": 5, "per_device_train_batch_size": 25}, "make the product 20"),
    ],
)
def test_what_sharing_cannot_honour_is_refused(tmp_path, fields, words):
    with pytest.raises(RecipeError, match=words):
        config(tmp_path, **fields).units_per_generation()


def test_rollouts_that_are_off_policy_are_told_once(make, batch, caplog):
    trainer = make()
    loss_and_gradients(trainer, batch)
    assert trainer.recorded("sampling/off_policy") == [0.0]
    assert "off-policy" not in caplog.text
    far = batch | {"sampling_per_token_logps": batch["sampling_per_token_logps"].clone()}
    far["sampling_per_token_logps"][:, 0] += 0.3  # one token a row, further than log 1.2
    for _ in range(2):
        loss_and_gradients(trainer, far)
    share = ROWS / batch["completion_mask"].sum().item()
    assert trainer.recorded("sampling/off_policy")[1:] == pytest.approx([share] * 2)
    assert caplog.text.count("off-policy") == 1
    assert f"{100 * share:.1f} % of the sampled tokens" in caplog.text


def test_a_budget_below_one_row_is_refused(make, batch):
    with pytest.raises(RecipeError, match="max_tree_tokens is 100, but one row"):
        loss_and_gradients(make(max_tree_tokens=100), batch)


def test_the_seams_of_trl_are_where_this_trainer_takes_hold():
    """Private to TRL and pinned to 1.16: a new TRL must be read before this test is changed."""
    assert trl.__version__.startswith("1.16.")
    parameters = {
        "_get_train_sampler": ["self", "dataset"],
        "_prepare_inputs": ["self", "generation_batch"],
        "_generate_single_turn": [
            "self",
            "prompt_ids",
            "images",
            "multimodal_fields",
            "num_generations",
            "has_tool_images",
        ],
        "_compute_loss": ["self", "model", "inputs"],
    }
    for name, expected in parameters.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == expected, name
    seam = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    assert list(seam)[:8] == [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
    ]
    kept = {"_metrics", "_logs", "_step", "_current_train_step_time", "_total_train_tokens"}
    source = inspect.getsource(GRPOTrainer)
    assert all(f"self.{name}" in source for name in kept | {"_tokenizer", "_buffered_inputs"})
    assert issubclass(PolicyTrainer, RecordsMixin)
