"""The tiny base checkpoint: a Qwen3 that has learned to read simulated chats, and has never seen a question to answer.

A language-model loss over whole texts of `rft.simulate.reading`, by a curriculum: drills first, then chats about two topics, then
ever longer ones. Learning to look things up is a phase transition; the drills are there to bring it on early. Batches of texts of
like length are drawn from (seed, step) alone, so a resumed run sees what an uninterrupted one sees.

    accelerate launch -m rft.train.base --config recipes/quickstart/base.yaml
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments, set_seed

from rft.simulate import reading
from rft.train.progress import RichProgress
from rft.train.recipe import parse
from rft.train.start import resume_point, run_main
from rft.train.tiny import make_model, make_tokenizer

WINDOW = 25  # steps whose texts are sorted by length together


@dataclass
class ReadingArguments:
    """The curriculum. A step reads `documents_per_step` texts."""

    documents_per_step: int = field(default=16, metadata={"help": "Texts in a batch."})
    drill_steps: int = field(default=800, metadata={"help": "Steps in which drills give way to chats about two topics."})
    grow_steps: int = field(default=1500, metadata={"help": "Steps behind these in which chats grow to a whole history."})
    hidden_size: int = field(default=128, metadata={"help": "Width of the model."})
    layers: int = field(default=4, metadata={"help": "Layers of the model."})
    vocab_size: int = field(default=2048, metadata={"help": "Largest vocabulary of the tokenizer."})


class ReadingBatches(Dataset):
    """Item `step` is the batch of that step: input_ids_BT and labels_BT, padded on the right."""

    def __init__(self, tokenizer: Any, arguments: ReadingArguments, steps: int, seed: int):
        self.tokenizer, self.arguments, self.steps, self.seed = tokenizer, arguments, steps, seed
        self._window = lru_cache(maxsize=2)(self._make_window)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        return self._window(step // WINDOW)[step % WINDOW]

    def _make_window(self, window: int) -> list[dict[str, torch.Tensor]]:
        size, first = self.arguments.documents_per_step, window * WINDOW
        texts = sorted((self._text(step, step * size + i) for step in range(first, first + WINDOW) for i in range(size)), key=len)
        batches = [self._pad(texts[i : i + size]) for i in range(0, len(texts), size)]
        Random(f"{self.seed}-{window}").shuffle(batches)
        return batches

    def _text(self, step: int, index: int) -> list[int]:
        drilled = min(1.0, step / self.arguments.drill_steps)
        grown = min(1.0, max(0, step - self.arguments.drill_steps) / self.arguments.grow_steps)
        messages = reading.document(self.seed, index, grown, drills=1.0 - 0.9 * drilled)
        return self.tokenizer.apply_chat_template(messages, return_dict=False)

    def _pad(self, texts: list[list[int]]) -> dict[str, torch.Tensor]:
        input_ids_BT = torch.full((len(texts), max(map(len, texts))), self.tokenizer.pad_token_id)
        for b, ids in enumerate(texts):
            input_ids_BT[b, : len(ids)] = torch.tensor(ids)
        return {"input_ids": input_ids_BT, "labels": input_ids_BT.masked_fill(input_ids_BT == self.tokenizer.pad_token_id, -100)}


def train(argv: Sequence[str] | None = None, callbacks: Sequence[Any] = ()) -> Trainer:
    """Make the tokenizer and the model, train, and save both (weights in bfloat16) in `output_dir`."""
    arguments, args = parse((ReadingArguments, TrainingArguments), argv)
    texts = ("\n".join(m["content"] for m in reading.document(args.seed, i, i / 3000)) for i in range(3000))
    tokenizer = make_tokenizer([*texts, *reading.question_words() * 300], arguments.vocab_size)
    set_seed(args.seed)
    model = make_model(tokenizer, arguments.hidden_size, arguments.layers)
    args.per_device_train_batch_size = 1  # an item is a whole batch
    args.train_sampling_strategy = "sequential"
    args.remove_unused_columns = False
    trainer = Trainer(
        model=model, args=args, train_dataset=ReadingBatches(tokenizer, arguments, args.max_steps, args.seed),
        data_collator=lambda items: items[0], processing_class=tokenizer, callbacks=[RichProgress("reading"), *callbacks])
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume_point(args))
    model.to(torch.bfloat16).save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    return trainer


if __name__ == "__main__":
    sys.exit(run_main(train))
