"""Masters in one process: beside LoRA, with a reference, on the plain path; what FSDP2 is told."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_tree import random_rows, tiny_model
from transformers import Trainer

from rft.data.prompt import PromptTokens
from rft.data.tokenizer import load_tokenizer
from rft.errors import RecipeError
from rft.models.loading import load_model
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.runs.masters import MastersMixin, sharding_precision, spare_input_casts
from rft.tasks.load import load_split
from rft.train import grpo, sft
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.histories import HistoryArm
from rft.train.rewards import Scorer
from rft.train.targets import grpo_rows
from rft.train.trl import PolicyTrainer

LR = 5e-6


def share_moved(weights, start):
    moved = sum((weights[name].float() != tensor.float()).sum().item() for name, tensor in start.items())
    return moved / sum(tensor.numel() for tensor in start.values())


def test_accelerate_shards_with_this_precision(monkeypatch):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy="bf16")
    # accelerate's own: log-probs of eight bits
    assert plugin.mixed_precision_policy.output_dtype == torch.bfloat16
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="bf16")
    monkeypatch.setattr(
        Trainer, "create_accelerator_and_postprocess", lambda self: setattr(self, "accelerator", accelerator)
    )
    trainer = object.__new__(MastersMixin)
    trainer.args = SimpleNamespace(bf16=True)
    trainer.create_accelerator_and_postprocess()
    assert plugin.mixed_precision_policy == sharding_precision(torch.bfloat16)


def test_without_peft_s_casts_lora_computes_the_same_and_keeps_less():
    seen = []
    rows, prompts = random_rows(0)
    for spare in (False, True):
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(tiny_model(torch.bfloat16), config).train()
        if spare:
            spare_input_casts(model)
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            logps, _ = tree_logps(model, Tree(rows, prompts))
        logps.sum().backward()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained.values()} == {torch.float32}
        seen.append((logps.detach(), {name: p.grad for name, p in trained.items()}, sum(kept.values())))
    (logps, gradients, bytes_kept), (other_logps, other_gradients, fewer) = seen
    assert torch.equal(logps, other_logps)
    assert all(torch.equal(gradient, other_gradients[name]) for name, gradient in gradients.items())
    assert fewer < bytes_kept


@pytest.fixture
def make(mini_data, tiny_checkpoint, tmp_path):
    """Makes a GRPO trainer of the tiny model in bfloat16; keywords are the recipe's, or `peft_config`."""
    tokenizer = load_tokenizer(str(tiny_checkpoint))
    tokenizer.padding_side = "left"
    split = load_split(mini_data, "train")

    def trainer(peft_config=None, **words):
        args = HistoryGRPOConfig(
            **{
                "output_dir": str(tmp_path / "run"),
                "questions_per_history": 2,
                "num_generations": 4,
                "bf16": True,
                "use_cpu": True,
                "per_device_train_batch_size": 8,
                "max_steps": 1,
                "max_completion_length": 4,
                "report_to": "none",
                "warmup_steps": 0,
                "learning_rate": LR,
                "lr_scheduler_type": "constant",
                "gradient_checkpointing": False,
                "remove_unused_columns": False,
                "save_strategy": "no",
                **words,
            }
        )
        return PolicyTrainer(
            model=load_model(str(tiny_checkpoint), dtype="bfloat16"),
            arm=HistoryArm(split, PromptTokens(tokenizer), args),
            scorer=Scorer([lambda completion_ids, **_: [float(sum(ids)) for ids in completion_ids]]),
            args=args,
            peft_config=peft_config,
            train_dataset=grpo_rows(split.questions),
            processing_class=tokenizer,
        )

    return trainer


@pytest.mark.parametrize(
    "words",
    [{"beta": 0.1}, {"prefix_sharing": "off"}, {"gradient_checkpointing": True}, {"muon": True}],
    ids=str,
)
def test_the_policy_has_masters_and_the_reference_none(make, words):
    trainer = make(**words)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert {p.dtype for p in start.values()} == {torch.float32}
    if trainer.ref_model is not None:
        assert {p.dtype for p in trainer.ref_model.parameters()} == {torch.bfloat16}
    trainer.train()
    assert share_moved(dict(trainer.model.named_parameters()), start) >= 0.9
    trainer.give_up_masters()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "words", [{"beta": 0.1}, {"prefix_sharing": "off"}, {"gradient_checkpointing": True}], ids=str
)
def test_adapters_are_float32_over_a_frozen_base_of_bfloat16(make, words):
    trainer = make(peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"), **words)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    trainer.give_up_masters()
    for name, p in trainer.model.named_parameters():
        assert p.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
        assert torch.equal(p, start[name]) == ("lora_B" not in name), name  # A has no gradient while B is 0


def test_what_would_cast_the_masters_is_refused(make):
    with pytest.raises(RecipeError, match="use_transformers_continuous_batching: TRL casts the policy"):
        make(prefix_sharing="off", use_transformers_continuous_batching=True)


def test_the_cold_start_has_masters(mini_data, tiny_checkpoint, tmp_path):
    out = tmp_path / "run"
    sft.train(
        [
            "--model_name_or_path",
            str(tiny_checkpoint),
            "--data",
            str(mini_data),
            "--output_dir",
            str(out),
            "--max_steps",
            "3",
            "--dtype",
            "bfloat16",
            "--bf16",
            "true",
            "--per_device_train_batch_size",
            "2",
            "--learning_rate",
            "5e-6",
            "--warmup_steps",
            "0",
            "--lr_scheduler_type",
            "constant",
            "--save_steps",
            "3",
            "--report_to",
            "none",
            "--use_cpu",
            "true",
        ]
    )
    start = {
        name: tensor.bfloat16() for name, tensor in load_file(tiny_checkpoint / "model.safetensors").items()
    }
    assert share_moved(load_file(out / "checkpoint-3/model.safetensors"), start) >= 0.9
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}


def test_vllm_beside_the_training_makes_room_for_the_longest_prompt_alone(
    mini_data, tiny_checkpoint, tmp_path, monkeypatch
):
    class Built(Exception):
        pass

    def build(args, arm, **_):
        split = arm.split
        longest = max(len(arm.tokens.prompt_ids(q, split.history_of(q))) for q in split.questions)
        raise Built(args.vllm_max_model_length - longest)

    monkeypatch.setattr(grpo, "PolicyTrainer", build)
    words = [
        "--model_name_or_path",
        str(tiny_checkpoint),
        "--data",
        str(mini_data),
        "--output_dir",
        str(tmp_path / "run"),
        "--use_cpu",
        "true",
        "--use_vllm",
        "true",
        "--vllm_mode",
        "colocate",
        "--max_completion_length",
        "48",
        "--per_device_train_batch_size",
        "32",
        "--report_to",
        "none",
    ]
    with pytest.raises(Built, match="^48$"):
        grpo.train(words)
