"""`--dry-run`: prints what a recipe would do, without running it: its fields, its batch in words, and whether
it fits in memory.

Nothing is trained and no weights are loaded: the model's shape comes from its config. `--dry_run_on
zero3:8:80` describes a machine other than this one: layout, number of processes, GiB per device.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any

import yaml

from rft.data.tokenizer import checkpoint
from rft.errors import RecipeError
from rft.hub import local_only, out_of_reach, unreachable
from rft.plan.machine import machine
from rft.plan.memory_estimate import (
    GIB,
    MASTERS,
    ModelShape,
    Parallelism,
    Workload,
    autocast_copies,
    estimate,
    host,
    peak,
)
from rft.runs.masters import check_masters
from rft.runs.run_spec import SECRETS, plain
from rft.screen import counted

TILE = 2**14
"""Tokens of the MLP tile that a dry run proposes."""


Setting = tuple[ModelShape, Parallelism, Workload]


class DryRun(Exception):
    """Ends a dry run.

    Args:
        code: exit code; 0 if everything fits, otherwise 1.
    """

    def __init__(self, code: int):
        super().__init__(f"dry run, exit code {code}")
        self.code = code


def dry_run(parts: Sequence[Any], prompts: Mapping[str, int], work: Workload, words: str) -> None:
    """Prints the whole report and raises DryRun.

    Args:
        parts: the run's dataclasses. The last two are the training and the model arguments.
        prompts: {description of a prompt: its number of tokens}.
        work: the largest batch.
        words: the batch in words.
    """
    *_, args, model = parts
    layout, memory = machine(args)
    longest = max(prompts, key=lambda name: prompts[name])
    say = print if args.process_index == 0 else (lambda *_: None)
    say("recipe (fields that differ from their defaults):")
    say(
        "  "
        + yaml.safe_dump(changed(parts), sort_keys=True, allow_unicode=True).replace("\n", "\n  ").rstrip()
    )
    say(f"batch: {words}")
    say(
        f"longest prompt: {prompts[longest]:,} tokens ({longest}); median"
        f" {sorted(prompts.values())[len(prompts) // 2]:,}"
    )
    shape = shape_of(model, args)
    work = work.shared_out(args.sequence_parallel)
    phases = estimate(shape, layout, work)
    by_torch = "FSDP" if layout.fsdp else "DDP" if layout.processes > 1 else ""
    kind = f"ZeRO-{layout.zero}" if layout.zero else by_torch
    processes = ", ".join(filter(None, (kind, counted(layout.processes, "process"))))
    say(
        f"estimated memory per process ({processes}, "
        f"{work.update:,} tokens{' of a tree' * (work.ranks > 1)} forwarded at once):"
    )
    for phase, by_part in phases.items():
        if by_part:
            shown = ", ".join(f"{name} {size / GIB:.2f}" for name, size in by_part.items() if size)
            say(f"  {phase}: {sum(by_part.values()) / GIB:.2f} GiB ({shown})")
    say(masters(shape, layout))
    if pinned := host(shape, layout, work):
        say(
            f"pinned host memory per process, for offloaded checkpoints: {pinned / GIB:.1f} GiB, in"
            " power-of-two blocks"
        )
    free = memory * (1 - layout.vllm)
    share = f", of which vLLM takes {layout.vllm:.0%}" if layout.vllm else ""
    if peak(phases) <= free:
        say(f"it fits: {peak(phases) / GIB:.2f} of {memory / GIB:.1f} GiB{share}")
        raise DryRun(0)
    say(
        f"it does not fit: {peak(phases) / GIB:.2f} of {memory / GIB:.1f} GiB{share}. Changes that would"
        " help, cheapest first:"
    )
    for change, smaller in changes(shape, layout, work, args).items():
        need = peak(estimate(*smaller))
        say(f"  {change}: {need / GIB:.2f} GiB{', fits' if need <= free else ''}")
    raise DryRun(1)


def masters(shape: ModelShape, layout: Parallelism) -> str:
    """Describes the memory that the trained weights need."""
    billions = shape.trained >= 1e8
    count = f"{shape.trained / 1e9:.2f} billion" if billions else f"{shape.trained / 1e6:.1f} million"
    count += " weights" if shape.full else " weights of adapters"
    shares = layout.processes if layout.zero or layout.fsdp else 1
    where = f"{shape.trained * MASTERS / GIB:.2f} GiB"
    if shares > 1:
        at = "for" if layout.offload else "on"
        where += f", {shape.trained * MASTERS / shares / GIB:.2f} GiB {at} each of {shares} processes"
    if layout.zero:
        where = f"in host memory: {where}" if layout.offload else where
        return (
            f"masters: DeepSpeed keeps a float32 copy and AdamW's two moments of {count}, {MASTERS} bytes"
            f" each, next to the weights used to compute; {where}"
        )
    copies = autocast_copies(shape, layout)
    beside = (
        f"; autocast's {shape.width}-byte copies take {copies / GIB:.2f} GiB more in a forward pass"
        if copies
        else ""
    )
    return (
        f"masters: {count} are float32, with AdamW's two moments {MASTERS} bytes each,"
        f" {where}, and 4 per gradient{beside}"
    )


def changes(shape: ModelShape, layout: Parallelism, work: Workload, args: Any) -> dict[str, Setting]:
    """Returns changes to a recipe that reduce memory, and the setting after each. Those that cost least time
    come first."""
    options: dict[str, Setting] = {}
    lean = replace(work, checkpointing=True)
    checkpointed = "" if work.checkpointing else "gradient_checkpointing: true and "
    if not work.checkpointing:
        options["gradient_checkpointing: true"] = shape, layout, lean
    smaller_activations = {"offload_checkpoints: true": replace(lean, offload=True)}
    if work.update > TILE:
        tiled = replace(lean, tile=TILE)
        smaller_activations |= {
            f"mlp_tile_tokens: {TILE}": tiled,
            f"mlp_tile_tokens: {TILE} and offload_checkpoints: true": replace(tiled, offload=True),
        }
    for fields_, less in smaller_activations.items():
        if less.tile >= work.tile and less.offload >= work.offload and less != work:
            options[f"{checkpointed}{fields_}"] = shape, layout, less
    longest_row = -(-(work.prefix + work.completion) // work.ranks)
    if hasattr(args, "max_tree_tokens") and work.update > 2 * longest_row:
        budget = max(longest_row, work.update // 4)
        less = replace(lean, update=budget, scored=work.scored * budget // work.update, accumulates=True)
        change = f"gradient_checkpointing: true and max_tree_tokens: {budget * work.ranks}"
        options[change] = shape, layout, less
    if layout.processes > 1 and layout.zero < 3 and not layout.fsdp:
        options["--launch zero3"] = shape, replace(layout, zero=3), lean
    if shape.full:
        adapter = replace(shape, trained=shape.parameters // 60, trained_width=4, frozen_width=shape.width)
        options["use_peft: true (LoRA, rank 32, all linear layers)"] = adapter, layout, lean
    if not layout.offload:
        options["--launch zero3_offload"] = shape, replace(layout, zero=3, offload=True), lean
    if work.rows > 1:
        update = max(longest_row, work.update // 2)
        half = replace(lean, rows=work.rows // 2, update=update, scored=work.scored // 2)
        change = "half of per_device_train_batch_size and twice gradient_accumulation_steps"
        options[change] = shape, layout, half
    return options


def config_of(model: Any) -> Any:
    """Returns the config of the model to train, or of the base of an adapter.

    Raises:
        RecipeError: there is none.
    """
    from transformers import AutoConfig

    name = checkpoint(model.model_name_or_path)
    try:
        return AutoConfig.from_pretrained(
            name, revision=model.model_revision, local_files_only=local_only(name)
        )
    except (OSError, ValueError) as error:
        if out_of_reach(name):
            raise RecipeError(f"model_name_or_path {unreachable(name)}") from None
        raise RecipeError(
            f"model_name_or_path {name}: cannot load its config"
            f" ({str(error).splitlines()[0][:150]}); name a checkpoint folder, or a Hub id that this machine"
            " can reach"
        ) from None


def shape_of(model: Any, args: Any) -> ModelShape:
    """Returns the model's shape, from its config only, with the recipe's adapter.

    Raises:
        RecipeError: there is no config, or half-precision weights would be trained without masters.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM
    from trl import get_peft_config

    config = config_of(model)
    dtype = getattr(torch, model.dtype or "", None) or config.dtype or torch.float32
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if model.use_peft:
            adapter = get_peft_config(model)
            assert adapter is not None, "use_peft"
            shell = get_peft_model(shell, adapter)
    for trained in {p.dtype for p in shell.parameters() if p.requires_grad}:
        check_masters(trained, args)
    return ModelShape.of(shell, half=args.bf16 or args.fp16)


def changed(parts: Sequence[Any]) -> dict[str, Any]:
    """Returns the fields that differ from their defaults, as plain values."""
    differing: dict[str, Any] = {}
    for part in parts:
        for f in fields(part):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            value = getattr(part, f.name)
            if f.init and value != default and not f.name.endswith(SECRETS):
                differing[f.name] = json.loads(json.dumps(value, default=plain))
    return differing
