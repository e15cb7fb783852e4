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
from rft.data.dataset import load_split
from rft.data.prompt import PromptTokens
from rft.errors import RecipeError
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.targets import grpo_rows
from rft.train.trainer import HistoryGRPOTrainer

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


class PlainTrainer(HistoryGRPOTrainer):
    """Every padded row through the model by itself. (TRL's own path computes logits in float32, too coarse to
    compare with.)"""

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
    ):
        places = (attention_mask.cumsum(1) - 1).clamp(min=0)
        hidden = model.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=places
        ).last_hidden_state
        logits = model.lm_head(hidden[:, -logits_to_keep - 1 : -1]) / self.temperature
        logps = logits.log_softmax(-1)
        labels = input_ids[:, -logits_to_keep:, None]
        return logps.gather(2, labels).squeeze(2), -(logps.exp() * logps).sum(-1), None


@pytest.fixture(scope="module")
def make(mini_data, tiny_checkpoint, tmp_path_factory):
    """A trainer on the same tiny float64 model every time."""

    def trainer(kind=HistoryGRPOTrainer, **fields) -> HistoryGRPOTrainer:
        tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, padding_side="left")
        split = load_split(mini_data, "train")
        return kind(
            model=exact_norms(Qwen3ForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float64)),
            split=split,
            tokens=PromptTokens(tokenizer),
            args=config(tmp_path_factory.mktemp("run"), **fields),
            reward_funcs=[reward.personamem],
            train_dataset=grpo_rows(split.questions),
            processing_class=tokenizer,
        )

    return trainer


@pytest.fixture(scope="module")
def batch(make):
    """A generation batch with rewards that differ, so that no advantage is zero by chance."""
    trainer = make(beta=0.1)
    rows = [trainer.train_dataset[i] for i, _ in zip(trainer._get_train_sampler(), range(ROWS), strict=False)]
    trainer.model.train()
    inputs = trainer._generate_and_score_completions(rows)
    generator = torch.Generator().manual_seed(0)
    inputs["advantages"] = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    inputs["old_per_token_logps"] = inputs["sampling_per_token_logps"] + 0.1 * torch.randn(
        inputs["completion_ids"].shape, generator=generator, dtype=torch.float64
    )
    return inputs


def loss_and_gradients(trainer, batch):
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    return loss.item(), gradients


def assert_equal(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-9)
    assert one[0] != 0
    for name, gradient in one[1].items():
        assert torch.allclose(gradient, other[1][name], rtol=0, atol=1e-9), name
    assert max(gradient.abs().max() for gradient in one[1].values()) > 1e-4


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo", "dr_grpo"])
def test_parts_and_tree_and_plain_rows_give_one_loss_and_gradient(make, batch, loss_type):
    plain = loss_and_gradients(make(PlainTrainer, prefix_sharing="off", beta=0.1, loss_type=loss_type), batch)
    assert_equal(loss_and_gradients(make(beta=0.1, loss_type=loss_type), batch), plain)
    split = make(beta=0.1, loss_type=loss_type, max_tree_tokens=1200)
    assert_equal(loss_and_gradients(split, batch), plain)
    assert split._metrics["train"]["prefix_tree/parts"][0] >= 3
    assert max(split._metrics["train"]["prefix_tree/token_ratio"]) < 12
    halves = make(beta=0.1, loss_type=loss_type, max_tree_tokens=1200, gradient_checkpointing=True)
    assert_equal(loss_and_gradients(halves, batch), plain)


def test_log_probs_without_gradients_go_through_the_tree_in_parts(make, batch):
    """As old and reference log-probs do: for a whole generation batch, within the same budget."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    counts = batch["completion_mask"]
    plain, split = make(PlainTrainer, prefix_sharing="off"), make(max_tree_tokens=1200)
    split.model.train()
    with torch.no_grad():
        expected, found = (
            trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, counts.shape[1], compute_entropy=True
            )[:2]
            for trainer in (plain, split)
        )
    for table, reference in zip(found, expected, strict=True):
        assert torch.allclose(table * counts, reference * counts, rtol=0, atol=1e-9)
    assert len(split._metrics["train"]["prefix_tree/token_ratio"]) >= 3


def test_rows_that_share_nothing_take_the_plain_path_and_are_counted(make):
    ids = torch.randint(5, 200, (4, 30), generator=torch.Generator().manual_seed(0))
    tree, plain = make(), make(prefix_sharing="off")
    for trainer in (tree, plain):
        trainer.model.train()
    found = tree._get_per_token_logps_and_entropies(tree.model, ids, torch.ones_like(ids), 8)[0]
    expected = plain._get_per_token_logps_and_entropies(plain.model, ids, torch.ones_like(ids), 8)[0]
    assert torch.equal(found, expected)
    assert tree._metrics["train"]["prefix_tree/plain_path"] == [1.0]


def test_a_share_of_the_histories_is_asked_without_them(make):
    trainer = make(blind_share=0.5)
    trainer.model.train()
    rows = [
        trainer.train_dataset[i] for i, _ in zip(trainer._get_train_sampler(), range(ROWS * 4), strict=False)
    ]
    batch = trainer._generate_and_score_completions(rows)
    blind = {}
    for row, ids, mask in zip(rows, batch["prompt_ids"], batch["prompt_mask"], strict=True):
        question = trainer._question[row["question_id"]]
        prompt = trainer._tokenizer.decode(ids[mask.bool()])
        said = [message.content for message in trainer._split.history_of(question).messages]
        assert question.query in prompt
        assert all((text in prompt) != row["blind"] for text in said)
        blind.setdefault(row["history_id"], set()).add(row["blind"])
    assert all(len(kinds) == 1 for kinds in blind.values())
    assert {kind for kinds in blind.values() for kind in kinds} == {True, False}


def test_the_first_batch_holds_the_longest_history(make):
    trainer = make()
    first = trainer.train_dataset[next(iter(trainer._get_train_sampler()))]["history_id"]
    lengths = {name: sum(len(m.content) for m in h.messages) for name, h in trainer._split.histories.items()}
    assert lengths[first] == max(lengths.values())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tree_tokens": 0}, "max_tree_tokens 0: expected 1 or more"),
        ({"max_tree_tokens": 100, "prefix_sharing": "off"}, "remove it"),
        ({"max_tree_tokens": 100, "top_entropy_quantile": 0.5}, "top_entropy_quantile"),
        ({"blind_share": 1.0}, "blind_share 1.0"),
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
    assert trainer._metrics["train"]["sampling/off_policy"] == [0.0]
    assert "off-policy" not in caplog.text
    far = batch | {"sampling_per_token_logps": batch["sampling_per_token_logps"].clone()}
    far["sampling_per_token_logps"][:, 0] += 0.3  # one token a row, further than log 1.2
    for _ in range(2):
        loss_and_gradients(trainer, far)
    share = ROWS / batch["completion_mask"].sum().item()
    assert trainer._metrics["train"]["sampling/off_policy"][1:] == pytest.approx([share] * 2)
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
        "_generate_and_score_completions": ["self", "inputs"],
        "_tokenize_prompts": ["self", "prompts"],
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
        "_generate": ["self", "prompts"],
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
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
