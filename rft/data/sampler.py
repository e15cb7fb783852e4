"""Order of training rows: several questions of one history together, each question `repeats` times.

Every question occurs exactly once per epoch (except those of the last, incomplete batch). A unit of Q
questions of one history is never split, so a rank that takes complete units has all rows of these Q
questions:

    unit (history A)            unit (history B)
    q1 q1 q1 q2 q2 q2 | ...     q7 q7 q7 q8 q8 q8       Q = 2 questions, 3 repeats (completions per question)

A batch of units is yielded `passes` times in a row, once per micro-batch made from it, as TRL's trainer
expects. The order depends only on (seed, epoch).
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from random import Random

from torch.utils.data import Sampler

logger = logging.getLogger(__name__)

WINDOW = 25  # number of batches whose rows are sorted by length together


class HistorySampler(Sampler[int]):
    """Samples row indices so that questions of the same history are together.

    The remaining questions of histories (fewer than Q) are combined into mixed units, so that none is lost.

    Args:
        history_ids: history id of each dataset row.
        questions: Q, the number of questions of one history in a unit.
        units: number of units in a generation batch, over all ranks.
        repeats: completions per question.
        passes: how often each batch is yielded.
        shuffle: whether rows and units are shuffled.
        seed: random seed of the order.
        first: a history; epoch 0 starts with the unit that contains most of its rows.
    """

    def __init__(
        self,
        history_ids: Sequence[str],
        questions: int,
        units: int,
        repeats: int,
        passes: int = 1,
        *,
        shuffle: bool = True,
        seed: int = 0,
        first: str | None = None,
    ):
        assert min(questions, units, repeats, passes) >= 1
        self.questions, self.units, self.repeats, self.passes = questions, units, repeats, passes
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self.first = first
        self.rows_of: dict[str, list[int]] = defaultdict(list)
        for row, history_id in enumerate(history_ids):
            self.rows_of[history_id].append(row)
        most = max(map(len, self.rows_of.values()), default=0)
        if most < questions:
            logger.warning(
                "questions_per_history %d: no history has more than %d questions; units combine several"
                " histories and share less",
                questions,
                most,
            )
        self._length = len(self._units()) // units * units * questions * repeats * passes

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def _units(self) -> list[list[int]]:
        rng = Random(f"{self.seed}-{self.epoch}")
        units, rest = [], []
        for rows in self.rows_of.values():
            rows = rng.sample(rows, len(rows)) if self.shuffle else rows
            whole = len(rows) // self.questions * self.questions
            units += [rows[i : i + self.questions] for i in range(0, whole, self.questions)]
            rest += rows[whole:]
        units += [
            rest[i : i + self.questions] for i in range(0, len(rest) - self.questions + 1, self.questions)
        ]
        if self.shuffle:
            rng.shuffle(units)
        if self.first is not None and self.epoch == 0:
            of_first = set(self.rows_of[self.first])
            place = max(range(len(units)), key=lambda i: len(of_first.intersection(units[i])), default=0)
            units[:1], units[place : place + 1] = units[place : place + 1], units[:1]
        return units

    def __iter__(self) -> Iterator[int]:
        units = self._units()
        for start in range(0, len(units) - self.units + 1, self.units):
            batch = [
                row for unit in units[start : start + self.units] for row in unit for _ in range(self.repeats)
            ]
            for _ in range(self.passes):
                yield from batch


class LengthSampler(Sampler[int]):
    """Samples row indices so that the rows of a batch have similar lengths and little padding.

    Rows are shuffled, sorted by length within groups of `WINDOW` batches, and the batches of each group are
    shuffled, so lengths and rows have no fixed order. Every row occurs once per epoch.

    Args:
        lengths: length of each row, in any unit.
        batch: rows per batch.
        seed: random seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch: int, *, seed: int = 0):
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = Random(f"{self.seed}-{self.epoch}")
        rows = rng.sample(range(len(self.lengths)), len(self.lengths))
        size = WINDOW * self.batch
        for start in range(0, len(rows), size):
            window = sorted(rows[start : start + size], key=lambda row: self.lengths[row])
            batches = [window[i : i + self.batch] for i in range(0, len(window), self.batch)]
            last = batches.pop() if start + size >= len(rows) and len(batches[-1]) < self.batch else []
            rng.shuffle(batches)
            for batch in [*batches, last]:
                yield from batch
