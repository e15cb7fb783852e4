"""The cold start of the memory: supervised fine-tuning on updates and on answers, one model for both.

A row is one turn: an update (chunk and memory -> the memory rewritten, from what the data knows that the chunk reveals,
changes or withdraws) or an answer (memory and question -> a short reason and a boxed letter). Loss on the completion only.

    accelerate launch -m rft.train.memory_sft --config recipes/quickstart/memory_sft.yaml
    accelerate launch --num_processes 8 -m rft.train.memory_sft --config recipes/personamem_v2/memory_sft_32k.yaml
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from rft.data.dataset import Split
from rft.memory.agent import MemoryAgent
from rft.memory.notes import load_notes
from rft.model import load_tokenizer
from rft.track import ProvenanceCallback, provenance
from rft.train.memory_rows import MemoryArguments, load_memory_questions, sft_rows
from rft.train.progress import RichProgress
from rft.train.recipe import DataArguments, parse
from rft.train.sft import completion_ids, pad
from rft.train.start import fit, load_policy, run_main


class TurnCollator:
    """Rows of `rft.train.memory_rows.sft_rows` -> padded ids and labels; prompts are put together batch by batch."""

    def __init__(self, split: Split, agent: MemoryAgent):
        self.split, self.agent = split, agent
        self.questions = {question.id: question for question in split.questions}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.agent.tokenizer
        return pad(
            [(self._prompt(row), completion_ids(tokenizer, row["completion"])) for row in rows], tokenizer.pad_token_id
        )

    def _prompt(self, row: dict[str, Any]) -> list[int]:
        if row["turn"] < 0:
            return self.agent.answer_ids(self.questions[row["question_id"]], row["before"])
        return self.agent.update_ids(self.agent.chunks(self.split.histories[row["history_id"]])[row["turn"]], row["before"])


def train(argv: Sequence[str] | None = None, callbacks: Sequence[Any] = ()) -> SFTTrainer:
    """Train from a recipe and save the model and tokenizer in `output_dir`."""
    data, memory, args, model = parse((DataArguments, MemoryArguments, SFTConfig, ModelConfig), argv)
    settings = memory.settings()
    tokenizer = load_tokenizer(model.model_name_or_path, model.model_revision)
    agent = MemoryAgent(tokenizer, settings, data.token_cache)
    split, questions = load_memory_questions(data)
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    args.remove_unused_columns = False
    trainer = SFTTrainer(
        model=load_policy(model),
        args=args,
        train_dataset=sft_rows(questions, split, load_notes(split), agent),
        processing_class=tokenizer,
        data_collator=TurnCollator(split, agent),
        peft_config=get_peft_config(model),
        callbacks=[ProvenanceCallback(provenance(split.sha256)), RichProgress("memory SFT"), *callbacks],
    )
    fit(trainer)
    trainer.save_model(args.output_dir)
    trainer.save_state()
    return trainer


if __name__ == "__main__":
    sys.exit(run_main(train))
