"""Two ways to hold less of a long batch on the device, both exact: the same numbers and gradients from the same sums.

`tile_mlps`: every MLP takes its tokens in tiles, and computes a tile again in the backward pass instead of keeping it: what is
as wide as the MLP (seven tensors of a layer, 19 GiB at 150,000 tokens of Qwen3-4B) then exists for one tile at a time. It costs
a third forward pass of the MLPs. `offload_checkpoints`: the input that a checkpointed layer keeps for its backward pass waits in
pinned host memory. It costs a copy out and one back a layer, on the stream that computes.

Both replace `forward` of module instances and call that of their class, so they need to know of no wrapper (PEFT, DDP, ZeRO,
FSDP2), and what switches checkpointing off for a rollout and on again does not undo them.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rft.errors import RecipeError


def tile_mlps(model: nn.Module, tokens: int) -> None:
    """Has every layer's MLP take `tokens` tokens at a time, in training and in rollouts.

    Raises:
        RecipeError: the model's layers have no `mlp`.
    """
    mlps = [layer.mlp for layer in _layers(model) if isinstance(getattr(layer, "mlp", None), nn.Module)]
    if not mlps:
        raise RecipeError(f"mlp_tile_tokens: the layers of {type(model).__name__} have no `mlp` to tile; remove the field")
    for mlp in mlps:
        mlp.tile_tokens = tokens  # type: ignore[assignment]
        mlp.forward = MethodType(_tiled, mlp)


def _tiled(mlp: Any, x_BLD: Tensor) -> Tensor:
    whole = type(mlp).forward
    count = _alike_on_ranks(mlp, -(-x_BLD.shape[:-1].numel() // mlp.tile_tokens))
    if count <= 1:
        return whole(mlp, x_BLD)
    again = torch.is_grad_enabled()
    tiles = [
        checkpoint(whole, mlp, x_ND, use_reentrant=False) if again else whole(mlp, x_ND)
        for x_ND in x_BLD.flatten(0, -2).tensor_split(count)
    ]
    return torch.cat(tiles).unflatten(0, x_BLD.shape[:-1])


def _alike_on_ranks(mlp: nn.Module, count: int) -> int:
    """The largest count of any rank if ZeRO-3 gathers the weights anew for each tile, which all ranks do together; in a rollout
    they stay gathered, and ranks need not agree."""
    weight = next(mlp.parameters())
    gathered = getattr(getattr(weight, "ds_status", None), "name", "AVAILABLE") == "AVAILABLE"
    if not hasattr(weight, "ds_id") or (gathered and not torch.is_grad_enabled()):
        return count
    most = torch.tensor(count, device=weight.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def offload_checkpoints(model: nn.Module) -> None:
    """Has every layer that is checkpointed keep its input in host memory, pinned if an accelerator computes."""
    for layer in _layers(model):
        layer.forward = MethodType(_offloaded, layer)


def _offloaded(layer: Any, *args: Any, **kwargs: Any) -> Any:
    whole = type(layer).forward
    if not (layer.gradient_checkpointing and layer.training):
        return whole(layer, *args, **kwargs)
    device = torch.accelerator.current_accelerator()
    with save_on_cpu() if device is None else save_on_cpu(pin_memory=True, device_type=device.type):
        return whole(layer, *args, **kwargs)  # inside the checkpoint its own hooks rule: only its input meets these


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
