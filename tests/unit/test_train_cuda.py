"""Training and evaluation over the emulated kernels of CUDA: two steps of GRPO and of SFT by each kernel, the
quickstart's first steps, which are float32, and what becomes of a model that no kernel takes."""

import zlib

import pytest
import torch
from datasets import Dataset
from emulated_kernels import on_cpu
from test_prefix_tree_cuda import ALL_KERNELS, KERNELS
from tiny_tree import tiny_model
from transformers import AutoTokenizer, Qwen3ForCausalLM

from rft.data.prompt import PromptTokens
from rft.errors import ModelError
from rft.evaluate.model_answers import ModelAnswers
from rft.evaluate.run import evaluate
from rft.models import loading as loading
from rft.models.local import LocalModel
from rft.prefix_tree import sample as sampling
from rft.prefix_tree.sample import Pace
from rft.tasks.load import load_split
from rft.train.grpo import train as train_grpo
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.histories import HistoryArm
from rft.train.rewards import Scorer
from rft.train.sft import AnswerCollator, ColdStartConfig, ColdStartTrainer
from rft.train.sft import train as train_sft
from rft.train.targets import grpo_rows, target
from rft.train.trl import PolicyTrainer

COMMON = {
    "max_steps": 2,
    "learning_rate": 0.1,
    "optim": "sgd",
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "gradient_checkpointing": True,
    "remove_unused_columns": False,
    "logging_steps": 1,
}


def scatter(completion_ids, **_):
    return [zlib.crc32(str(list(ids)).encode()) % 1000 / 1000 for ids in completion_ids]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def grpo(data, checkpoint, out, mixed, head_dim=None):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    split = load_split(data, "train")
    args = HistoryGRPOConfig(
        output_dir=str(out),
        questions_per_history=2,
        num_generations=4,
        per_device_train_batch_size=16,
        max_completion_length=12,
        bf16=mixed,
        beta=0.1,
        **COMMON,
    )
    model = Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    if head_dim:
        model = Qwen3ForCausalLM(
            type(model.config)(**model.config.to_dict() | {"head_dim": head_dim, "dtype": None})
        )
    return PolicyTrainer(
        model=model,
        arm=HistoryArm(split, PromptTokens(tokenizer), args),
        scorer=Scorer([scatter]),
        args=args,
        train_dataset=grpo_rows(split.questions[:24]),
        processing_class=tokenizer,
    )


def sft(data, checkpoint, out, mixed):
    split = load_split(data, "train")
    rows = [
        {"history_id": q.history_id, "question_id": q.id, "completion": target(q), "blind": False}
        for q in split.questions[:32]
    ]
    args = ColdStartConfig(
        output_dir=str(out),
        questions_per_history=4,
        per_device_train_batch_size=8,
        bf16=mixed,
        dataset_kwargs={"skip_prepare_dataset": True},
        **COMMON,
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return ColdStartTrainer(
        model=Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=AnswerCollator(split, PromptTokens(tokenizer)),
    )


@pytest.mark.parametrize("kind", [grpo, sft])
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "cudnn"])
def test_two_steps_are_those_of_the_cpu(kernel, kind, mini_data, tiny_checkpoint, tmp_path, monkeypatch):
    """bf16 is autocast's, over float32 weights. Rows are dropped alike, so that they draw alike."""
    monkeypatch.setattr(sampling, "pace", lambda device: Pace(16, True))
    mixed = kernel != "efficient"
    trainers = [kind(mini_data, tiny_checkpoint, tmp_path / "cpu", mixed)]
    start = weights(trainers[0].model).clone()
    trainers[0].train()
    with on_cpu(monkeypatch, flash_attn=kernel == "package") as ran:
        trainers.append(kind(mini_data, tiny_checkpoint, tmp_path / "cuda", mixed))
        trainers[1].train()
    # SFT samples nothing
    assert set(ran) == {
        name for name in ALL_KERNELS[kernel] if kind is grpo or not name.endswith(("dense", "used"))
    }
    moved = [weights(trainer.model) - start for trainer in trainers]
    assert (moved[1] - moved[0]).norm() < (0.05 if mixed else 1e-4) * moved[0].norm()
    logs = [row for row in trainers[1].state.log_history if "loss" in row]
    assert len(logs) == 2 and moved[0].norm() > 0.01
    if kind is grpo:
        assert [row["prefix_tree/plain_path"] for row in logs] == [0, 0]
        assert max(row["sampling/logp_difference_max"] for row in logs) < (0.02 if mixed else 1e-5)


def quickstart(recipe, data, model, out, *words):
    return [
        "--config",
        f"recipes/quickstart/{recipe}.yaml",
        "--data",
        str(data),
        "--model_name_or_path",
        str(model),
        "--output_dir",
        str(out),
        "--save_strategy",
        "no",
        "--report_to",
        "none",
        "--use_cpu",
        "true",
        *words,
    ]


def test_the_first_steps_of_the_quickstart(mini_data, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    with on_cpu(monkeypatch) as ran:
        train_sft(
            quickstart(
                "sft",
                mini_data,
                "recipes/quickstart/base",
                tmp_path / "sft",
                "--max_steps",
                "2",
                "--held_out_questions",
                "8",
            )
        )
        # dense, used: the held-out questions
        assert set(ran) == ALL_KERNELS["efficient"]
        summary = evaluate(
            load_split(mini_data, "benchmark"),
            tmp_path / "eval",
            ModelAnswers(LocalModel(tmp_path / "sft", dtype="float32"), max_new_tokens=8),
            limit=8,
        )
        assert summary.n == 8
        trainer = train_grpo(
            quickstart(
                "grpo",
                mini_data,
                tmp_path / "sft",
                tmp_path / "grpo",
                "--max_steps",
                "1",
                "--per_device_train_batch_size",
                "32",
            )
        )
    assert set(ran) == ALL_KERNELS["efficient"]
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert logs[0]["prefix_tree/plain_path"] == 0 and logs[0]["sampling/logp_difference_max"] < 1e-4


def test_training_without_a_kernel_is_refused_before_it_begins(
    mini_data, tiny_checkpoint, tmp_path, monkeypatch
):
    with on_cpu(monkeypatch) as ran:
        grpo(mini_data, tiny_checkpoint, tmp_path, mixed=False, head_dim=12)  # float32 has a kernel for it
        with pytest.raises(ModelError, match="multiples of 8 up to 256, not 12") as error:
            grpo(mini_data, tiny_checkpoint, tmp_path, mixed=True, head_dim=12)
    assert "`prefix_sharing: off`" in str(error.value) and "\n" not in str(error.value) and not ran


@pytest.mark.parametrize(
    ("dtype", "size", "why"), [("float64", 8, "not torch.float64"), ("bfloat16", 12, "not 12")]
)
def test_evaluation_without_a_kernel_takes_the_plain_path(
    dtype, size, why, tiny_checkpoint, tmp_path, monkeypatch, caplog
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tiny_model(getattr(torch, dtype), head_dim=size, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with on_cpu(monkeypatch) as ran:
        local = LocalModel(tmp_path)
        assert len(local.generate([[1, 2, 3], [1, 2, 4]], 4)) == 2
    assert not ran and not local.shares
    (line,) = [record.message for record in caplog.records if "prefilled separately" in record.message]
    assert why in line and "\n" not in line


@pytest.mark.parametrize(
    ("dtype", "size", "chosen"),
    [("float32", 8, "sdpa"), ("bfloat16", 264, "sdpa"), ("bfloat16", 8, "flash_attention_2")],
)
def test_flash_attn_is_not_asked_for_what_it_does_not_take(dtype, size, chosen, monkeypatch):
    model = tiny_model(getattr(torch, dtype), head_dim=size)
    model.config._attn_implementation = "flash_attention_2"
    assert loading._runnable(model).config._attn_implementation == chosen


@pytest.mark.parametrize(("available", "chosen"), [(True, "flash_attention_2"), (False, "sdpa")])
def test_transformers_says_whether_flash_attn_is_there(available, chosen, monkeypatch):
    """Not a folder of that name, which FlashAttention 4 installs too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: available)
    assert loading.attention(None) == loading.attention("flash_attention_2") == chosen
