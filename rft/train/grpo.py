"""Reinforcement fine-tuning with verifiable rewards: GRPO over questions about long chat histories.

One step: units of `questions_per_history` questions of one history are drawn. Every question gets
`num_generations` completions. The recipe's rewards score each completion (1 for the correct boxed letter
after a reasoned think block, otherwise 0). The advantage of a completion is its reward relative to the other
completions of the same question. The policy gradient is TRL's GRPO loss. With `open_ended_share`, some
questions are asked without options, and a judge's verdict is their reward; if the judge cannot be reached,
the completion is left out of its group.

The steps, in code: `rft.train.loop`.

    accelerate launch -m rft.train.grpo --config recipes/quickstart/grpo.yaml
    rft grpo --launch zero3 --num_processes 8 --config recipes/personamem_v2/grpo_32k.yaml
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl import ModelConfig

from rft.data.prompt import PromptTokens
from rft.data.tokenizer import load_tokenizer
from rft.errors import RecipeError
from rft.plan.batch import grpo_batch, prompt_lengths
from rft.plan.dry_run import dry_run
from rft.runs.run_spec import RunSpec
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.held_out import HeldOut
from rft.train.histories import HistoryArm
from rft.train.judged import prepare, with_open_ended
from rft.train.recipe import DataArguments, Given, parse
from rft.train.rewards import Scorer
from rft.train.runner import finish, fit, run_main, trainer_arguments
from rft.train.sequence import check_sequence_parallel
from rft.train.target_check import check_target
from rft.train.targets import grpo_rows, load_held_out, load_questions
from rft.train.trl import PolicyTrainer


def train(argv: Given = None, callbacks: Sequence[Any] = ()) -> PolicyTrainer:
    """Train from a recipe and save the model and tokenizer in `output_dir`."""
    data, args, model = parse((DataArguments, HistoryGRPOConfig, ModelConfig), argv)
    check_sequence_parallel(args, model)
    scorer = Scorer(args.reward_functions(), args.reward_weights, args.reward_seconds)
    args.units_per_generation()  # fails before anything is loaded
    if args.beta and not model.use_peft and (Path(model.model_name_or_path) / "adapter_config.json").exists():
        raise RecipeError(
            f"beta {args.beta}: {model.model_name_or_path} is an adapter, and its reference would be the base"
            " model without it; merge the adapter first, or set use_peft: true"
        )
    tokenizer = load_tokenizer(model.model_name_or_path, model.model_revision)
    tokenizer.padding_side = "left"
    tokens = PromptTokens(tokenizer, data.context, data.token_cache)
    check_target(tokens)
    split, questions = load_questions(data, tokens)
    for question in questions:
        question.check()
    split, questions = with_open_ended(args, split, questions)
    held_out = load_held_out(data, args.held_out_split)
    if args.dry_run:
        dry_run(
            (data, args, model),
            prompt_lengths(split, questions, tokens),
            *grpo_batch(args, split, questions, tokens),
        )
    if args.use_vllm and args.vllm_mode == "colocate" and args.vllm_max_model_length is None:
        # otherwise vLLM reserves memory for all positions of the model
        args.vllm_max_model_length = (
            max(prompt_lengths(split, questions, tokens).values()) + args.max_completion_length
        )
    prepare(scorer, args, questions, tokenizer)
    trainer = PolicyTrainer(
        arm=HistoryArm(split, tokens, args),
        scorer=scorer,
        train_dataset=grpo_rows(questions),
        **trainer_arguments(args, model, tokenizer, split.sha256, "GRPO", callbacks),
    )
    if held_out is not None:
        trainer.add_callback(
            HeldOut(
                trainer,
                held_out,
                args.held_out_questions,
                tokens,
                args.max_completion_length,
                args.per_device_train_batch_size,
            )
        )
    fit(trainer, RunSpec.of(data, args, model, data_sha256=split.sha256))
    finish(trainer)
    return trainer


if __name__ == "__main__":
    sys.exit(run_main(train))
