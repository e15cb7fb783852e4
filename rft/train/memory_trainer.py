"""TRL's GRPO trainer over memory trajectories: a memory is written chunk by chunk and answers questions; each
turn is one row.

Invariant: rewards and advantages are final while a trajectory is still one record. Only then does each turn
become a row, and a check makes sure that all rows are trained. The loss is TRL's; all turns go through the
prefix tree and the shared-prefix sampler.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch.utils.data import Sampler
from trl import GRPOTrainer
from trl.trainer.utils import use_adapter

import reward
from rft.data.dataset import Split
from rft.memory.agent import MemoryAgent
from rft.memory.targets import MemoryTargets
from rft.train import trajectory
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.safe_rewards import isolate_failures
from rft.train.trainer import HistoryGRPOTrainer
from rft.train.trajectory import Trajectory, Turn


class MemoryGRPOTrainer(HistoryGRPOTrainer):
    """GRPO over memory trajectories.

    Args:
        agent: Builds the prompts of updates and answers.
        split: Questions and histories.
        args: Fields of the recipe.
        notes: {history id: targets of its memory}, for `memory_rewards` that need what was withdrawn.
        memory_rewards: Functions that score memories.
        **kwargs: As in TRL's GRPOTrainer. `train_dataset` contains rows of `memory_units`; `reward_funcs`
        score answers.
    """

    args: MemoryGRPOConfig

    def __init__(
        self,
        *,
        agent: MemoryAgent,
        split: Split,
        args: MemoryGRPOConfig,
        notes: Mapping[str, MemoryTargets] | None = None,
        memory_rewards: Sequence[Callable[..., list[float | None]]] = (),
        **kwargs: Any,
    ):
        super().__init__(split=split, tokens=agent.tokens, args=args, **kwargs)
        self._agent, self._notes = agent, notes or {}
        self._memory_rewards = [
            isolate_failures(function, args.reward_seconds) for function in memory_rewards
        ]
        self._memory_weights = args.memory_reward_weights or [1.0] * len(self._memory_rewards)
        self._made = self._trained = 0
        self._from_start = False  # whether this process trains all micro-batches of the generation

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        # A row is a history with its questions, so TRL's own order keeps histories together.
        return GRPOTrainer._get_train_sampler(self, dataset)

    # Rollout: one record per trajectory.

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, torch.Tensor]:
        steps = self.args.steps_per_generation
        place = self._step % (steps * self.num_iterations)
        if place == 0 or self._buffered_inputs is None:
            self._from_start = place == 0
            self._trained = 0
            batches = self._micro_batches(self._roll_out(generation_batch), steps)
            self._buffered_inputs = batches
            self._made = sum(len(batch["completion_ids"]) for batch in batches)
        return self._buffered_inputs[self._step % steps]

    def _roll_out(self, units: list[dict[str, Any]]) -> list[Trajectory]:
        """A trajectory per unit of the batch, with rewards and advantages. The batch contains each history
        `num_generations` times in a row."""
        start = time.perf_counter()
        found = []
        for unit in units:
            history = self._split.histories[unit["history_id"]]
            found.append(
                Trajectory(
                    history,
                    self._agent.chunks(history),
                    [self._question[name] for name in unit["question_ids"]],
                )
            )
        self._write(found)
        self._answer(found)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        self._reward(found)
        size = self.num_generations
        groups = [found[i : i + size] for i in range(0, len(found), size)]
        for group in groups:
            trajectory.assign_advantages(group, scale=self.scale_rewards == "group")
        self._log_trajectories(groups, {"time/rollout": seconds, "time/reward": time.perf_counter() - start})
        return found

    def _write(self, found: list[Trajectory]) -> None:
        """Draws all updates, chunk by chunk. The trajectories of a history share its chunk; no prompt
        contains a question."""
        longest = max(gather_object([max(len(t.chunks) for t in found)]))
        for place in range(longest):
            writing = [t for t in found if place < len(t.chunks)]
            prompts = [self._agent.update_ids(t.chunks[place], t.memory) for t in writing]
            for t, prompt, (completion, logps) in zip(
                writing, prompts, self._draw(prompts, self._agent.settings.memory_tokens), strict=True
            ):
                update = self._agent.accept(completion, t.memory, self.eos_token_ids)
                t.updates.append(Turn(prompt, completion, logps, update=update))
                t.memory = update.memory

    def _answer(self, found: list[Trajectory]) -> None:
        asked = [(t, q) for t in found for q in t.questions for _ in range(self.args.answers_per_memory)]
        prompts = [self._agent.answer_ids(question, t.memory) for t, question in asked]
        drawn = self._draw(prompts, self.args.max_completion_length)
        for (t, question), prompt, (completion, logps) in zip(asked, prompts, drawn, strict=True):
            t.answers.append(Turn(prompt, completion, logps, question=question))

    def _draw(self, prompts: list[list[int]], longest: int) -> list[tuple[list[int], list[float] | None]]:
        """A completion and its log-probs for each prompt. A rank without prompts draws a dummy completion, so
        that ranks stay in step."""
        with self._at_most(longest):
            completions, logps = self._generate_single_turn(
                prompts or [[self._tokenizer.pad_token_id]], None, {}, 1
            )
        return list(zip(completions, logps or [None] * len(completions), strict=True))[: len(prompts)]

    @contextmanager
    def _at_most(self, longest: int) -> Iterator[None]:
        before = self.max_completion_length
        self.max_completion_length = self.generation_config.max_new_tokens = longest
        try:
            yield
        finally:
            self.max_completion_length = self.generation_config.max_new_tokens = before

    def _reward(self, found: list[Trajectory]) -> None:
        turns = [turn for t in found for turn in t.answers]
        questions = [turn.question for turn in turns if turn.question is not None]
        completions = self._texts(turns)
        columns = {
            "answer": [q.gold for q in questions],
            "options": [list(q.options) for q in questions],
            "finished": [turn.completion[-1] in self.eos_token_ids for turn in turns],
            "pref_type": [q.labels.pref_type for q in questions],
            "question_id": [q.id for q in questions],
            "history_id": [q.history_id for q in questions],
        }
        weights = self.reward_weights.tolist()
        functions = cast(list[Callable[..., list[float | None]]], self.reward_funcs)
        per_function = [
            function(
                prompts=[""] * len(turns),
                completions=completions,
                completion_ids=[turn.completion for turn in turns],
                trainer_state=self.state,
                **columns,
            )
            for function in functions
        ]
        for turn, *scores in zip(turns, *per_function, strict=True):
            turn.reward = _weighted(weights, scores)
        if self._memory_rewards:
            about = {
                "completions": [t.memory for t in found],
                "memories": [[turn.update.memory for turn in t.updates if turn.update] for t in found],
                "chunks": [[chunk.text for chunk in t.chunks] for t in found],
                "cut": [[turn.update.cut for turn in t.updates if turn.update] for t in found],
                "empty": [[turn.update.empty for turn in t.updates if turn.update] for t in found],
                "withdrawn": [
                    list(self._notes[t.history.id].withdrawn) if t.history.id in self._notes else []
                    for t in found
                ],
            }
            for t, *scores in zip(
                found, *(function(**about) for function in self._memory_rewards), strict=True
            ):
                bonus = _weighted(self._memory_weights, scores)
                t.bonus = 0.0 if math.isnan(bonus) else bonus

    def _texts(self, turns: Sequence[Turn]) -> list[str]:
        return self._tokenizer.batch_decode([turn.completion for turn in turns], skip_special_tokens=True)

    # Rows: one per turn, made after all advantages are set.

    def _micro_batches(self, found: list[Trajectory], steps: int) -> list[dict[str, torch.Tensor]]:
        size = len(found) // steps
        batches = [
            trajectory.rows(
                found[i : i + size],
                self.args.turn_weighting,
                self._tokenizer.pad_token_id,
                self.accelerator.device,
            )
            for i in range(0, len(found), size)
        ]
        if self.mask_truncated_completions:
            for batch in batches:
                self._mask_truncated(batch)
        local = sum((batch["tool_mask"] * batch["completion_mask"]).sum() for batch in batches)
        total = self.accelerator.gather(local).sum()
        if self.beta == 0.0 and self.top_entropy_quantile == 1.0:
            batches = [_with_advantage(batch) for batch in batches]
        for batch in batches:
            batch["num_items_in_batch"] = total
            with torch.no_grad():
                self._add_logps(batch)
        return batches

    def _mask_truncated(self, batch: dict[str, torch.Tensor]) -> None:
        lengths_B = batch["completion_mask"].sum(1)
        last_B = batch["completion_ids"].gather(1, lengths_B[:, None] - 1)[:, 0]
        ended_B = torch.isin(last_B, torch.tensor(self.eos_token_ids, device=last_B.device))
        batch["tool_mask"] = batch["tool_mask"] * ended_B[:, None]

    def _add_logps(self, batch: dict[str, torch.Tensor]) -> None:
        """Adds the old log-probs if the policy changes before they are used, and the reference's if the loss
        needs them (both as TRL decides)."""

        def logps(model: Any) -> torch.Tensor:
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
            mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
            return self._get_per_token_logps_and_entropies(
                model,
                ids,
                mask,
                batch["completion_ids"].shape[1],
                batch_size=self.args.per_device_train_batch_size,
            )[0]

        if self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations):
            batch["old_per_token_logps"] = logps(self.model)
        if self.beta != 0.0 and self.ref_model is not None:
            batch["ref_per_token_logps"] = logps(self.ref_model)
        elif self.beta != 0.0:
            bare = self.accelerator.unwrap_model(self.model)
            with use_adapter(bare, adapter_name="ref" if "ref" in bare.peft_config else None):
                batch["ref_per_token_logps"] = logps(self.model)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._trained += len(inputs["completion_ids"])
        return super()._compute_loss(model, inputs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Performs TRL's training step; after the last one of a generation, checks that all its rows were
        trained."""
        loss = super().training_step(*args, **kwargs)
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 and self._from_start:
            due = self._made * self.num_iterations
            if self._trained != due:
                raise RuntimeError(
                    f"{self._trained} rows were trained, but the trajectories made {due} ({self._made} x "
                    f"{self.num_iterations} iterations): turns were lost or trained twice"
                )
        return loss

    # Metrics, over all ranks.

    def _log_trajectories(self, groups: list[list[Trajectory]], seconds: dict[str, float]) -> None:
        found = [t for group in groups for t in group]
        updates, answers = [u for t in found for u in t.updates], [a for t in found for a in t.answers]
        ends = set(self.eos_token_ids)
        values: dict[str, list[float]] = {
            "reward": [t.reward - t.bonus for t in found],
            "reward_std": [_deviation(group) for group in groups],
            "frac_reward_zero_std": [float(_deviation(group) == 0) for group in groups],
            "memory/tokens": [float(self._agent.count(t.memory)) for t in found],
            "memory/bonus": [t.bonus for t in found],
            "memory/updates": [float(len(t.updates)) for t in found],
            "memory/cut_rate": [float(u.update.cut) for u in updates if u.update],
            "memory/empty_rate": [float(u.update.empty) for u in updates if u.update],
            "memory/update_length": [float(len(u.completion)) for u in updates],
            "completions/mean_length": [float(len(a.completion)) for a in answers],
            "completions/clipped_ratio": [float(a.completion[-1] not in ends) for a in answers],
            **{name: [value] for name, value in seconds.items()},
        }
        texts = self._texts(answers)
        readings = [
            reward.read(text, turn.question.options)
            for text, turn in zip(texts, answers, strict=True)
            if turn.question
        ]
        golds = [turn.question.gold for turn in answers if turn.question]
        values |= {name: [value] for name, value in reward.reading_metrics(readings, golds).items()}
        for turn, said in zip(answers, readings, strict=True):
            if turn.question is not None:
                right = said.right(turn.question.gold)
                for name in ("all", turn.question.labels.kind):
                    values.setdefault(f"right/{name}", []).append(float(right))
                    values.setdefault(f"right_and_consistent/{name}", []).append(
                        float(right and said.consistent)
                    )
        totals: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for of_rank in gather_object(
            [
                {
                    name: (sum(x for x in v if not math.isnan(x)), sum(not math.isnan(x) for x in v))
                    for name, v in values.items()
                }
            ]
        ):
            for name, (total, count) in of_rank.items():
                totals[name] += total
                counts[name] += count
        for name, count in counts.items():
            if count:
                self._metrics[self._mode][name].append(totals[name] / count)
        tokens = sum(
            gather_object([sum(len(turn.prompt) + len(turn.completion) for t in found for turn in t.turns)])
        )
        self.state.num_input_tokens_seen += tokens
        self._metrics[self._mode]["num_tokens"] = [self.state.num_input_tokens_seen]
        self._log_table(found, texts)

    def _log_table(self, found: list[Trajectory], texts: list[str]) -> None:
        """Adds one line per trajectory to TRL's table of completions: its memory and its answers."""
        each = iter(texts)
        said = [
            "\n\n".join(
                [t.memory, *(f"{turn.question.query}\n{next(each)}" for turn in t.answers if turn.question)]
            )
            for t in found
        ]
        logs: dict[str, Any] = self._logs
        logs["prompt"].extend(gather_object([f"history {t.history.id}" for t in found]))
        logs["completion"].extend(gather_object(said))
        logs["rewards"]["trajectory"].extend(gather_object([t.reward for t in found]))
        logs["advantages"].extend(gather_object([t.updates[0].advantage for t in found]))
        logs["extra"]["history_id"].extend(gather_object([t.history.id for t in found]))


def _with_advantage(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The rows that have an advantage. The others have no gradient and no loss; they count only in the loss's
    denominator, which is already computed. At least one row is kept, because all ranks must run the model
    together."""
    kept_B = batch["advantages"] != 0
    kept_B[0] |= not kept_B.any()
    return {key: tensor[kept_B] for key, tensor in batch.items()}


def _weighted(weights: Sequence[float], scores: Sequence[float | None]) -> float:
    """The weighted sum of the scores that are not None; NaN if all are None."""
    known = [weight * score for weight, score in zip(weights, scores, strict=True) if score is not None]
    return math.fsum(known) if known else math.nan


def _deviation(group: Sequence[Trajectory]) -> float:
    rewards = [t.reward for t in group if not math.isnan(t.reward)]
    if len(rewards) < 2:
        return 0.0
    mean = math.fsum(rewards) / len(rewards)
    return math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
