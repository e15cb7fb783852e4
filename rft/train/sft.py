"""Cold start: supervised fine-tuning that teaches the format of an answer (a short reason, then a boxed
letter).

The loss is on the completion only. TRL's SFTTrainer does the training. Rows contain ids; prompts are built
batch by batch from the history's cached tokens. Targets reason inside think tags: targets without reasoning
(as in the paper's scripts) would not teach what GRPO's format gate requires.

    accelerate launch -m rft.train.sft --config recipes/quickstart/sft.yaml
    rft sft --launch zero3 --num_processes 8 --config recipes/personamem_v2/sft_32k.yaml
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from trl import ModelConfig, SFTConfig, SFTTrainer

from rft.data.prompt import PromptTokens
from rft.data.question import Question
from rft.data.sampler import HistorySampler
from rft.data.tokenizer import load_tokenizer
from rft.errors import RecipeError
from rft.plan.batch import prompt_lengths, sft_batch
from rft.plan.dry_run import dry_run
from rft.prefix_tree import attention, support
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.runs.failfast import FailFastMixin
from rft.runs.masters import MastersMixin
from rft.runs.run_spec import RunSpec
from rft.screen import counted
from rft.tasks.base import Split
from rft.train.config import RunConfig
from rft.train.held_out import HeldOut, HeldOutConfig
from rft.train.help import recipe_field
from rft.train.muon import MuonMixin
from rft.train.recipe import DataArguments, Given, parse
from rft.train.runner import finish, fit, run_main, trainer_arguments
from rft.train.sequence import SequenceConfig, SequenceMixin, check_sequence_parallel
from rft.train.target_check import check_target
from rft.train.targets import is_hard, load_held_out, load_questions, of_every_kind, target
from rft.train.trl import RecordsMixin

logger = logging.getLogger(__name__)


@dataclass
class ColdStartConfig(RunConfig, HeldOutConfig, SequenceConfig, SFTConfig):
    """Fields of a cold start, in addition to TRL's SFTConfig."""

    questions_per_history: int = recipe_field(
        1,
        "Number of rows of one history placed together in a batch; the tokens they share are forwarded once."
        " 1: rows in any order, each forwarded by itself.",
    )

    @property
    def over_trees(self) -> bool:
        """Whether the loss goes through the prefix tree."""
        return self.questions_per_history > 1 or self.sequence_parallel > 1

    def rows_of_a_step(self) -> int:
        """Returns the number of rows in an optimizer step over all ranks.

        Raises:
            RecipeError: If a batch does not contain complete units of `questions_per_history` rows.
        """
        together, batch = self.questions_per_history, self.per_device_train_batch_size
        if together < 1 or batch % together:
            raise RecipeError(
                f"per_device_train_batch_size {batch} is not a multiple of questions_per_history {together},"
                " whose rows must be in one batch; make it"
                f" {max(1, round(batch / max(1, together))) * max(1, together)}"
            )
        return batch * self.gradient_accumulation_steps * self.data_ranks


class ColdStartTrainer(RecordsMixin, FailFastMixin, MastersMixin, MuonMixin, SequenceMixin, SFTTrainer):
    """TRL's SFTTrainer with exact resume and run guards.

    If `questions_per_history` or `sequence_parallel` is above 1, the loss goes through the prefix tree: the
    same numbers, but the tokens that rows share are forwarded once.
    """

    args: ColdStartConfig
    model: torch.nn.Module
    train_dataset: Dataset

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.args.rows_of_a_step()
        if self.args.over_trees:
            self.enable_tree()

    def enable_tree(self) -> None:
        """Enables the model to forward trees.

        Raises:
            ModelError: If the model does not support it.
        """
        bare = self.accelerator.unwrap_model(self.model)
        support.check_training(bare, self.args)
        attention.enable(bare)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        together = self.args.questions_per_history
        if together == 1:
            return super()._get_train_sampler(train_dataset)
        histories = (self.train_dataset if train_dataset is None else train_dataset)["history_id"]
        return HistorySampler(
            list(histories), together, self.args.rows_of_a_step() // together, 1, seed=self.args.seed
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Computes the loss, through the prefix tree if the recipe needs it."""
        learned_BT = inputs["labels"] != -100
        prompts_B = learned_BT.int().argmax(1)
        ends_B = prompts_B + learned_BT.sum(1)
        if not self.args.over_trees or return_outputs:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            self._count_rows(ends_B)
            return loss
        prompts, ends = prompts_B.tolist(), ends_B.tolist()
        tree = Tree(
            [ids[:end].tolist() for ids, end in zip(inputs["input_ids"], ends, strict=True)],
            prompts,
            device=inputs["input_ids"].device,
        )
        with self.accelerator.autocast():
            logps_BC, entropies_BC = tree_logps(model, tree, compute_entropy=True, group=self.sequence)
        labels = learned_BT.sum()
        self.record("prefix_tree/token_ratio", tree.token_ratio)
        assert entropies_BC is not None
        self.record("entropy", (entropies_BC.detach().sum() / labels).item())
        self._count_rows(ends_B)
        loss = -logps_BC.sum() / (labels if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP and ZeRO take the mean over ranks
        return loss

    def _count_rows(self, ends_B: torch.Tensor) -> None:
        """Updates `num_tokens`; TRL counts only one row of a batch without an attention mask."""
        if self.model.training:
            self.count_tokens(sum(self.gather([int(ends_B.sum())])))


@dataclass
class LabelArguments:
    """Selection of questions that have targets, to simulate scarce labels."""

    labelled_people: int | None = recipe_field(
        None, "Only the questions about this many people (histories) have targets. null: all."
    )
    hard_targets: int | None = recipe_field(
        None,
        "Total number of targets for questions about updated, withdrawn or other people's preferences. null:"
        " all.",
    )

    def __post_init__(self) -> None:
        if self.labelled_people is not None and self.labelled_people < 1:
            raise RecipeError(f"labelled_people {self.labelled_people}: expected 1 or more, or null for all")
        if self.hard_targets is not None and self.hard_targets < 0:
            raise RecipeError(f"hard_targets {self.hard_targets}: expected 0 or more, or null for all")

    def labelled(self, questions: Sequence[Question]) -> list[Question]:
        """Returns the questions that have targets, in their order. Hard questions are drawn from each kind in
        turn."""
        people = set(list(dict.fromkeys(q.history_id for q in questions))[: self.labelled_people])
        asked = [q for q in questions if q.history_id in people]
        if self.hard_targets is None:
            return asked
        hard = of_every_kind([q for q in asked if is_hard(q)], self.hard_targets, Random(0))
        return [q for q in asked if not is_hard(q) or q in hard]


@dataclass
class ColdStartArguments(LabelArguments):
    """Composition of the cold start."""

    blind_share: float = recipe_field(
        0.0,
        "Share of the rows shown without their history. Their target says that nothing is known, and its"
        " letter is a guess. So the model answers in the required format in the blind baseline of an"
        " evaluation, too.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.blind_share < 1:
            raise RecipeError(f"blind_share {self.blind_share}: expected a share from 0 to below 1")


class AnswerCollator:
    """Turns rows {question_id, completion, blind} into a padded batch.

    The batch contains input_ids_BT, position_ids_BT and labels_BT (-100 except for the completion and its end
    token), padded on the right. It has no attention mask: no token attends to later tokens, and the kernels
    are faster without a mask.
    """

    def __init__(self, split: Split, tokens: PromptTokens):
        self.split, self.tokens = split, tokens
        self.without_history = PromptTokens(tokens.tokenizer, "none")
        self.questions = {question.id: question for question in split.questions}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.tokens.tokenizer
        pairs = []
        for row in rows:
            question = self.questions[row["question_id"]]
            if row["blind"]:
                prompt = self.without_history.prompt_ids(question, None)
            else:
                prompt = self.tokens.prompt_ids(question, self.split.history_of(question))
            pairs.append((prompt, completion_ids(tokenizer, self.tokens.continuation(row["completion"]))))
        return pad(pairs, tokenizer.pad_token_id)


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """Returns the token ids of a completion, with the end token."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def pad(pairs: list[tuple[list[int], list[int]]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pads (prompt, completion) pairs on the right.

    Returns:
        input_ids_BT, position_ids_BT and labels_BT (-100 except for the completions).
    """
    ids = [torch.tensor(prompt + completion) for prompt, completion in pairs]
    labels = [torch.tensor([-100] * len(prompt) + completion) for prompt, completion in pairs]
    input_ids_BT = pad_sequence(ids, True, pad_token_id)
    position_ids_BT = torch.arange(input_ids_BT.shape[1]).expand(len(pairs), -1).contiguous()
    labels_BT = pad_sequence(labels, True, -100)
    return {"input_ids": input_ids_BT, "position_ids": position_ids_BT, "labels": labels_BT}


def train(argv: Given = None, callbacks: Sequence[Any] = ()) -> SFTTrainer:
    """Train from a recipe and save the model and tokenizer in `output_dir`."""
    data, cold_start, args, model = parse(
        (DataArguments, ColdStartArguments, ColdStartConfig, ModelConfig), argv
    )
    check_sequence_parallel(args, model)
    tokenizer = load_tokenizer(model.model_name_or_path, model.model_revision)
    tokens = PromptTokens(tokenizer, data.context, data.token_cache)
    check_target(tokens)
    split, questions = load_questions(data, tokens)
    questions = cold_start.labelled(questions)
    if judged := next((q for q in questions if q.judge_only), None):
        raise RecipeError(
            f"question {judged.id}: only a judge can score its answers, so the data has none to imitate; use"
            " options, or start `rft grpo` with a judge from a model that follows instructions"
        )
    logger.info(
        "%s with targets, %d of another kind than plain, such as updated, withdrawn or somebody else's",
        counted(len(questions), "question"),
        sum(map(is_hard, questions)),
    )
    if args.questions_per_history > 1 and len(questions) < args.rows_of_a_step():
        raise RecipeError(
            f"{len(questions)} targets do not fill one step of {args.rows_of_a_step()} rows; lower "
            "per_device_train_batch_size, or raise labelled_people"
        )
    held_out = load_held_out(data, args.held_out_split)
    if args.dry_run:
        longest = max(len(completion_ids(tokenizer, target(q))) for q in questions)
        lengths = prompt_lengths(split, questions, tokens)
        asked = max(len(tokens.question_ids(q)) for q in questions)
        dry_run(
            (data, cold_start, args, model),
            lengths,
            *sft_batch(args, len(questions), max(lengths.values()) + longest, asked + longest),
        )
    rng = Random(f"blind-{args.seed}")
    blind = [rng.random() < cold_start.blind_share for _ in questions]
    rows = [
        {"history_id": q.history_id, "question_id": q.id, "completion": target(q, knows=not b), "blind": b}
        for q, b in zip(questions, blind, strict=True)
    ]
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    trainer = ColdStartTrainer(
        train_dataset=Dataset.from_list(rows),
        data_collator=AnswerCollator(split, tokens),
        **trainer_arguments(args, model, tokenizer, split.sha256, "SFT", callbacks),
    )
    if held_out is not None:
        trainer.enable_tree()
        longest = max(
            len(completion_ids(tokenizer, target(q))) for q in held_out.questions[: args.held_out_questions]
        )
        trainer.add_callback(HeldOut(trainer, held_out, args.held_out_questions, tokens, longest, at_once=64))
    fit(trainer, RunSpec.of(data, cold_start, args, model, data_sha256=split.sha256))
    finish(trainer)
    return trainer


if __name__ == "__main__":
    sys.exit(run_main(train))
