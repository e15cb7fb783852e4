"""Reinforcement fine-tuning of the agentic memory: one memory of a history answers many of its questions.

One step: a unit is a history and `questions_per_history` of its questions. `num_generations` memories are
written for it in parallel, each chunk by chunk. Each memory answers all the questions, `answers_per_memory`
times. A memory's updates are credited with the mean reward of its answers relative to the other memories of
the history; an answer is credited with its own reward (`rft.train.memories`). Then every turn that has an
advantage becomes a row. A check makes sure that all rows are trained. The loss is TRL's. The steps are those
of `rft.train.loop`.

A batch counts trajectories (memories), not rows.

    accelerate launch -m rft.train.memory_grpo --config recipes/quickstart/memory_grpo.yaml
    rft memory-grpo --launch zero3 --num_processes 8 --config recipes/personamem_v2/memory_grpo_32k.yaml
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from trl import ModelConfig

import reward
from rft.data.tokenizer import load_tokenizer
from rft.errors import RecipeError
from rft.memory.agent import MemoryAgent
from rft.plan.batch import longest_turn, memory_batch
from rft.plan.dry_run import dry_run
from rft.runs.run_spec import RunSpec
from rft.tasks.memory_targets import load_memory_targets
from rft.train.held_out_memories import HeldOutMemories
from rft.train.judged import prepare, with_open_ended
from rft.train.memories import MemoryArm
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.memory_rows import MemoryArguments, load_memory_questions, memory_units
from rft.train.recipe import DataArguments, Given, parse
from rft.train.rewards import Scorer
from rft.train.runner import finish, fit, run_main, trainer_arguments
from rft.train.sequence import check_sequence_parallel
from rft.train.target_check import check_target
from rft.train.targets import load_held_out
from rft.train.trl import PolicyTrainer

logger = logging.getLogger(__name__)


def train(argv: Given = None, callbacks: Sequence[Any] = ()) -> PolicyTrainer:
    """Train from a recipe and save the model and tokenizer in `output_dir`."""
    data, memory, args, model = parse((DataArguments, MemoryArguments, MemoryGRPOConfig, ModelConfig), argv)
    check_sequence_parallel(args, model)
    settings = memory.settings()
    try:
        memory_rewards = [reward.load(name) for name in args.memory_rewards]
    except ValueError as error:
        raise RecipeError(str(error)) from None
    scorer = Scorer(
        args.reward_functions(),
        args.reward_weights,
        args.reward_seconds,
        memory_rewards,
        args.memory_reward_weights,
    )
    args.units_per_generation()  # fails before anything is loaded
    tokenizer = load_tokenizer(model.model_name_or_path, model.model_revision)
    tokenizer.padding_side = "left"
    agent = MemoryAgent(tokenizer, settings, data.token_cache)
    check_target(agent.tokens)
    split, questions = load_memory_questions(data)
    for question in questions:
        question.check()
    split, questions = with_open_ended(args, split, questions)
    held_out = load_held_out(data, args.held_out_split)
    units = memory_units(questions, args.questions_per_history, args.seed)
    if args.dry_run:
        dry_run((data, memory, args, model), *memory_batch(args, agent, split, list(units)))
    logger.info(
        "%s",
        args.in_words(
            [len(agent.chunks(split.histories[name])) for name in {*units["history_id"]}], len(units)
        ),
    )
    if args.use_vllm and args.vllm_mode == "colocate" and args.vllm_max_model_length is None:
        # otherwise vLLM reserves memory for all positions of the model
        args.vllm_max_model_length = longest_turn(args, agent, split, list(units))
    prepare(scorer, args, questions, tokenizer)
    if memory_rewards:
        scorer.targets = load_memory_targets(split)
    trainer = PolicyTrainer(
        arm=MemoryArm(split, agent, args),
        scorer=scorer,
        train_dataset=units,
        **trainer_arguments(args, model, tokenizer, split.sha256, "memory GRPO", callbacks),
    )
    if held_out is not None:
        count, longest = args.held_out_questions, args.max_completion_length
        trainer.add_callback(HeldOutMemories(trainer, held_out, count, agent, longest, at_once=64))
    fit(trainer, RunSpec.of(data, memory, args, model, data_sha256=split.sha256))
    finish(trainer)
    return trainer


if __name__ == "__main__":
    sys.exit(run_main(train))
