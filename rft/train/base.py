"""The tiny base checkpoint: a Qwen3 that has learned to read simulated chats, and has never seen a question to answer.

A language-model loss over the assistant's turns in texts of `rft.simulate.reading`, by a curriculum: drills first, then chats
about two topics, then ever longer ones. The users' turns are random draws that nothing predicts; with their loss in it, the
same model has learned nothing to look up after 175 steps at which it else finds 98 % of letters (measured 2026-11-22, the
drills alone). Batches of texts of like length are drawn from (seed, step) alone, so a resumed run sees what an uninterrupted
one sees.

    accelerate launch -m rft.train.base --config recipes/quickstart/base.yaml
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from rft.simulate import reading
from rft.train.progress import RichProgress
from rft.train.recipe import parse
from rft.train.start import fit, run_main
from rft.train.tiny import make_model, make_tokenizer

WINDOW = 25  # steps whose texts are sorted by length together


@dataclass
class ReadingArguments:
    """The curriculum. A step reads `documents_per_step` texts."""

    documents_per_step: int = field(default=16, metadata={"help": "Texts in a batch."})
    drill_steps: int = field(default=800, metadata={"help": "Steps of drills alone."})
    grow_steps: int = field(default=1500, metadata={
        "help": "Steps behind these in which chats take their place and grow to a whole history."})
    hidden_size: int = field(default=128, metadata={"help": "Width of the model."})
    layers: int = field(default=4, metadata={"help": "Layers of the model."})
    vocab_size: int = field(default=2048, metadata={"help": "Largest vocabulary of the tokenizer."})


class ReadingBatches(Dataset):
    """Item `step` is the batch of that step: input_ids_BT and labels_BT, padded on the right."""

    def __init__(self, tokenizer: Any, arguments: ReadingArguments, steps: int, seed: int):
        self.tokenizer, self.arguments, self.steps, self.seed = tokenizer, arguments, steps, seed
        self.opening = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
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
        since = max(0, step - self.arguments.drill_steps) / self.arguments.grow_steps
        messages = reading.document(self.seed, index, min(1.0, since), drills=max(0.2, 1.0 - 2.0 * since),
                                    sentences=0.7 * min(1.0, max(0.0, 2 * step / self.arguments.drill_steps - 1)))
        return self.tokenizer.apply_chat_template(messages, return_dict=False)

    def _pad(self, texts: list[list[int]]) -> dict[str, torch.Tensor]:
        input_ids_BT = torch.full((len(texts), max(map(len, texts))), self.tokenizer.pad_token_id)
        labels_BT = torch.full_like(input_ids_BT, -100)
        for b, ids in enumerate(texts):
            input_ids_BT[b, : len(ids)] = torch.tensor(ids)
            for start, stop in self._answers(ids):
                labels_BT[b, start:stop] = input_ids_BT[b, start:stop]
        return {"input_ids": input_ids_BT, "labels": labels_BT}

    def _answers(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        """Where the assistant's turns lie, their end token included."""
        width = len(self.opening)
        for start in range(width, len(ids)):
            if ids[start - width : start] == self.opening:
                yield start, ids.index(self.tokenizer.eos_token_id, start) + 1


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
    fit(trainer)
    model.to(torch.bfloat16).save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    return trainer


if __name__ == "__main__":
    sys.exit(run_main(train))
