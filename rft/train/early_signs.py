"""Signs in the first steps of a GRPO run that it will learn nothing: said once, by the first process, with a completion.

| sign | said |
|---|---|
| no letter can be read in any completion of the first steps | after `STEPS` steps, or at the end of a shorter run |
| all completions of a question have one reward, for every question of the first steps | likewise |

Training goes on: a run may start flat and still learn.
"""

import logging
from collections import Counter
from typing import Any

from transformers import TrainerCallback

logger = logging.getLogger(__name__)

STEPS = 5
SHOWN = 150  # characters of each end of a completion


class EarlySigns(TrainerCallback):
    """Warns about a run of `trainer` (a GRPO trainer, whose metrics and table of completions are read)."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.metrics: dict[str, list[float]] = {"reward": [], "frac_reward_zero_std": [], "unparsed_rate": []}
        self.read: Counter[str] = Counter()  # how many of the trainer's numbers since its last log were read

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > STEPS or not state.is_world_process_zero:
            return
        for name, found in self.metrics.items():
            new = self.trainer._metrics["train"].get(name, [])[self.read[name] :]
            found += new
            self.read[name] += len(new)
        if state.global_step == STEPS:
            self._judge()

    def on_log(self, args, state, control, **kwargs):
        self.read.clear()  # the trainer forgets what it has logged

    def on_train_end(self, args, state, control, **kwargs):
        if state.global_step < STEPS and state.is_world_process_zero:
            self._judge()

    def _judge(self) -> None:
        rewards, flat, unparsed = self.metrics.values()
        if unparsed and min(unparsed) == 1:
            self._warn(
                r"no letter can be read in any completion so far: a readable one reasons, closes its think block and "
                r"names one letter, as \boxed{b}; a cold start (rft sft) teaches the form, and max_completion_length "
                "must leave room for it"
            )
        if flat and min(flat) == 1:
            self._warn(
                f"all completions of a question had the same reward, for every question so far (mean "
                f"{mean(rewards):.3g}): nothing is learned from them; look at the reward, the temperature, the completions"
            )

    def _warn(self, what: str) -> None:
        said = list(self.trainer._logs["completion"])
        example = f" A completion: {shortened(str(said[-1]))!r}" if said else ""
        logger.warning("after step %d: %s.%s", self.trainer.state.global_step, what, example)



def shortened(text: str) -> str:
    """Both ends of a text."""
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN:]}"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
