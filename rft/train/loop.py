"""GRPO in one page: draw units -> roll out -> score -> (redraw) -> advantages -> loss -> step.

What `transformers.Trainer` runs, in short (`rft.train.trl` connects it with this page):

    for units in arm.sampler(dataset):                   # draw: histories and questions about them
        batches = loop.generation(units)                 # roll out, score, redraw, advantages
        for batch in num_iterations * batches:           # micro-batches
            loop.loss(model, batch).backward()           # loss
            if gradient_accumulation_steps are done:
                optimizer.step()                         # step

An arm decides what a rollout is: an answer to a question over a whole history (`rft.train.histories`), or a
memory that is written chunk by chunk and then answers questions (`rft.train.memories`). Everything else is
the same for both. The losses are TRL's (dapo, cispo, grpo and others); so is the formula of an advantage: how
much better a completion is than those it competes with, divided by their deviation.

What is simplified: there is no value network, and every token of a completion has the same advantage. What is
special: rows of a micro-batch share histories and memories, so a micro-batch is forwarded as a tree in which
every shared token exists once (`rft.prefix_tree`).

    rft grpo --config quickstart/grpo.yaml
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rft.train import metrics
from rft.train.arm import Arm, Policy
from rft.train.grpo_config import ADDITIVE, ROW_MEANS, LoopConfig
from rft.train.importance import importance_ratios
from rft.train.micro_batch import MicroBatch, Part, grow, pack
from rft.train.redraw import Redraw
from rft.train.rewards import Scorer
from rft.train.rollout import Rollout

logger = logging.getLogger(__name__)


class Loop:
    """The algorithm.

    Args:
        arm: Puts questions about histories to the policy.
        scorer: The rewards.
        policy: The model in training.
        args: Fields of the recipe.
        dataset: All units.
        pad_token_id: Fills rows.
        device: Where rows are trained.
        old_logps: Whether the policy can change between a rollout and its loss.
    """

    def __init__(
        self,
        arm: Arm,
        scorer: Scorer,
        policy: Policy,
        args: LoopConfig,
        dataset: Any,
        pad_token_id: int,
        device: Any,
        old_logps: bool,
    ):
        self.arm, self.scorer, self.policy, self.args = arm, scorer, policy, args
        self.pad_token_id, self.device, self.old_logps = pad_token_id, device, old_logps
        self.redraw = Redraw(arm, policy, args, dataset)
        self.corrects = args.use_vllm and args.vllm_importance_sampling_correction

    def generation(self, units: Sequence[Mapping[str, Any]]) -> list[MicroBatch]:
        """Rolls out the policy on this rank's units and returns `steps_per_generation` micro-batches to
        train."""
        return self.micro_batches(self.rollouts(units))

    def rollouts(self, units: Sequence[Mapping[str, Any]]) -> list[Rollout]:
        """Returns a rollout for every unit, with its rewards and advantages."""
        weights = self.scorer.weights, self.scorer.memory_weights
        drawn, logged = self.scored(units)
        trained, of_redraw = self.redraw(units, drawn, weights, lambda more: self.scored(more)[0])
        for contest in self.arm.contests(trained, *weights):
            contest.decide(self.args, self.policy.gather)
        self._log(drawn, trained, logged | of_redraw)
        return trained

    def scored(self, units: Sequence[Mapping[str, Any]]) -> tuple[list[Rollout], dict[str, list[float]]]:
        """Returns a rollout for every unit, with its rewards, and what this took and the rewards logged."""
        policy = self.policy
        start = time.perf_counter()
        rollouts = self.arm.roll_out(units, policy)
        rolled_out = time.perf_counter()
        rollouts, logged = policy.once(lambda: self._score(rollouts))
        logged |= {"time/rollout": [rolled_out - start], "time/reward": [time.perf_counter() - rolled_out]}
        return rollouts, logged

    def _score(self, rollouts: list[Rollout]) -> tuple[list[Rollout], dict[str, list[float]]]:
        """Returns these rollouts with texts and rewards, and what the rewards logged."""
        policy = self.policy
        answers = [turn for rollout in rollouts for turn in rollout.answers]
        for turn, text in zip(answers, policy.decode([turn.completion for turn in answers]), strict=True):
            turn.text = text
        logged: dict[str, list[float]] = {}
        extra: dict[str, list[Any]] = {}

        def log_metric(name: str, value: float) -> None:
            metrics.check_logged(name)
            logged.setdefault(name, []).append(value)

        if rollouts:  # in a redraw, a rank may have none
            self.scorer.score(
                rollouts,
                policy.ends,
                trainer_state=policy.state,
                log_metric=log_metric,
                log_extra=lambda column, values: extra.setdefault(column, []).extend(values),
            )
        for column, values in extra.items():
            if len(values) != len(answers):
                logger.warning("log_extra: %d values of %s for %d answers", len(values), column, len(answers))
            for turn, value in zip(answers, values, strict=False):
                turn.extra[column] = value
        return rollouts, logged

    def micro_batches(self, rollouts: Sequence[Rollout]) -> list[MicroBatch]:
        """Returns the turns of rollouts as the rows of micro-batches, with old and reference log-probs if
        needed."""
        args, turns = self.args, [turn for rollout in rollouts for turn in rollout.turns]
        if args.mask_truncated_completions:
            for turn in turns:
                turn.weight *= turn.completion[-1] in self.policy.ends
        # what a loss is divided by, alike on all ranks: every token, row or trajectory counts the same
        tokens = math.fsum(self.policy.gather([turn.weight * len(turn.completion) for turn in turns]))
        shares = self.policy.gather([math.fsum(turn.share for turn in turns)])
        rows = math.fsum(shares) / len(shares) / args.steps_per_generation

        batches = []
        size = len(rollouts) // args.steps_per_generation
        for start in range(0, len(rollouts), size):
            turns = [turn for rollout in rollouts[start : start + size] for turn in rollout.turns]
            weight = math.fsum(turn.weight * len(turn.completion) for turn in turns)
            if not self.arm.keeps_flat_turns:  # at least one: all ranks run the model together
                turns = [turn for turn in turns if turn.advantage] or turns[:1]
            tensors = pack(turns, self.pad_token_id)
            tensors["num_items_in_batch"] = torch.tensor(tokens)
            tensors["num_rows"] = torch.tensor(rows, dtype=torch.float64)
            tensors["weight"] = torch.tensor(weight, dtype=torch.float64)
            batches.append(self.batch(tensors))
        with torch.no_grad():
            for batch in batches:
                if self.old_logps or self.corrects:
                    batch.add("old_per_token_logps", self.policy.logps(batch))
                if self.corrects:
                    batch.add("importance_sampling_ratio", importance_ratios(batch, args, self.policy))
                if args.beta:
                    batch.add("ref_per_token_logps", self.policy.logps(batch, reference=True))
        return batches

    def batch(self, tensors: dict[str, Tensor]) -> MicroBatch:
        """Returns a micro-batch from its tensors, which is how a checkpoint keeps it."""
        args = self.args
        on_device = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        return grow(on_device, args.prefix_sharing == "on", args.max_tree_tokens, self.policy.gather)

    def loss(self, model: Any, batch: MicroBatch) -> Tensor:
        """Computes the loss of a micro-batch: TRL's, part by part if it is larger than `max_tree_tokens`.

        The backward passes of all parts but the last run here; the trainer runs the last one, as usual.
        """
        *early, last = batch.parts
        if self.args.max_tree_tokens is not None:
            self.policy.record("prefix_tree/parts", len(batch.parts))
        total: float | Tensor = 0.0
        if early:
            with self.policy.before_the_last_part(model):
                for part in early:
                    loss = self._share(batch, part) * self.policy.loss(model, part)
                    self.policy.backward(loss)
                    total = total + loss.detach()
        return self._share(batch, last) * self.policy.loss(model, last) + total

    def _share(self, batch: MicroBatch, part: Part) -> float:
        """The factor of the loss of a part in the loss of its micro-batch."""
        if self.args.loss_type in ADDITIVE:  # TRL divides by the tokens of a process, and we of a group
            return 1.0 / self.args.sequence_parallel
        if self.args.loss_type in ROW_MEANS:
            return part.rows / batch.tensors["num_rows"].item()
        weights_PC = part.tensors["weights"] * part.tensors["completion_mask"]
        return weights_PC.sum().item() / max(1.0, batch.tensors["weight"].item())  # bnpo: a mean over tokens

    def _log(
        self, drawn: Sequence[Rollout], trained: Sequence[Rollout], logged: dict[str, list[float]]
    ) -> None:
        """Metrics tell of what was drawn, an even sample of the data; the table shows what is trained."""
        policy, names = self.policy, self.scorer.names
        measured, own = metrics.of_all_ranks(
            drawn, self.args.num_generations, names, policy.ends, logged, policy.gather
        )
        for name, value in (measured | own).items():
            policy.record(name, value, registered=name in measured)
        turns = [turn for rollout in trained for turn in rollout.turns]
        policy.count_tokens(sum(policy.gather([len(turn.prompt) + len(turn.completion) for turn in turns])))
        policy.show(self.arm.table(trained, names))
