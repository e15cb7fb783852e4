"""Stock TRL's log-probs: its own function on padded rows, at the fastest micro-batch size."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from trl.trainer.utils import add_fused_lm_head

from rft.bench import device
from rft.bench.policy import precision
from rft.bench.stopwatch import once
from rft.bench.workload import Update
from rft.train.trl import stock_logps

MICRO_BATCHES = (1, 2, 4)
FULL = 16384  # tokens that fill any device: larger micro-batches are not faster


class StockTRL:
    """The update of a batch by TRL's own path. Without a tree, a forward pass uses transformers' sdpa, as in
    stock TRL."""

    def __init__(self, work: Update):
        self.work, self.on = work, work.setting.device
        bare = work.model.get_base_model() if work.setting.lora else work.model
        add_fused_lm_head(bare, outputs=("log_probs", "entropy"))
        self.trainer: Any = SimpleNamespace(accelerator=Accelerator(cpu=self.on == "cpu"))

    def run(self, numbers: Sequence[int], micro_batch: int) -> None:
        """Runs the update of these rows, `micro_batch` rows at a time."""
        for first in range(0, len(numbers), micro_batch):
            part = numbers[first : first + micro_batch]
            ids_BL = torch.tensor([self.work.rows[i] for i in part], device=self.on)
            with precision(self.work.setting):
                logps_BC, _, _ = stock_logps(
                    self.trainer,
                    self.work.model,
                    ids_BL,
                    torch.ones_like(ids_BL),
                    self.work.width,
                    compute_entropy=True,
                )
            self.work.backward(logps_BC, part)

    def best_micro_batch(self, numbers: Sequence[int]) -> tuple[int, int | None]:
        """Returns the fastest micro-batch size that fits, and its peak bytes."""
        one, _ = device.peak(self.on, lambda: self.run(numbers[:1], 1))
        row = len(self.work.rows[numbers[0]])
        most = device.fitting(self.on, one, len(numbers))
        sizes = [n for n in MICRO_BATCHES if n <= most and n * row <= FULL]
        if len(sizes) < 2:
            return 1, one
        pace = {n: once(self.on, partial(self.run, numbers[: sizes[-1]], n))[0] for n in sizes}
        best = min(sizes, key=pace.__getitem__)
        return best, device.peak(self.on, lambda: self.run(numbers[:best], best))[0]
