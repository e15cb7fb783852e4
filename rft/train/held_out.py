"""Held-out evaluation during training: a fixed set of questions about people outside the training data, every
N steps.

Invariant: the questions are always the same, and the current weights answer them greedily. Training is not
affected: no random state, gradient or setting is changed. Every process answers all questions, or every
sequence-parallel group, whose processes share them, so that processes stay in step however the weights are
sharded; keep the set small. `rft evaluate` on a checkpoint is the evaluation to report.
"""

from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from rft.data.prompt import PromptTokens
from rft.evaluate.answer import Answer
from rft.evaluate.run import result_row
from rft.evaluate.statistics import summarise
from rft.models.loading import end_ids
from rft.prefix_tree.sample import sample
from rft.tasks.base import Split
from rft.train.help import recipe_field


@dataclass
class HeldOutConfig:
    """Held-out evaluation during training, on people outside the training data."""

    held_out_split: str | None = recipe_field(
        None,
        "Split whose first questions are answered during training; logged as held_out/right_and_consistent.",
    )
    held_out_questions: int = recipe_field(64, "Number of questions of held_out_split; always the first.")
    held_out_steps: int = recipe_field(50, "Steps between held-out evaluations; the last step has one too.")


class HeldOut(TrainerCallback):
    """Asks a trainer's policy held-out questions, and adds the metrics to the trainer's next log.

    These are held_out/right_and_consistent, its interval, the same for each kind of question, and
    held_out/unparsed_rate.

    Args:
        trainer: Its model must have gone through `prefix_tree.attention.enable`; `sequence` is its group.
        split: Held-out questions and histories.
        count: Number of questions; the first of the split.
        tokens: Builds the prompts.
        longest: Maximum tokens per answer.
        at_once: Questions per batch.
    """

    def __init__(
        self, trainer: Any, split: Split, count: int, tokens: PromptTokens, longest: int, at_once: int
    ):
        self.trainer, self.split, self.questions = trainer, split, split.questions[:count]
        self.tokenizer, self.longest, self.at_once = tokens.tokenizer, longest, at_once
        self.prompts = [tokens.prompt_ids(q, split.history_of(q)) for q in self.questions]

    def answers(self) -> list[str]:
        """Returns the policy's current answer to each question."""
        return self.tokenizer.batch_decode(
            self.complete(self.prompts, self.longest), skip_special_tokens=True
        )

    def complete(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
        """Returns the policy's greedy completion of each prompt, as token ids of at most `longest` tokens."""
        trainer = self.trainer
        completions: list[list[int]] = []
        training = trainer.model.training
        trainer.model.eval()
        with trainer.for_generation() as model:
            for start in range(0, len(prompts), self.at_once):
                completions += sample(
                    model,
                    prompts[start : start + self.at_once],
                    max_new_tokens=longest,
                    eos_ids=self.end_ids(),
                    temperature=0,
                    group=trainer.sequence,
                )[0]
        trainer.model.train(training)
        return completions

    def end_ids(self) -> list[int]:
        """Returns the tokens that end a completion."""
        return end_ids(
            self.trainer.accelerator.unwrap_model(self.trainer.model).generation_config, self.tokenizer
        )

    def values(self, seed: int) -> dict[str, float]:
        """Evaluates the current policy.

        Args:
            seed: Random seed of the bootstrap.

        Returns:
            {metric: value}; the log prefixes the names with "held_out/". {} if only a judge could score the
            answers. Answers without options count as right if they equal an accepted text.
        """
        summary = summarise(
            [
                result_row(question, Answer(completion), 0.0, self.split.history_of(question))
                for question, completion in zip(self.questions, self.answers(), strict=True)
            ],
            seed,
        )
        right, ends = summary.right_and_consistent, summary.right_and_consistent_ci95
        if right is None or ends is None:  # no question has options
            right, ends = summary.accuracy, summary.ci95
        if right is None or ends is None:
            return {}
        low, high = ends
        values = {
            "right_and_consistent": right,
            "low": low,
            "high": high,
            "unparsed_rate": summary.unparsed_rate,
        }
        of_kinds = {
            kind: cell.accuracy if cell.right_and_consistent is None else cell.right_and_consistent
            for kind, cell in summary.by.get("kind", {}).items()
            if kind
        }
        return values | {kind: share for kind, share in of_kinds.items() if share is not None}

    def on_step_end(self, args, state, control, **kwargs):
        """Evaluates every `held_out_steps` steps and after the last step."""
        if state.global_step % args.held_out_steps and state.global_step < state.max_steps:
            return
        for name, value in self.values(args.seed).items():
            self.trainer.record(f"held_out/{name}", value)
