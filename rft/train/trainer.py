"""TRL's GRPO trainer over histories: prompts by id, whole histories together, every shared token forwarded once.

The loss, the advantages and the order of events are TRL's own and unchanged. What differs: a row names its question and history,
whose token ids come from `PromptTokens` (`_tokenize_prompts`); the sampler and the split into micro-batches keep the rows of a
history together on one rank (`_get_train_sampler`, `_prepare_inputs`); rollouts and all log-probs (policy, old, reference) go through
the prefix tree (`_generate_single_turn`, `_get_per_token_logps_and_entropies`); rewards are accompanied by format, letter and
per-category metrics (`_calculate_rewards`).
"""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Sampler
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

import reward
from rft.data.dataset import Split
from rft.data.prompt import PromptTokens
from rft.data.sampler import HistorySampler
from rft.errors import RecipeError
from rft.prefix_tree import attention, gates
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.prefix_tree.sample import sample


@dataclass
class HistoryGRPOConfig(GRPOConfig):
    """TRL's GRPOConfig and the fields of this trainer. A batch counts completions, as TRL does."""

    questions_per_history: int = field(
        default=4, metadata={"help": "Questions of one history that are drawn together, each with num_generations completions."})
    rewards: list[str] = field(default_factory=lambda: ["reward.personamem"], metadata={
        "help": "Reward functions, as package.module.function or path/to/file.py:function; weighted by reward_weights."})

    prefix_sharing: str = field(default="on", metadata={
        "help": "Forward every token that rows share once, in training and in rollouts (on), or row by row as TRL does (off).",
        "choices": ["on", "off"]})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prefix_sharing not in ("on", "off"):
            raise RecipeError(f"prefix_sharing {self.prefix_sharing!r}: expected on or off")
        if self.prefix_sharing == "on" and not self.use_vllm and self.repetition_penalty != 1.0:
            raise RecipeError(f"repetition_penalty {self.repetition_penalty}: shared rollouts know temperature, top_p, top_k and min_p "
                              "alone; set it to 1.0, or `prefix_sharing: off`")

    def units_per_generation(self) -> int:
        """Units (the Q questions of one history) in a generation batch over all ranks.

        Raises:
            RecipeError: a rank's share of a generation batch does not hold whole units.
        """
        unit = self.questions_per_history * self.num_generations
        share = self.per_device_train_batch_size * self.steps_per_generation
        if share % unit:
            whole = max(unit, round(share / unit) * unit)
            raise RecipeError(
                f"per_device_train_batch_size {self.per_device_train_batch_size} x steps_per_generation {self.steps_per_generation} = "
                f"{share} completions a rank, which is no multiple of questions_per_history {self.questions_per_history} x "
                f"num_generations {self.num_generations} = {unit}; make the product {whole}, so that a history stays on one rank")
        return share * self.world_size // unit


class HistoryGRPOTrainer(GRPOTrainer):
    """GRPO where a history is shared by `questions_per_history` questions. `split` holds the histories of the dataset's rows."""

    args: HistoryGRPOConfig

    def __init__(self, *, model: Any, split: Split, tokens: PromptTokens, args: HistoryGRPOConfig, **kwargs: Any):
        self._units = args.units_per_generation()
        self._split, self._tokens = split, tokens
        self._question = {question.id: question for question in split.questions}
        self._rows: list[dict[str, Any]] = []
        self.shares = args.prefix_sharing == "on"
        if self.shares:
            gates.check_model(model)
            attention.enable(model)
        super().__init__(args=args, model=model, **kwargs)
        if self.shares:
            gates.check_model(self.accelerator.unwrap_model(self.model))  # once more, with its adapter

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        dataset = self.train_dataset if dataset is None else dataset
        return HistorySampler(
            dataset["history_id"], self.args.questions_per_history, self._units, self.num_generations,
            self.num_iterations * self.args.steps_per_generation, shuffle=self.shuffle_dataset, seed=self.args.seed)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs  # TRL hands only the prompt column to _tokenize_prompts
        return super()._generate_and_score_completions(inputs)

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict]:
        questions = [self._question[row["question_id"]] for row in self._rows]
        return [self._tokens.prompt_ids(q, self._split.history_of(q)) for q in questions], None, {}

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, but for the shuffling of a generation batch between its micro-batches, which would tear histories apart."""
        if not self.model.training:
            return self._generate_and_score_completions(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), steps)
        return self._buffered_inputs[self._step % steps]

    def _generate_single_turn(self, prompt_ids: list, images: Any, fields: Any, num_generations: int, has_tool_images: bool = False) -> Any:
        if not self.shares or self.use_vllm:
            return super()._generate_single_turn(prompt_ids, images, fields, num_generations, has_tool_images)
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model, self.accelerator.autocast():
            return sample(model, prompt_ids, max_new_tokens=self.max_completion_length, eos_ids=self.eos_token_ids,
                          temperature=self.temperature, top_p=self.top_p, top_k=self.top_k or 0, min_p=self.min_p)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, batch_size: Any = None,
        compute_entropy: bool = False, compute_aux_loss: bool = False, **multimodal: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        if self.shares:
            tree = Tree.from_padded(input_ids, attention_mask, logits_to_keep)
            self._metrics["train" if self.model.training else "eval"]["prefix_tree/token_ratio"].append(tree.token_ratio)
            with self.accelerator.autocast():
                logps_BC, entropies_BC = tree_logps(model, tree, self.temperature, compute_entropy)
            self._logps_BC = logps_BC.detach()
            return logps_BC, entropies_BC, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss, **multimodal)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        if self.shares and not self.use_vllm and self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            off_BC = (self._logps_BC - inputs["sampling_per_token_logps"]).abs() * inputs["completion_mask"]
            self._metrics["train"]["sampling/logp_difference_max"].append(self.accelerator.gather(off_BC.max()).max().item())
        return loss

    def _generate(self, prompts: list) -> tuple:
        start = time.perf_counter()
        output = super()._generate(prompts)
        self._metrics["train" if self.model.training else "eval"]["time/rollout"].append(time.perf_counter() - start)
        return output

    def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids_list: list) -> Any:
        start = time.perf_counter()
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._log_metric("time/reward", time.perf_counter() - start)
        metrics = reward.mcq_metrics(completions)
        self._log_metric("unparsed_rate", metrics["unparsed_rate"])
        self._log_metric("format_rate", metrics["format_rate"])
        for letter, count in metrics["answer_letters"].items():
            self._log_metric(f"answer_letters/{letter}", count / len(completions))
        scores = reward.personamem(completions, [row["answer"] for row in inputs])
        for row, score in zip(inputs, scores, strict=True):
            if score is not None:
                self._log_metric(f"accuracy/{row['pref_type']}", score)
                self._log_metric("accuracy/all", score)
        for column in ("question_id", "history_id", "answer"):
            self._log_completion_extra(column, [row[column] for row in inputs])
        return rewards_per_func
