"""Early warnings that a GRPO run may learn nothing: logged once, by rank 0, with a completion.

| sign | logged |
|---|---|
| no letter can be read in any completion of the first `STEPS` steps | after them, or at the end of the run |
| in these steps, all completions of every question have the same reward | at the same time |

Training continues: a run may start flat and still learn.
"""

import logging
from collections import Counter
from statistics import fmean
from typing import Any

from transformers import TrainerCallback

from rft.metrics.table import named

logger = logging.getLogger(__name__)

STEPS = 5
SHOWN = 150  # characters shown of each end of a completion


class EarlySigns(TrainerCallback):
    """Warns if a run shows signs of learning nothing.

    Args:
        trainer: A GRPO trainer, whose metrics and table of completions are read.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        # of what is trained: a group that was drawn flat may have been replaced
        flat = "redraw/flat_after" if trainer.args.redraw_rounds else "frac_reward_zero_std"
        names = ("reward", flat, "unparsed_rate")
        self.metrics: dict[str, list[float]] = {named(name).name: [] for name in names}
        self.read: Counter[str] = Counter()  # how many of the trainer's values since its last log were read

    def on_step_end(self, args, state, control, **kwargs):
        """Collects the metrics of the first steps and judges them after the last of these."""
        if state.global_step > STEPS or not state.is_world_process_zero:
            return
        for name, found in self.metrics.items():
            new = self.trainer.recorded(name)[self.read[name] :]
            found += new
            self.read[name] += len(new)
        if state.global_step == STEPS:
            self._judge()

    def on_log(self, args, state, control, **kwargs):
        """Starts reading the trainer's metrics from the beginning, because a log clears them."""
        self.read.clear()

    def on_train_end(self, args, state, control, **kwargs):
        """Judges a run that is shorter than `STEPS` steps."""
        if state.global_step < STEPS and state.is_world_process_zero:
            self._judge()

    def _judge(self) -> None:
        rewards, flat, unparsed = self.metrics.values()
        if unparsed and min(unparsed) == 1:
            self._warn(
                r"no letter can be read in any completion so far: a readable completion reasons, closes its"
                r" think block and "
                r"names one letter, such as \boxed{b}; a cold start (rft sft) teaches this format, and"
                r" max_completion_length "
                "must leave room for it"
            )
        if flat and min(flat) == 1:
            self._warn(
                "all completions of a question had the same reward, for every question so far (mean"
                f" {fmean(rewards):.3g}): nothing is learned from them; check the reward, the temperature and"
                " the completions"
            )

    def _warn(self, sign: str) -> None:
        completion = self.trainer.last_completion()
        example = f" A completion: {shortened(completion)!r}" if completion else ""
        logger.warning("after step %d: %s.%s", self.trainer.state.global_step, sign, example)


def shortened(text: str) -> str:
    """Shortens a text to its two ends."""
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN:]}"
