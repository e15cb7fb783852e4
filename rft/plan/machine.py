"""The machine of a dry run: this one, or the one that `--dry_run_on` describes."""

from dataclasses import replace
from typing import Any

from rft.errors import RecipeError
from rft.plan.memory_estimate import GIB, Parallelism

LAYOUTS = {
    "one_gpu": Parallelism(),
    "ddp": Parallelism(),
    "fsdp2": Parallelism(fsdp=True),
    "zero2": Parallelism(zero=2),
    "zero3": Parallelism(zero=3),
    "zero3_offload": Parallelism(zero=3, offload=True),
}


def machine(args: Any) -> tuple[Parallelism, float]:
    """Returns the layout and the bytes per device to plan for: those of `dry_run_on`, or those of this
    process.

    Raises:
        RecipeError: `dry_run_on` does not have the form layout:processes:GiB.
    """
    import torch

    colocated = getattr(args, "use_vllm", False) and args.vllm_mode == "colocate"
    vllm = args.vllm_gpu_memory_utilization if colocated else 0.0
    if torch.cuda.is_available():
        here = float(torch.cuda.get_device_properties(0).total_memory)
    else:
        import psutil

        here = psutil.virtual_memory().total / args.world_size
    if args.dry_run_on:
        name, _, rest = args.dry_run_on.partition(":")
        count, _, gib = rest.partition(":")
        if (
            name not in LAYOUTS
            or not (count or "1").isdigit()
            or not (gib or "1").replace(".", "", 1).isdigit()
        ):
            raise RecipeError(
                f"dry_run_on {args.dry_run_on}: expected LAYOUT:PROCESSES:GIB such as zero3:8:80, with a"
                f" layout from {', '.join(LAYOUTS)}"
            )
        return replace(LAYOUTS[name], processes=int(count or 1), vllm=vllm), float(gib) * GIB if gib else here
    plugin = getattr(args, "deepspeed_plugin", None)
    layout = Parallelism(
        args.world_size,
        plugin.zero_stage if plugin else 0,
        "fsdp" in str(args.distributed_state.distributed_type).lower(),
        offload=plugin is not None and plugin.offload_optimizer_device not in (None, "none"),
        vllm=vllm,
    )
    return layout, here
