"""The cold start's rows: what the model sees of each, and what it learns from."""

import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from tiny_tree import exact_norms
from transformers import AutoModelForCausalLM, AutoTokenizer

from rft.data.prompt import PromptTokens
from rft.errors import RecipeError
from rft.metrics.table import find
from rft.tasks.load import load_split
from rft.train.held_out import HeldOut
from rft.train.sft import AnswerCollator, ColdStartArguments, ColdStartConfig, ColdStartTrainer, train
from rft.train.targets import target


def test_loss_is_on_the_answer_alone_and_a_blind_row_holds_no_history(mini_data, tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    split = load_split(mini_data, "train")
    question = split.questions[0]
    rows = [
        {"question_id": question.id, "completion": target(question, knows=not blind), "blind": blind}
        for blind in (False, True)
    ]
    batch = AnswerCollator(split, PromptTokens(tokenizer))(rows)
    seen = [tokenizer.decode(ids) for ids in batch["input_ids"]]
    learned = [
        tokenizer.decode(ids[labels != -100])
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    said = split.history_of(question).turns[0].content
    assert said in seen[0] and said not in seen[1]
    assert question.query in seen[0] and question.query in seen[1]
    assert learned == [row["completion"] + tokenizer.eos_token for row in rows]
    assert "Remembered: nothing." in learned[1] and "nothing" not in learned[0]


@pytest.mark.parametrize(
    ("preference", "option", "said"),
    [
        ("Enjoys drinking tea", "Drinking tea.", "Drinking tea"),
        (
            "Is fond of reading rhyming books aloud",
            "Something along the lines of reading rhyming books aloud could work.",
            "Reading rhyming books aloud",
        ),
        ("", "Something quite new.", "Something quite new"),
        ("Do not remember 'Likes drinking tea' in memory", "Something quite new.", "Something quite new"),
        (
            "Is fond of him",
            "I would first of all ask him what he likes, and only then decide.",
            "The option that fits",
        ),
        ("Likes ink", "A pen, then think about it for a day or two, I would say.", "The option that fits"),
    ],
)
def test_an_answer_names_its_option_in_the_words_of_the_preference(mini_data, preference, option, said):
    first = load_split(mini_data, "train").questions[0]
    options = tuple(option if letter == first.gold else "Another." for letter in "abcd")
    question = replace(first, options=options, labels={**first.labels, "preference": preference})
    assert target(question).endswith(f"</think>{said} \\boxed{{{first.gold}}}")


def test_few_labels_are_of_few_people_and_of_every_hard_kind(mini_data):
    questions = load_split(mini_data, "train").questions
    everything = ColdStartArguments().labelled(questions)
    assert everything == list(questions)
    few = ColdStartArguments(labelled_people=8, hard_targets=6).labelled(questions)
    assert len({q.history_id for q in few}) == 8
    assert Counter(q.kind for q in few) == {"plain": 24, "changed": 2, "withdrawn": 2, "others": 2}
    assert few == [q for q in questions if q in few]  # in their order
    assert not [q for q in ColdStartArguments(hard_targets=0).labelled(questions) if q.kind != "plain"]
    for words in ({"labelled_people": 0}, {"hard_targets": -1}):
        with pytest.raises(RecipeError, match="expected"):
            ColdStartArguments(**words)


def cold_start(tiny_checkpoint, split, rows, out, **words):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    args = ColdStartConfig(
        **{
            "output_dir": str(out),
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.1,
            "optim": "sgd",
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "remove_unused_columns": False,
            "logging_steps": 1,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            **words,
        }
    )
    model = exact_norms(AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float64))
    return ColdStartTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=AnswerCollator(split, PromptTokens(tokenizer)),
    )


@pytest.fixture(scope="module")
def questions(mini_data):
    """The training split and its rows, one in seven without its history."""
    split = load_split(mini_data, "train")
    return split, [
        {"history_id": q.history_id, "question_id": q.id, "completion": target(q), "blind": i % 7 == 3}
        for i, q in enumerate(split.questions)
    ]


def test_a_shared_history_has_the_same_loss_and_gradients(questions, tiny_checkpoint, tmp_path):
    """float64, against the logits of plain transformers; TRL's own loss takes its logits in float32."""
    split, rows = questions
    trainer = cold_start(tiny_checkpoint, split, rows, tmp_path, questions_per_history=4)
    batch = trainer.data_collator(rows[:8])
    wanted = batch["labels"][:, 1:]
    plain = exact_norms(AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float64))
    logits = plain(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[:, :-1]
    expected = (
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), reduction="sum", ignore_index=-100
        )
        / 400
    )
    expected.backward()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(400))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    grads = dict(trainer.model.named_parameters())
    assert all((grads[name].grad - p.grad).abs().max() < 1e-9 for name, p in plain.named_parameters())
    assert max(p.grad.abs().max() for p in plain.parameters()) > 1e-3


@pytest.mark.parametrize("words", [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}])
def test_shared_histories_train_as_trl_does(questions, tiny_checkpoint, tmp_path, words):
    """Three steps of the same rows in the same order, with and without the tree; as close as TRL's float32
    logits allow."""
    split, rows = questions
    shared = cold_start(tiny_checkpoint, split, rows, tmp_path / "shared", questions_per_history=4, **words)
    order = list(shared._get_train_sampler())
    assert sorted(order) == sorted(set(order)) and len(order) == len(rows) // 8 * 8
    plain = cold_start(
        tiny_checkpoint,
        split,
        [rows[i] for i in order],
        tmp_path / "plain",
        train_sampling_strategy="sequential",
        **words,
    )
    logs = []
    for trainer in (shared, plain):
        trainer.train()
        logs.append([row for row in trainer.state.log_history if "loss" in row])
    logged_names = {name for row in trainer.state.log_history for name in row} - {"step", "epoch"}
    assert [name for name in logged_names if find(name) is None] == []
    assert [row["loss"] for row in logs[0]] == pytest.approx([row["loss"] for row in logs[1]], abs=1e-5)
    assert [row["entropy"] for row in logs[0]] == pytest.approx([row["entropy"] for row in logs[1]], abs=1e-4)
    labels_BT = plain.data_collator([rows[i] for i in order[:24]])["labels"]  # three steps of eight rows
    ends_B = (labels_BT != -100).int().argmax(1) + (labels_BT != -100).sum(1)
    assert [log[-1]["num_tokens"] for log in logs] == [ends_B.sum().item()] * 2
    assert logs[0][0]["prefix_tree/token_ratio"] > 2 and "prefix_tree/token_ratio" not in logs[1][0]
    after = dict(plain.model.named_parameters())
    assert max((p - after[name]).abs().max() for name, p in shared.model.named_parameters()) < 1e-6


def test_held_out_answers_end_at_each_of_several_end_tokens(questions, tiny_checkpoint, tmp_path):
    split, rows = questions
    trainer = cold_start(tiny_checkpoint, split, rows, tmp_path, questions_per_history=4)
    held_out = HeldOut(trainer, split, 2, PromptTokens(trainer.processing_class), longest=10, at_once=2)
    whole = held_out.complete(held_out.prompts, 10)
    second = whole[0][1]
    trainer.model.generation_config.eos_token_id = [trainer.processing_class.eos_token_id, second]
    ends = [ids.index(second) + 1 if second in ids else len(ids) for ids in whole]
    assert held_out.complete(held_out.prompts, 10) == [
        ids[:end] for ids, end in zip(whole, ends, strict=True)
    ]
    assert ends[0] <= 2


def test_a_decay_longer_than_the_run_is_told(tmp_path, caplog):
    decay = {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": 8},
        "warmup_steps": 3,
    }
    ColdStartConfig(output_dir=str(tmp_path), max_steps=11, use_cpu=True, bf16=False, **decay)
    assert not caplog.text
    ColdStartConfig(output_dir=str(tmp_path), max_steps=10, use_cpu=True, bf16=False, **decay)
    assert "warmup_steps 3 and num_decay_steps 8 are together more than max_steps 10" in caplog.text
    caplog.clear()
    ColdStartConfig(output_dir=str(tmp_path), max_steps=2, use_cpu=True, bf16=False, warmup_steps=5)
    told = "warmup_steps 5 is more than max_steps 2: learning_rate is never reached; lower it, unless"
    assert told in caplog.text and "num_decay_steps" not in caplog.text


def test_a_batch_that_does_not_hold_whole_units_is_refused(tmp_path):
    with pytest.raises(
        RecipeError, match="per_device_train_batch_size 6 is not a multiple of questions_per_history 4"
    ):
        ColdStartConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=6,
            questions_per_history=4,
            use_cpu=True,
            bf16=False,
            report_to="none",
        ).rows_of_a_step()


def test_a_resumed_cold_start_with_shared_histories_goes_on_where_it_was(
    mini_data, tiny_checkpoint, tmp_path
):
    """In its second epoch, whose order is another one; bit for bit."""
    personas = sorted({q.persona_id for q in load_split(mini_data, "train").questions})
    words = [
        "--model_name_or_path",
        str(tiny_checkpoint),
        "--data",
        str(mini_data),
        "--output_dir",
        str(tmp_path / "run"),
        "--questions_per_history",
        "4",
        "--exclude_personas",
        *personas[3:],
        "--max_steps",
        "7",
        "--save_steps",
        "1",
        "--save_total_limit",
        "9",
        "--per_device_train_batch_size",
        "8",
        "--learning_rate",
        "1e-2",
        "--report_to",
        "none",
        "--blind_share",
        "0.2",
        "--bf16",
        "false",
        "--gradient_checkpointing",
        "false",
        "--use_cpu",
        "true",
        "--dtype",
        "float32",
    ]
    expected = train(words)
    assert expected.state.epoch > 2
    weights = {name: p.clone() for name, p in expected.model.named_parameters()}
    for left in (5, 6, 7):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{left}")
    (tmp_path / "run" / "model.safetensors").unlink()
    resumed = train([*words, "--resume_from_checkpoint", "true"])
    assert resumed.state.global_step == 7
    for name, p in resumed.model.named_parameters():
        assert torch.equal(p, weights[name]), name
    (tmp_path / "run" / "model.safetensors").unlink()  # killed after the last checkpoint
    finished = train([*words, "--resume_from_checkpoint", "true"])
    assert finished.state.global_step == 7 and (tmp_path / "run" / "model.safetensors").exists()
    for name, p in finished.model.named_parameters():
        assert torch.equal(p, weights[name]), name


def test_an_optimizer_that_muon_replaces_is_told(mini_data, tiny_checkpoint, tmp_path, caplog):
    split = load_split(mini_data, "train")
    rows = [{"question_id": split.questions[0].id, "completion": "a", "blind": False}]
    cold_start(tiny_checkpoint, split, rows, tmp_path / "one", muon=True, optim="adamw_torch_fused")
    assert "is ignored" not in caplog.text
    cold_start(tiny_checkpoint, split, rows, tmp_path / "two", muon=True)
    assert "optim sgd is ignored: muon is true" in caplog.text
