"""Batch arithmetic of a recipe: longest prompts, largest batch, and the batch in words.

Invariant: no model is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rft.data.prompt import PromptTokens
from rft.data.question import Question
from rft.data.sampler import HistorySampler
from rft.memory.agent import MemoryAgent
from rft.plan.machine import machine
from rft.plan.memory_estimate import KEPT_KEYS, Workload
from rft.screen import counted
from rft.tasks.base import Split


def prompt_lengths(split: Split, questions: Sequence[Question], tokens: PromptTokens) -> dict[str, int]:
    """Returns the number of tokens of each question's prompt with its history."""
    return {
        f"question {q.id}, history {q.history_id}": len(tokens.prompt_ids(q, split.history_of(q)))
        for q in questions
    }


def grpo_batch(
    args: Any, split: Split, questions: Sequence[Question], tokens: PromptTokens
) -> tuple[Workload, str]:
    """Returns the largest batch of a GRPO run, and the batch in words."""
    layout, _ = machine(args)
    per_history: dict[str, list[int]] = {}
    for q in questions:
        per_history.setdefault(q.history_id, []).append(len(tokens.question_ids(q)))
    prefix = {h: len(tokens.history_ids(split.histories[h])) for h in per_history}
    asked, generations = args.questions_per_history, args.num_generations
    completion, at_once = args.max_completion_length, args.per_device_train_batch_size
    trees = sorted(
        (prefix[h] + sum(sorted(lengths)[-asked:]) for h, lengths in per_history.items()), reverse=True
    )
    unit = asked * generations
    share = at_once * args.steps_per_generation
    units = share // unit
    drawn = sum(trees[:units])
    batch_units = max(1, at_once // unit)
    update = sum(trees[:batch_units]) + at_once * completion
    row = max(prefix.values()) + max(max(lengths) for lengths in per_history.values()) + completion
    call = max(sum(sorted(prefix.values())[-batch_units:]), at_once * completion)
    if args.prefix_sharing == "off":
        update = call = at_once * row
    if args.max_tree_tokens:
        update = min(update, args.max_tree_tokens)
    histories = units * args.groups_of(layout.processes)
    order = HistorySampler(
        [q.history_id for q in questions],
        asked,
        histories,
        generations,
        args.num_iterations * args.steps_per_generation,
    )
    per_epoch = len(order) / (histories * unit) / args.gradient_accumulation_steps
    words = (
        f"{histories} histories x {asked} questions x {generations} completions = {histories * unit}"
        f" completions per generation, for {args.optimizer_steps:g} optimizer"
        f" step{'s' * (args.optimizer_steps != 1)};"
        f" {args.over_processes(layout.processes)} with {share} completions each,"
        f" {at_once} at a time (micro-batch),"
        f" {counted(args.gradient_accumulation_steps, 'micro-batch')} per optimizer step; at most"
        f" {drawn + share * completion:,} tokens per"
        f" {'group' if args.sequence_parallel > 1 else 'process'} and generation; {_steps(args, per_epoch)}"
    )
    if histories * unit > len(questions) * generations:
        words += (
            f"\ntoo little data for one generation: it needs {histories * asked} questions, and there are"
            f" {len(questions)}"
        )
    rollout = {"prefix": drawn, "rows": share, "completion": completion}
    scored = min(update, at_once * completion)
    return _workload(args, update, scored, max(prefix.values()), call=call, **rollout), words


def memory_batch(
    args: Any, agent: MemoryAgent, split: Split, units: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, int], Workload, str]:
    """Returns the longest prompts of memory GRPO, its largest batch, and the batch in words.

    Every memory counts with its maximum length.
    """
    memory, completion = agent.settings.memory_tokens, args.max_completion_length
    read, asked = _turn_lengths(agent, split, units)
    answers = args.questions_per_history * args.answers_per_memory
    trajectories = args.per_device_train_batch_size
    groups = -(-trajectories // args.num_generations)

    def turns(chunks: Sequence[int]) -> int:
        """Tokens in the tree of a micro-batch. Chunks are shared; each trajectory has its own memories,
        updates and answers."""
        own = len(chunks) * 2 * memory + memory + args.questions_per_history * asked + answers * completion
        return groups * sum(chunks) + trajectories * own

    update = max(turns(chunks) for chunks in read.values())
    scored = trajectories * (max(map(len, read.values())) * memory + answers * completion)
    if args.max_tree_tokens:
        update = min(update, args.max_tree_tokens)
    share = trajectories * args.steps_per_generation
    chunk = max(max(chunks) for chunks in read.values())
    shared = -(-share // args.num_generations)
    phases = [  # of a rollout: writing the updates of one chunk, and answering
        {"prefix": shared * chunk + share * memory, "rows": share, "completion": memory},
        {
            "prefix": share * (memory + args.questions_per_history * asked),
            "rows": share * answers,
            "completion": completion,
        },
    ]
    widest = max(phases, key=lambda phase: phase["prefix"] + phase["rows"] * phase["completion"])
    prompts = {f"an update of history {name}": max(chunks) + memory for name, chunks in read.items()}
    processes = machine(args)[0].processes
    per_epoch = len(units) // args.units_per_generation(processes) * args.optimizer_steps
    words = (
        f"{args.arithmetic(processes)};"
        f" {args.in_words([len(chunks) for chunks in read.values()], len(units), processes)};"
        f" {_steps(args, per_epoch)}"
    )
    return prompts, _workload(args, update, min(update, scored), chunk, **widest), words


def longest_turn(args: Any, agent: MemoryAgent, split: Split, units: Sequence[Mapping[str, Any]]) -> int:
    """Returns the most tokens of a prompt of memory GRPO with its completion, if every memory is full."""
    memory, (read, asked) = agent.settings.memory_tokens, _turn_lengths(agent, split, units)
    update = max(tokens for chunks in read.values() for tokens in chunks)
    return memory + max(update + memory, asked + args.max_completion_length)


def _turn_lengths(
    agent: MemoryAgent, split: Split, units: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, list[int]], int]:
    """The tokens of prompts with an empty memory: {history id: of its updates}, and of the longest answer."""
    questions = {q.id: q for q in split.questions}
    read = {
        name: [len(agent.update_ids(chunk, "")) for chunk in agent.chunks(split.histories[name])]
        for name in {unit["history_id"] for unit in units}
    }
    asked = max(len(agent.answer_ids(questions[name], "")) for unit in units for name in unit["question_ids"])
    return read, asked


def sft_batch(args: Any, count: int, longest: int, own: int | None = None) -> tuple[Workload, str]:
    """Returns the largest batch of a cold start, and the batch in words.

    Args:
        args: the training arguments.
        count: number of rows.
        longest: maximum number of tokens per row.
        own: maximum number of tokens per row after its history (None: rows share nothing).
    """
    layout, _ = machine(args)
    rows = args.per_device_train_batch_size
    rows_per_step = rows * args.gradient_accumulation_steps * args.groups_of(layout.processes)
    shared = args.questions_per_history
    at_once = rows // shared * (longest + (shared - 1) * (longest if own is None else own))
    per_epoch = -(-count // rows_per_step)
    words = (
        f"{rows_per_step} rows per optimizer step: {rows} at a time x {args.gradient_accumulation_steps}"
        f" micro-batches x {args.over_processes(layout.processes)}; at most {at_once:,}"
        f" tokens at a time; {_steps(args, per_epoch)}"
    )
    scored = rows * longest if shared == 1 or own is None else rows * own
    return _workload(args, at_once, scored, longest), words


def _steps(args: Any, per_epoch: float) -> str:
    """The number of optimizer steps in words."""
    steps = args.max_steps if args.max_steps > 0 else per_epoch * args.num_train_epochs
    return f"{per_epoch:g} optimizer steps per epoch, {steps:g} in total"


def _workload(args: Any, update: int, scored: int, span: int, **more: int) -> Workload:
    """A batch whose longest history or chunk has `span` tokens, with the recipe's ways to save memory."""
    splits = bool(getattr(args, "max_tree_tokens", None))  # a field of GRPO only
    return Workload(
        update=update,
        scored=scored,
        checkpointing=args.gradient_checkpointing,
        accumulates=args.gradient_accumulation_steps > 1 or splits,
        tile=args.mlp_tile_tokens or 0,
        offload=args.offload_checkpoints,
        keep=args.keep_attention and span >= KEPT_KEYS,
        **more,
    )
