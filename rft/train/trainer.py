"""TRL's GRPO trainer over histories: prompts by id, whole histories together, metrics that the mean reward hides.

The loss, the advantages and the generation loop are TRL's own and unchanged. What differs: a row names its question and history,
whose token ids come from `PromptTokens` (`_tokenize_prompts`); the sampler keeps the questions of a history together on one rank
(`_get_train_sampler`); rewards are accompanied by format, letter and per-category metrics (`_calculate_rewards`).
"""

import time
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Sampler
from trl import GRPOConfig, GRPOTrainer

import reward
from rft.data.dataset import Split
from rft.data.prompt import PromptTokens
from rft.data.sampler import HistorySampler
from rft.errors import RecipeError


@dataclass
class HistoryGRPOConfig(GRPOConfig):
    """TRL's GRPOConfig and the fields of this trainer. A batch counts completions, as TRL does."""

    questions_per_history: int = field(
        default=4, metadata={"help": "Questions of one history that are drawn together, each with num_generations completions."})
    rewards: list[str] = field(default_factory=lambda: ["reward.personamem"], metadata={
        "help": "Reward functions, as package.module.function or path/to/file.py:function; weighted by reward_weights."})

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

    def __init__(self, *, split: Split, tokens: PromptTokens, args: HistoryGRPOConfig, **kwargs: Any):
        self._units = args.units_per_generation()
        self._split, self._tokens = split, tokens
        self._question = {question.id: question for question in split.questions}
        self._rows: list[dict[str, Any]] = []
        super().__init__(args=args, **kwargs)

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
