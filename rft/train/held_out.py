"""How well the policy does on people it does not learn from, while it learns: a fixed set of questions, every so many steps.

Invariant: the questions are always the same, answered greedily by the weights as they are, and training goes on as if nobody had
asked: no random state, gradient or setting is touched. Every process answers all of them, so that processes stay in step whatever
shards the weights; the set is meant to be small. `rft evaluate` on a checkpoint is the evaluation to report.
"""

from typing import Any

from transformers import TrainerCallback
from trl.models import unwrap_model_for_generation

from rft.data.dataset import Split
from rft.data.prompt import PromptTokens
from rft.evaluate.backend import LocalModel, ModelAnswers
from rft.evaluate.run import batches, result_row
from rft.evaluate.statistics import summarise


class HeldOutCallback(TrainerCallback):
    """Puts held_out/accuracy, its interval and held_out/unparsed_rate into the trainer's next log."""

    def __init__(self, trainer: Any, split: Split, tokens: PromptTokens):
        self.trainer, self.split, self.tokens = trainer, split, tokens

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % args.held_out_steps and state.global_step < state.max_steps:
            return
        for name, value in self.answer(args).items():
            self.trainer._metrics["train"][f"held_out/{name}"].append(value)

    def answer(self, args: Any) -> dict[str, float]:
        """The policy's accuracy now; its interval's edges; its unparsed rate."""
        trainer, rows = self.trainer, []
        training = trainer.model.training
        trainer.model.eval()
        with unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as model, trainer.accelerator.autocast():
            policy = LocalModel.in_training(model, self.tokens.tokenizer, "policy")
            answers = ModelAnswers(policy, self.tokens.context, args.max_completion_length)
            answers.tokens = self.tokens
            asked = self.split.questions[: args.held_out_questions]
            for batch in batches(asked, answers.context, args.per_device_train_batch_size):
                history = self.split.history_of(batch[0])
                said = answers.answer(batch, history if answers.context != "none" else None)
                rows += [result_row(q, a, 0.0, history) for q, a in zip(batch, said, strict=True)]
        trainer.model.train(training)
        summary = summarise(rows, args.seed)
        low, high = summary["ci95"]
        return {"accuracy": summary["accuracy"], "low": low, "high": high, "unparsed_rate": summary["unparsed_rate"]}
