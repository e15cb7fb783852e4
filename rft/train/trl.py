"""The one file that knows TRL's private names: it connects TRL's GRPOTrainer with `rft.train.loop`, and gives
callbacks and checkpoints what TRL keeps to itself.

What stays TRL's: the losses and their metrics (`_compute_loss`), the reference model, vLLM, generation
without prefix sharing, the table of completions and `log`. What is replaced: how prompts are made, rolled out
and scored (`_prepare_inputs`), and how log-probs are computed (`_get_per_token_logps_and_entropies`: over
trees).

Pinned to TRL 1.16; a test compares the signatures of the names used here.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Sampler
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from rft.errors import CheckpointError
from rft.metrics.table import named
from rft.prefix_tree import attention, support
from rft.prefix_tree.logprobs import tree_logps
from rft.prefix_tree.sample import sample
from rft.runs.checkpoint import ResumableMixin
from rft.runs.failfast import FailFastMixin
from rft.runs.masters import MastersMixin
from rft.train.arm import Arm
from rft.train.grpo_config import LoopConfig
from rft.train.loop import Loop
from rft.train.micro_batch import MicroBatch, Part, Tensors
from rft.train.muon import MuonMixin
from rft.train.rewards import Scorer
from rft.train.rollout import Completion
from rft.train.sequence import SequenceMixin

logger = logging.getLogger(__name__)

OFF_POLICY = 0.01  # share of sampled tokens that may be outside the clip range before the first update
stock_logps = GRPOTrainer._get_per_token_logps_and_entropies  # for a benchmark


class RecordsMixin(ResumableMixin):
    """What TRL's trainers log between two logs, open to callbacks and saved in checkpoints; and their model,
    ready to sample. List it first."""

    counters = (*ResumableMixin.counters, "_step", "_current_train_step_time", "_total_train_tokens")

    _metrics: Any  # TRL's

    def record(self, name: str, value: float, registered: bool = True) -> None:
        """Logs a metric with the next step; several values are averaged.

        Args:
            name: Name of the metric.
            value: Its value.
            registered: Whether it must be in the table of metrics; False for what a reward logs.

        Raises:
            ValueError: If it is not there.
        """
        if registered:
            named(name)
        self._metrics["train"][name].append(value)

    def recorded(self, name: str) -> list[float]:
        """Returns the values of a metric since the last log."""
        return list(self._metrics["train"].get(name, ()))

    def count_tokens(self, tokens: int) -> None:
        """Adds to `num_tokens`, the tokens of all rows so far, over all ranks. The count is in the trainer's
        state, and so in every checkpoint."""
        self.state.num_input_tokens_seen += tokens
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]

    def unsaved_state(self) -> dict[str, Any]:
        """Returns metrics since the last log."""
        return {"_metrics": {mode: dict(values) for mode, values in self._metrics.items()}}

    def recall_unsaved(self, state: Mapping[str, Any]) -> None:
        """Restores what `unsaved_state` returned."""
        for mode, values in state["_metrics"].items():
            self._metrics[mode].clear()
            self._metrics[mode].update(values)

    @contextmanager
    def for_generation(self) -> Iterator[Any]:
        """Gives the model with its weights gathered, without checkpointing and under autocast."""
        args: Any = self.args
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=getattr(args, "ds3_gather_for_generation", True),
                gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
            ) as model,
            self.accelerator.autocast(),
        ):
            yield model


class PolicyTrainer(RecordsMixin, FailFastMixin, MastersMixin, MuonMixin, SequenceMixin, GRPOTrainer):
    """TRL's GRPO trainer on the rollouts of an arm.

    Args:
        arm: Draws units and rolls them out.
        scorer: The rewards.
        model: The policy.
        args: Fields of the recipe.
        **kwargs: As in TRL's GRPOTrainer, without `reward_funcs`.
    """

    args: LoopConfig

    def __init__(self, *, arm: Arm, scorer: Scorer, model: Any, args: LoopConfig, **kwargs: Any):
        args.units_per_generation()
        if args.process_index == 0:
            logger.info("%s", args.arithmetic())
        self.shares = args.prefix_sharing == "on"
        if self.shares:
            support.check_training(model, args)
            attention.enable(model)
        # TRL takes their names from here; the scorer calls them
        super().__init__(args=args, model=model, reward_funcs=list(scorer.rewards), **kwargs)
        if self.shares:
            support.check_training(self.accelerator.unwrap_model(self.model), args)  # again, with its adapter
            if self.ref_model is not None:
                attention.enable(self.accelerator.unwrap_model(self.ref_model))
        self.arm = arm
        self.rows_made = self.rows_trained = 0
        self._batches: list[MicroBatch] | None = None
        self._part: Part | None = None  # whose loss TRL is computing
        self._from_start = False  # whether this process trains all micro-batches of the generation
        self._warned = False
        self.loop = Loop(
            arm,
            scorer,
            self,
            args,
            self.train_dataset,
            self._tokenizer.pad_token_id,
            self.accelerator.device,
            old_logps=bool(args.gradient_accumulation_steps % self._generation),
        )

    # Draw, roll out, score.

    @property
    def _generation(self) -> int:
        """Micro-batches that are trained per generation."""
        return self.args.steps_per_generation * self.num_iterations

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        return self.arm.sampler(self.train_dataset if dataset is None else dataset)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        place = self._step % self._generation
        if place == 0 or self._batches is None:
            self._from_start = place == 0
            self._batches = self.loop.generation(generation_batch)
            self.rows_made, self.rows_trained = sum(map(len, self._batches)), 0
        return self._batches[place % self.args.steps_per_generation]

    @property
    def ends(self) -> list[int]:
        """Tokens that end a completion."""
        return self.eos_token_ids

    @property
    def step(self) -> int:
        """Number of optimizer steps so far."""
        return self.state.global_step

    def decode(self, completions: Sequence[list[int]]) -> list[str]:
        """Returns completions as texts."""
        if not completions:  # transformers would return one
            return []
        return self._tokenizer.batch_decode(completions, skip_special_tokens=True)

    def complete(self, prompts: Sequence[list[int]], longest: int) -> list[Completion]:
        """Completes each prompt with at most `longest` tokens; all ranks call it together."""
        if self.use_vllm:  # its server takes prompts of each process of a group
            return self.shared_out(list(prompts), lambda mine: self._complete(mine, longest))
        return self._complete(list(prompts), longest)

    def _complete(self, prompts: list[list[int]], longest: int) -> list[Completion]:
        """Completes prompts: those of this process, or of its group, whose processes share the rollout. A
        process without any completes one of padding, so that all stay in step."""
        asked = list(prompts)
        if self.use_vllm:  # its server takes the same number of prompts from every rank
            asked += [[self._tokenizer.pad_token_id]] * (max(gather_object([len(asked)])) - len(asked))
        asked = asked or [[self._tokenizer.pad_token_id]]
        if self.use_vllm or not self.shares:
            completions, logps = self._complete_as_trl(asked, longest)
        else:
            with self.for_generation() as model:
                completions, logps = sample(
                    model,
                    asked,
                    max_new_tokens=longest,
                    eos_ids=self.eos_token_ids,
                    temperature=self.temperature,
                    top_p=self.top_p,
                    top_k=self.top_k or 0,
                    min_p=self.min_p,
                    group=self.sequence,
                )
        given: Sequence[Any] = logps or [None] * len(completions)
        return list(zip(completions, given, strict=True))[: len(prompts)]

    def _complete_as_trl(self, prompts: list[list[int]], longest: int) -> tuple[list[list[int]], Any]:
        size = self.args.num_generations
        in_groups = all(prompts[i] is prompts[i - i % size] for i in range(len(prompts)))
        repeated = all(gather_object([in_groups and len(prompts) % size == 0]))
        limited: Any = self.vllm_generation if self.use_vllm else self.generation_config
        name = "max_completion_length" if self.use_vllm else "max_new_tokens"
        before = getattr(limited, name)
        setattr(limited, name, longest)
        try:
            # generate() of a PEFT model bypasses the forward that accelerate has wrapped in autocast
            with nullcontext() if self.use_vllm else self.accelerator.autocast():
                return self._generate_single_turn(prompts, None, {}, size if repeated else 1)
        finally:
            setattr(limited, name, before)

    # Log-probs and losses.

    def score_tokens(self, model: Any, part: Part, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Returns log-probs (P, C) of some rows of a micro-batch and, if asked, entropies."""
        if part.tree is not None:
            self.record("prefix_tree/token_ratio", part.tree.token_ratio)
            pays = part.pays or self.sequence is not None  # the tokens of a plain row are not shared out
            self.record("prefix_tree/plain_path", float(not pays))
            if pays:
                with self.accelerator.autocast():
                    return tree_logps(model, part.tree, self.temperature, entropy, group=self.sequence)
        tensors = part.tensors
        return super()._get_per_token_logps_and_entropies(
            model,
            torch.cat([tensors["prompt_ids"], tensors["completion_ids"]], 1),
            torch.cat([tensors["prompt_mask"], tensors["completion_mask"]], 1),
            tensors["completion_ids"].shape[1],
            batch_size=None if torch.is_grad_enabled() else self.args.per_device_train_batch_size,
            compute_entropy=entropy,
        )[:2]

    def _get_per_token_logps_and_entropies(
        self, *args: Any, compute_entropy: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        assert self._part is not None, "TRL asks for log-probs in a loss"
        logps_PC, entropies_PC = self.score_tokens(args[0], self._part, compute_entropy)
        self._logps_PC = logps_PC.detach()
        more = (0, 0, 0, self._part.rows - len(logps_PC))
        return (
            nn.functional.pad(logps_PC, more),
            None if entropies_PC is None else nn.functional.pad(entropies_PC, more),
            None,
        )

    def logps(self, batch: MicroBatch, reference: bool = False) -> Tensor:
        """Returns the log-probs (B, C) of a micro-batch under the policy, or under the reference; no
        gradient."""
        policy: Any = self.model
        model, adapter = policy, cast(AbstractContextManager[Any], nullcontext())
        if reference and self.ref_model is not None:
            model = self.ref_model
        elif reference:  # the base of the adapter, or the adapter that training started from
            bare: Any = self.accelerator.unwrap_model(self.model)
            adapter = use_adapter(bare, adapter_name="ref" if "ref" in bare.peft_config else None)
        checkpointing = disable_gradient_checkpointing(policy, self.args.gradient_checkpointing_kwargs)
        with torch.no_grad(), checkpointing, adapter:
            tables = [self.score_tokens(model, part)[0] for part in batch.parts]
        return torch.cat(tables)[torch.cat([part.rows_P for part in batch.parts]).argsort()]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the loss of a micro-batch (`Loop.loss`)."""
        return self.loop.loss(model, inputs)

    def loss(self, model: Any, part: Part) -> Tensor:
        """Returns TRL's loss of some rows of a micro-batch."""
        self._part = part
        try:
            loss = super()._compute_loss(model, as_trl(part))
        finally:
            self._part = None
        self.rows_trained += len(part.rows_P)
        if self.shares and not self.use_vllm and self._step % self._generation == 0:
            self._compare_with_sampling(part.tensors, self._logps_PC)
        return loss

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss."""
        self.accelerator.backward(loss)

    @contextmanager
    def before_the_last_part(self, model: Any) -> Iterator[None]:
        """While gradients of parts but the last are added: processes do not exchange them yet."""
        state, synced = self.accelerator.gradient_state, self.accelerator.sync_gradients
        state._set_sync_gradients(False)
        with nullcontext() if self.is_deepspeed_enabled else self.accelerator.no_sync(model):
            yield
        state._set_sync_gradients(synced)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Performs TRL's training step; after the last one of a generation, checks that all its rows were
        trained."""
        loss = super().training_step(*args, **kwargs)
        due = self.rows_made * self.num_iterations
        if self._from_start and self._step % self._generation == 0 and self.rows_trained != due:
            raise RuntimeError(
                f"{self.rows_trained} rows were trained, but the rollouts made {due} ({self.rows_made} x"
                f" {self.num_iterations} iterations): turns were lost or trained twice"
            )
        return loss

    def _compare_with_sampling(self, tensors: Tensors, logps_PC: Tensor) -> None:
        """Logs the difference between the log-probs in training and in sampling. Warns once if tokens are
        off-policy (their ratio is outside the clip range) although no update has changed the policy."""
        counts_PC = (tensors["weights"] * tensors["completion_mask"]) != 0
        off_PC = (logps_PC - tensors["sampling_per_token_logps"]).abs() * counts_PC
        outside = (off_PC > math.log1p(self.args.epsilon)).sum()
        largest, far, tokens = zip(
            *self.gather([(off_PC.max().item(), outside.item(), counts_PC.sum().item())]), strict=True
        )
        share = sum(far) / max(1, sum(tokens))
        self.record("sampling/logp_difference_max", max(largest))
        self.record("sampling/off_policy", share)
        if share > OFF_POLICY and not self._warned and self.accelerator.is_main_process:
            logger.warning(
                "step %d: for %.1f %% of the sampled tokens, the probability in training differs from that in"
                " sampling by more than the clip range (epsilon %g), although there was no update in between:"
                " rollouts are off-policy. Try a few steps with dtype: float32 and bf16: false; if the"
                " warning stays, the cause is not rounding",
                self.state.global_step + 1,
                100 * share,
                self.args.epsilon,
            )
            self._warned = True

    # What is shown, and what a checkpoint keeps.

    def show(self, table: Mapping[str, Any]) -> None:
        """Adds rows to TRL's table of completions."""
        logs: Any = self._logs
        for column in ("prompt", "completion", "advantages"):
            logs[column].extend(self.gather(table[column]))
        for kept, columns in ((logs["rewards"], table["rewards"]), (logs["extra"], table["extra"])):
            for column in sorted(set(self.gather(list(columns)))):  # in one order on all ranks
                kept[column].extend(self.gather(columns.get(column, [None] * len(table["prompt"]))))

    def last_completion(self) -> str:
        """Returns a completion of the last rollout; "" before the first."""
        completions = list(self._logs["completion"])
        return str(completions[-1]) if completions else ""

    def rows_of(self, inputs: Any) -> Tensors:
        """Returns the tensors of the micro-batch that was just trained."""
        assert self._batches is not None
        return self._batches[(self._step - 1) % self.args.steps_per_generation].tensors

    def unsaved_state(self) -> dict[str, Any]:
        """Returns what TRL's trainer keeps in memory only; with it, the micro-batches that are still to be
        trained."""
        under_way = self._batches is not None and self._step % self._generation
        return super().unsaved_state() | {
            "batches": [batch.tensors for batch in self._batches or ()] if under_way else None,
            "rows": (self.rows_made, self.rows_trained, self._from_start),
            "_logs": {
                name: (
                    {key: list(rows) for key, rows in kept.items()} if isinstance(kept, dict) else list(kept)
                )
                for name, kept in self._logs.items()
                if name != "images"
            },
        }

    def recall_unsaved(self, state: Mapping[str, Any]) -> None:
        """Restores what `unsaved_state` returned.

        Raises:
            CheckpointError: If an older rft wrote it between two micro-batches of a generation.
        """
        if state.get("_buffered_inputs") is not None:
            raise CheckpointError(
                "the checkpoint was written in the middle of a generation by rft before 2026-11-28: resume it"
                " with that version, or name an earlier checkpoint, written behind a whole generation"
            )
        super().recall_unsaved(state)
        if state.get("batches") is not None:
            self._batches = [self.loop.batch(tensors) for tensors in state["batches"]]
        self.rows_made, self.rows_trained, self._from_start = state.get("rows", (0, 0, False))
        logs: Any = self._logs
        for name, kept in state["_logs"].items():
            if isinstance(kept, dict):
                for key, rows in kept.items():
                    logs[name][key].extend(rows)
            else:
                logs[name].extend(kept)


def as_trl(part: Part) -> dict[str, Tensor]:
    """Returns rows as TRL's loss takes them, with rows of zeros up to the most rows of a rank.

    TRL multiplies its mask of completion tokens by `tool_mask`, in the loss and in every mean: that is where
    it takes the weights from. It gathers one number per row, which needs as many rows on every rank; a row of
    zeros has no weight.
    """
    more, given = part.rows - len(part.rows_P), {}
    for name, tensor in part.tensors.items():
        if name not in ("groups", "num_rows", "weight"):
            at = "tool_mask" if name == "weights" else name
            given[at] = tensor if not tensor.dim() or not more else _longer(tensor, more)
    return given


def _longer(tensor_PX: Tensor, more: int) -> Tensor:
    return torch.cat([tensor_PX, tensor_PX.new_zeros(more, *tensor_PX.shape[1:])])
