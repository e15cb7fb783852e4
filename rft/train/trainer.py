"""TRL's GRPO trainer over histories: prompts by id, rows of a history together, every shared token forwarded
once.

The loss, the advantages and the order of events are TRL's own and unchanged. These parts differ:

- A row names its question and history, whose token ids come from `PromptTokens` (`_tokenize_prompts`).
- The sampler and the split into micro-batches keep the rows of a history together on one rank
  (`_get_train_sampler`, `_prepare_inputs`).
- Rollouts and all log-probs (policy, old, reference) go through the prefix tree (`_generate_single_turn`,
  `_get_per_token_logps_and_entropies`), in parts of at most `max_tree_tokens`, each with its own backward
  pass (`compute_loss`).
- Format, letter and per-category metrics are logged with the rewards (`_calculate_rewards`).
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from random import Random
from typing import Any

import torch
from torch.utils.data import Sampler
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

import reward
from rft.data.dataset import Split
from rft.data.prompt import PromptTokens
from rft.data.sampler import HistorySampler
from rft.prefix_tree import attention, support
from rft.prefix_tree.layout import Tree, unpad
from rft.prefix_tree.logprobs import split, tree_logps
from rft.prefix_tree.sample import sample
from rft.runs.checkpoint import ResumableMixin
from rft.runs.failfast import FailFastMixin
from rft.runs.masters import MastersMixin
from rft.train.grpo_config import ADDITIVE, ROW_MEANS, HistoryGRPOConfig
from rft.train.muon import MuonMixin
from rft.train.safe_rewards import isolate_failures

logger = logging.getLogger(__name__)

OFF_POLICY = 0.01  # share of sampled tokens that may be outside the clip range before the first update


class HistoryGRPOTrainer(ResumableMixin, FailFastMixin, MastersMixin, MuonMixin, GRPOTrainer):
    """GRPO in which `questions_per_history` questions share a history.

    Args:
        model: The policy.
        split: Questions and histories of the dataset's rows.
        tokens: Builds the prompts.
        args: Fields of the recipe.
        **kwargs: As in TRL's GRPOTrainer.
    """

    args: HistoryGRPOConfig
    model: torch.nn.Module
    num_generations: int
    max_completion_length: int
    shuffle_dataset: bool

    def __init__(
        self, *, model: Any, split: Split, tokens: PromptTokens, args: HistoryGRPOConfig, **kwargs: Any
    ):
        self._units = args.units_per_generation()
        if args.process_index == 0:
            logger.info("%s", args.arithmetic())
        self._split, self._tokens, self._blind = split, tokens, PromptTokens(tokens.tokenizer, "none")
        self._question = {question.id: question for question in split.questions}
        self._rows: list[dict[str, Any]] = []
        self._warned = False
        self.shares = args.prefix_sharing == "on"
        if self.shares:
            support.check_training(model, args)
            attention.enable(model)
        rewards = [isolate_failures(function, args.reward_seconds) for function in kwargs.pop("reward_funcs")]
        super().__init__(args=args, model=model, reward_funcs=rewards, **kwargs)
        if self.shares:
            support.check_training(self.accelerator.unwrap_model(self.model), args)  # again, with its adapter
            if self.ref_model is not None:
                attention.enable(self.accelerator.unwrap_model(self.ref_model))

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        dataset = self.train_dataset if dataset is None else dataset
        return HistorySampler(
            dataset["history_id"],
            self.args.questions_per_history,
            self._units,
            self.num_generations,
            self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
            first=self._longest(dataset["history_id"]),
        )

    def _longest(self, history_ids: Sequence[str]) -> str:
        """The history with the most characters: if memory runs out, it runs out in the first step."""
        histories = self._split.histories
        return max(
            sorted(set(history_ids)),
            key=lambda name: sum(len(message.content) for message in histories[name].messages),
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        for row in inputs:
            row["blind"] = self._mode == "train" and self._asks_blind(row["history_id"])
        self._rows = inputs  # TRL passes only the prompt column to _tokenize_prompts
        return super()._generate_and_score_completions(inputs)

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict]:
        asked = [(self._question[row["question_id"]], row["blind"]) for row in self._rows]
        return (
            [
                (
                    self._blind.prompt_ids(q, None)
                    if blind
                    else self._tokens.prompt_ids(q, self._split.history_of(q))
                )
                for q, blind in asked
            ],
            None,
            {},
        )

    def _asks_blind(self, history_id: str) -> bool:
        """Whether a history is left out; the same for all its rows in a generation, on every rank, and in a
        resumed run."""
        return (
            Random(f"{self.args.seed}-{self.state.global_step}-{history_id}").random() < self.args.blind_share
        )

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Like TRL's, but without the shuffling of a generation batch between its micro-batches, which would
        split histories."""
        if not self.model.training:
            return self._generate_and_score_completions(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(
                self._generate_and_score_completions(generation_batch), steps
            )
        return self._buffered_inputs[self._step % steps]

    def _generate_single_turn(
        self, prompt_ids: list, images: Any, fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        if not self.shares or self.use_vllm:
            # generate() of a PEFT model bypasses the forward that accelerate has wrapped in autocast
            with nullcontext() if self.use_vllm else self.accelerator.autocast():
                return super()._generate_single_turn(
                    prompt_ids, images, fields, num_generations, has_tool_images
                )
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            self.accelerator.autocast(),
        ):
            return sample(
                model,
                prompt_ids,
                max_new_tokens=self.max_completion_length,
                eos_ids=self.eos_token_ids,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k or 0,
                min_p=self.min_p,
            )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: Any = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        if not self.shares:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **multimodal,
            )
        if (
            not torch.is_grad_enabled()
            and len(parts := self._parts(input_ids, attention_mask, logits_to_keep)) > 1
        ):
            tables = [
                self._shared_logps(
                    model, input_ids[rows_P], attention_mask[rows_P], logits_to_keep, compute_entropy
                )
                for rows_P in parts
            ]
            order_B = torch.cat(parts).argsort()
            logps_BC = torch.cat([logps for logps, _ in tables])[order_B]
            entropies_BC = (
                torch.cat([e for _, e in tables if e is not None])[order_B] if compute_entropy else None
            )
        else:
            logps_BC, entropies_BC = self._shared_logps(
                model, input_ids, attention_mask, logits_to_keep, compute_entropy
            )
        self._logps_BC = logps_BC.detach()
        return logps_BC, entropies_BC, None

    def _shared_logps(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, compute_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probs and entropies through one tree; row by row if sharing does not pay on any rank."""
        tree = Tree.from_padded(input_ids, attention_mask, logits_to_keep)
        pays = support.pays(
            self.accelerator.gather(torch.tensor(tree.token_ratio, device=input_ids.device)).max().item()
        )
        metrics = self._metrics[self._mode]
        metrics["prefix_tree/token_ratio"].append(tree.token_ratio)
        metrics["prefix_tree/plain_path"].append(float(not pays))
        if pays:
            with self.accelerator.autocast():
                return tree_logps(model, tree, self.temperature, compute_entropy)
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, compute_entropy=compute_entropy
        )[:2]

    def _parts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int
    ) -> list[torch.Tensor]:
        """Rows of a batch in parts whose trees fit in `max_tree_tokens`. Every rank has the same number of
        forward passes."""
        budget = self.args.max_tree_tokens
        if budget is None:
            return [torch.arange(len(input_ids), device=input_ids.device)]
        rows, prompts = unpad(input_ids, attention_mask, logits_to_keep)
        groups = split(rows, prompts, budget)
        most = self.accelerator.gather(torch.tensor(len(groups), device=input_ids.device)).max().item()
        while len(groups) < most:
            widest = max(groups, key=len)
            groups.remove(widest)
            groups += [widest[: len(widest) // 2], widest[len(widest) // 2 :]]
        return [torch.tensor(group, device=input_ids.device) for group in groups]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Computes TRL's loss, part by part if a batch is larger than `max_tree_tokens`.

        The backward passes of all parts but the last run here; the trainer runs the last one, as usual.
        """
        if not (self.shares and self.args.max_tree_tokens and torch.is_grad_enabled()):
            return super().compute_loss(model, inputs, *args, **kwargs)
        input_ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention_mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        parts = self._parts(input_ids, attention_mask, inputs["completion_ids"].shape[1])
        *early, last = [self._part(inputs, rows_P) for rows_P in parts]
        self._metrics["train"]["prefix_tree/parts"].append(len(parts))
        total = 0.0
        state, synced = self.accelerator.gradient_state, self.accelerator.sync_gradients
        for part, share in early:
            state._set_sync_gradients(False)
            with nullcontext() if self.is_deepspeed_enabled else self.accelerator.no_sync(model):
                loss = share * super().compute_loss(model, part, *args, **kwargs)
                self.accelerator.backward(loss)
            total = total + loss.detach()
        state._set_sync_gradients(synced)
        part, share = last
        return share * super().compute_loss(model, part, *args, **kwargs) + total

    def _part(self, inputs: dict[str, Any], rows_P: torch.Tensor) -> tuple[dict[str, Any], float]:
        """Some rows of a batch, and the factor of their loss in the loss of the batch."""
        batch = len(inputs["completion_ids"])
        part = {
            key: (
                value[rows_P]
                if isinstance(value, torch.Tensor) and value.dim() and len(value) == batch
                else value
            )
            for key, value in inputs.items()
        }
        if self.loss_type in ADDITIVE:
            return part, 1.0
        if self.loss_type in ROW_MEANS:
            return part, len(rows_P) / batch
        tokens = inputs["completion_mask"].sum().item()
        return part, part["completion_mask"].sum().item() / max(1, tokens)  # bnpo: a mean over tokens

    @contextmanager
    def _uneven_rows(self) -> Iterator[None]:
        """Pads what TRL gathers for its logs, one number per row, with NaN, which TRL's minima and maxima
        ignore. Ranks have different numbers of rows, because histories differ in chunks and trees in parts; a
        collective of unequal tensors fails or hangs."""
        gather = self.accelerator.gather

        def filled(tensor: torch.Tensor) -> torch.Tensor:
            return gather(
                self.accelerator.pad_across_processes(tensor, pad_index=math.nan) if tensor.dim() else tensor
            )

        self.accelerator.gather = filled
        try:
            yield
        finally:
            self.accelerator.gather = gather

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        with self._uneven_rows():
            loss = super()._compute_loss(model, inputs)
        if (
            self.shares
            and not self.use_vllm
            and self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        ):
            self._compare_with_sampling(inputs)
        return loss

    def _compare_with_sampling(self, inputs: dict[str, Any]) -> None:
        """Logs the difference between the log-probs in training and in sampling. Warns once if tokens are
        off-policy (their ratio is outside the clip range) although no update has changed the policy."""
        off_BC = (self._logps_BC - inputs["sampling_per_token_logps"]).abs() * inputs["completion_mask"]
        outside = (off_BC > math.log1p(self.args.epsilon)).sum()
        of_rank = torch.stack([x.float() for x in (off_BC.max(), outside, inputs["completion_mask"].sum())])
        largest, far, tokens = zip(*self.accelerator.gather(of_rank[None]).tolist(), strict=True)
        share = sum(far) / max(1.0, sum(tokens))
        self._metrics["train"]["sampling/logp_difference_max"].append(max(largest))
        self._metrics["train"]["sampling/off_policy"].append(share)
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

    def _generate(self, prompts: list) -> tuple:
        start = time.perf_counter()
        output = super()._generate(prompts)
        self._metrics[self._mode]["time/rollout"].append(time.perf_counter() - start)
        return output

    def _calculate_rewards(
        self, inputs: list, prompts: list, completions: list, completion_ids_list: list
    ) -> Any:
        start = time.perf_counter()
        ends = set(self.eos_token_ids)
        for row, ids in zip(inputs, completion_ids_list, strict=True):
            row["finished"] = bool(ids) and ids[-1] in ends
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._log_metric("time/reward", time.perf_counter() - start)
        asked = [
            (row, reward.read(said, row["options"]))
            for said, row in zip(completions, inputs, strict=True)
            if row["answer"] is not None
        ]
        if asked:
            for name, value in reward.reading_metrics(
                [said for _, said in asked], [row["answer"] for row, _ in asked]
            ).items():
                self._log_metric(name, value)
        for row, said in asked:
            for name in ("blind",) if row["blind"] else ("all", row["kind"]):
                self._log_metric(f"right/{name}", float(said.right(row["answer"])))
                self._log_metric(
                    f"right_and_consistent/{name}", float(said.right(row["answer"]) and said.consistent)
                )
        for column in ("question_id", "history_id", "answer"):
            self._log_completion_extra(column, [row[column] for row in inputs])
        return rewards_per_func
