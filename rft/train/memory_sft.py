"""Cold start of the memory: supervised fine-tuning of one model on updates and on answers.

A row is one turn: an update (chunk and memory -> the rewritten memory, built from what the chunk reveals,
changes or withdraws according to the data) or an answer (memory and question -> a short reason and a boxed
letter). Loss on the completion only.

    accelerate launch -m rft.train.memory_sft --config recipes/quickstart/memory_sft.yaml
    rft memory-sft --launch zero3 --num_processes 8 --config recipes/personamem_v2/memory_sft_32k.yaml
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import ModelConfig, SFTTrainer

from rft.data.control import CLOSE
from rft.data.sampler import LengthSampler
from rft.data.tokenizer import load_tokenizer
from rft.errors import RecipeError
from rft.memory.agent import MemoryAgent
from rft.plan.batch import sft_batch
from rft.plan.dry_run import dry_run
from rft.runs.run_spec import RunSpec
from rft.tasks.base import Split
from rft.tasks.memory_targets import MEMORY_TARGETS, has_memory_targets, load_memory_targets
from rft.train.held_out_memories import HeldOutMemories
from rft.train.help import recipe_field
from rft.train.memory_rows import MemoryArguments, answer_target, load_memory_questions, sft_rows
from rft.train.recipe import DataArguments, Given, parse
from rft.train.runner import finish, fit, run_main, trainer_arguments
from rft.train.sequence import check_sequence_parallel
from rft.train.sft import ColdStartConfig, ColdStartTrainer, LabelArguments, completion_ids, pad
from rft.train.target_check import check_target
from rft.train.targets import load_held_out


@dataclass
class MemorySFTConfig(ColdStartConfig):
    """Fields of the memory's cold start."""

    answers_per_update: float = recipe_field(
        1.0, "Answer rows per update row, as far as a history has enough questions."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.answers_per_update:
            raise RecipeError(f"answers_per_update {self.answers_per_update}: expected 0 or more")


class TurnCollator:
    """Turns rows of `rft.train.memory_rows.sft_rows` into padded ids and labels; builds prompts batch by
    batch."""

    def __init__(self, split: Split, agent: MemoryAgent):
        self.split, self.agent = split, agent
        self.questions = {question.id: question for question in split.questions}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.agent.tokenizer
        return pad(
            [(self.prompt_ids(row), completion_ids(tokenizer, self.completion(row))) for row in rows],
            tokenizer.pad_token_id,
        )

    def completion(self, row: dict[str, Any]) -> str:
        """Returns the text after the prompt. An update has no thought; it closes the think block if the
        template opened one."""
        if row["turn"] < 0:
            return self.agent.tokens.continuation(row["completion"])
        return CLOSE + row["completion"] if self.agent.tokens.opens_thought else row["completion"]

    def prompt_ids(self, row: dict[str, Any]) -> list[int]:
        """Returns the row's prompt as token ids."""
        if row["turn"] < 0:
            return self.agent.answer_ids(self.questions[row["question_id"]], row["before"])
        return self.agent.update_ids(
            self.agent.chunks(self.split.histories[row["history_id"]])[row["turn"]], row["before"]
        )


class MemorySFTTrainer(ColdStartTrainer):
    """Cold-start trainer with batches of rows of similar length: an answer is less than half as long as an
    update."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.questions_per_history > 1:
            return super()._get_train_sampler(train_dataset)
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        return LengthSampler(rows["length"], self.args.rows_of_a_step(), seed=self.args.seed)


def train(argv: Given = None, callbacks: Sequence[Any] = ()) -> SFTTrainer:
    """Train from a recipe and save the model and tokenizer in `output_dir`."""
    kinds = (DataArguments, MemoryArguments, LabelArguments, MemorySFTConfig, ModelConfig)
    data, memory, labels, args, model = parse(kinds, argv)
    check_sequence_parallel(args, model)
    settings = memory.settings()
    tokenizer = load_tokenizer(model.model_name_or_path, model.model_revision)
    agent = MemoryAgent(tokenizer, settings, data.token_cache)
    check_target(agent.tokens)
    split, questions = load_memory_questions(data)
    if not has_memory_targets(split):
        raise RecipeError(
            f"{data.data}: no {MEMORY_TARGETS}, and the labels do not tell what a memory should contain, so"
            " there is nothing to imitate; start `rft memory-grpo` from a model that follows instructions, or"
            " from a cold start on other data"
        )
    questions = labels.labelled(questions)
    held_out = load_held_out(data, args.held_out_split)
    rows = sft_rows(questions, split, load_memory_targets(split), agent, args.answers_per_update, args.seed)
    collate = TurnCollator(split, agent)
    if args.dry_run:
        prompts = {
            f"history {row['history_id']}, turn {row['turn']}": len(collate.prompt_ids(row)) for row in rows
        }
        longest = max(
            len(collate.prompt_ids(row)) + len(completion_ids(tokenizer, row["completion"])) for row in rows
        )
        dry_run((data, memory, labels, args, model), prompts, *sft_batch(args, len(rows), longest))
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    trainer = MemorySFTTrainer(
        train_dataset=rows,
        data_collator=collate,
        **trainer_arguments(args, model, tokenizer, split.sha256, "memory SFT", callbacks),
    )
    if held_out is not None:
        trainer.enable_tree()
        asked = held_out.questions[: args.held_out_questions]
        known = {
            name: of.lines(len(held_out.histories[name].messages))
            for name, of in load_memory_targets(held_out).items()
        }
        longest = max(len(completion_ids(tokenizer, answer_target(q, known[q.history_id]))) for q in asked)
        trainer.add_callback(HeldOutMemories(trainer, held_out, len(asked), agent, longest, at_once=64))
    fit(trainer, RunSpec.of(data, memory, labels, args, model, data_sha256=split.sha256))
    finish(trainer)
    return trainer


if __name__ == "__main__":
    sys.exit(run_main(train))
