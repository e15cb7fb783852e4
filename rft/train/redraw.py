"""Dynamic sampling (DAPO): a group that teaches nothing is replaced by another unit of the data.

A group is flat if all of its completions that compete have the same reward. In each of `redraw_rounds`
rounds, every flat group is replaced:

    history A   q1 flat   q2   q3 flat        history A   q5   q2   q9        the batch keeps its size

The unit that replaces it is one that this generation has not drawn yet: of the same history if there is one,
so that questions over one history stay together and share it; of another history otherwise, where the next
ones come from too. It is asked as the old one was: blind if that was blind, open-ended if that was. So
`blind_share` and `open_ended_share` mean what they did. What is still flat after the last round stays in the
batch, and so does a group of which fewer than two answers could be scored: a judge that cannot be reached
says nothing about a question.

Invariant: what is drawn follows from the seed, the step and the units drawn so far. It is chosen for all
ranks at once, so it is the same for any number of ranks, and nothing of it has to be saved.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import Any

from rft.train.arm import Arm, Policy
from rft.train.grpo_config import LoopConfig
from rft.train.rollout import Rollout, is_blind

Units = Sequence[Mapping[str, Any]]
Rollouts = list[Rollout]


class Redraw:
    """Replaces flat groups.

    Args:
        arm: Knows what is asked, and what competes.
        policy: Its step; all ranks exchange what they have drawn.
        args: Fields of the recipe.
        dataset: The units that can be drawn.
    """

    def __init__(self, arm: Arm, policy: Policy, args: LoopConfig, dataset: Units):
        self.arm, self.policy, self.args, self.dataset = arm, policy, args, dataset
        self.questions = [arm.asked(unit) for unit in dataset] if args.redraw_rounds else []
        self.rows = {self._key(questions): row for row, questions in enumerate(self.questions)}

    def __call__(
        self,
        units: Units,
        rollouts: Rollouts,
        weights: tuple[Sequence[float], Sequence[float]],
        scored: Callable[[Units], Rollouts],
    ) -> tuple[Rollouts, dict[str, list[float]]]:
        """Replaces the flat groups of a generation; all ranks call it together.

        Args:
            units: What this rank has drawn.
            rollouts: A scored rollout for each unit.
            weights: Those of the reward functions of answers, and of memories.
            scored: Makes scored rollouts of more units.

        Returns:
            As many rollouts, and this rank's values of the metrics.
        """
        if not self.args.redraw_rounds:
            return rollouts, {}
        start, size, rank = time.perf_counter(), self.args.num_generations, self.args.data_rank
        groups = [rollouts[i : i + size] for i in range(0, len(rollouts), size)]
        rows = [self.rows[self._key(self.arm.asked(unit))] for unit in units[::size]]
        flat = [self.is_flat(group, weights) for group in groups]
        before, rounds, completions = flat, 0, 0
        taken: set[int] = set()
        spare: dict[str, list[int]] = {}
        for rounds in range(1, self.args.redraw_rounds + 1):
            again = [is_flat and is_scored(group) for is_flat, group in zip(flat, groups, strict=True)]
            all_groups = self.policy.gather([(rank, *group) for group in zip(rows, again, strict=True)])
            taken.update(row for _, row, _ in all_groups)
            spare = spare or self._order([row for _, row, _ in all_groups])
            chosen = [(of, self._choose(row, spare, taken)) for of, row, is_again in all_groups if is_again]
            if not any(row is not None for _, row in chosen):  # alike on all ranks
                rounds -= 1
                break
            places = [place for place, is_again in enumerate(again) if is_again]
            mine = [row for of, row in chosen if of == rank]
            drawn = {at: row for at, row in zip(places, mine, strict=True) if row is not None}
            fresh = scored([self.dataset[row] for row in drawn.values() for _ in range(size)])
            for i, (place, row) in enumerate(drawn.items()):
                rows[place], groups[place] = row, fresh[i * size : (i + 1) * size]
            flat = [self.is_flat(group, weights) for group in groups]
            completions += sum(len(rollout.turns) for rollout in fresh)
        return [rollout for group in groups for rollout in group], {
            "redraw/flat_before": [float(x) for x in before],
            "redraw/flat_after": [float(x) for x in flat],
            "redraw/rounds": [float(rounds)],
            "redraw/completions": [float(sum(self.policy.gather([completions])))],
            "time/redraw": [time.perf_counter() - start],
        }

    def is_flat(self, group: Rollouts, weights: tuple[Sequence[float], Sequence[float]]) -> bool:
        """Whether nothing can be learned from a group."""
        return all(contest.is_flat(self.args) for contest in self.arm.contests(group, *weights))

    def _key(self, questions: Sequence[Any]) -> tuple[str, ...]:
        return tuple(question.id for question in questions)

    def _order(self, drawn: Sequence[int]) -> dict[str, list[int]]:
        """The rows of every history, histories and rows in an order of this generation."""
        rng = Random(f"redraw-{self.args.seed}-{self.policy.step}-{drawn}")
        rows_of: dict[str, list[int]] = {}
        for row in rng.sample(range(len(self.questions)), len(self.questions)):
            rows_of.setdefault(self.questions[row][0].history_id, []).append(row)
        return rows_of

    def _choose(self, row: int, spare: Mapping[str, Sequence[int]], taken: set[int]) -> int | None:
        """A row that replaces another and is taken from then on; None if there is none."""
        own, kind = self.questions[row][0].history_id, self._kind(row)
        for history in (own, *spare):
            for found in spare[history]:
                if found not in taken and self._kind(found) == kind:
                    taken.add(found)
                    return found
        return None

    def _kind(self, row: int) -> tuple[bool, Collection[bool]]:
        """How a row is asked: whether blind, and which kinds of questions."""
        questions, args = self.questions[row], self.args
        blind = is_blind(args.seed, self.policy.step, questions[0].history_id, args.blind_share)
        return blind, {question.open_ended for question in questions}


def is_scored(group: Sequence[Rollout]) -> bool:
    """Whether at least two answers of a group could be scored."""
    return sum(not math.isnan(turn.reward) for rollout in group for turn in rollout.answers) >= 2
