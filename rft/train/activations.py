"""What an update of a long batch keeps on the device, and what it computes again: the same numbers and
gradients from the same sums.

`tile_mlps`: every MLP processes its tokens in tiles, and recomputes each tile in the backward pass instead of
keeping it. The tensors that are as wide as the MLP (seven per layer, 19 GiB at 150,000 tokens of Qwen3-4B)
then exist for one tile at a time. This costs a third forward pass of the MLPs. `offload_checkpoints`: the
input that a checkpointed layer keeps for its backward pass is stored in pinned host memory. This costs one
copy out and one copy back per layer, on the compute stream. `keep_attention`: a checkpointed layer also keeps
the attention over long spans, which is most of what it would compute again.

The first two replace `forward` of module instances and call the `forward` of their class. So they work under
every wrapper (PEFT, DDP, ZeRO, FSDP2), and they stay in effect when checkpointing is switched off for a
rollout and on again.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rft.errors import RecipeError
from rft.plan.memory_estimate import KEPT_KEYS

_aten = torch.ops.aten
KEYS: dict[Any, Callable[[Any], int]] = {
    _aten._flash_attention_forward.default: lambda args: args[6],
    _aten._efficient_attention_forward.default: lambda args: args[7],
    _aten._scaled_dot_product_cudnn_attention.default: lambda args: args[1].shape[2],
    _aten._scaled_dot_product_flash_attention_for_cpu.default: lambda args: args[1].shape[2],
}
"""The attention operators of `prefix_tree.kernels`: from the arguments, the most keys of a span. That of
flash_attn is known by its name."""
PACKAGE = "flash_attn._flash_attn_varlen_forward"


def tile_mlps(model: nn.Module, tokens: int) -> None:
    """Makes every layer's MLP process `tokens` tokens at a time, in training and in rollouts.

    Raises:
        RecipeError: If the model's layers have no `mlp`.
    """
    mlps = [layer.mlp for layer in _layers(model) if isinstance(getattr(layer, "mlp", None), nn.Module)]
    if not mlps:
        raise RecipeError(
            f"mlp_tile_tokens: the layers of {type(model).__name__} have no `mlp` to tile; remove the field"
        )
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
    """The largest count of any rank if ZeRO-3 gathers the weights again for each tile, which all ranks must
    do together. In a rollout the weights stay gathered, and the counts may differ."""
    weight = next(mlp.parameters())
    gathered = getattr(getattr(weight, "ds_status", None), "name", "AVAILABLE") == "AVAILABLE"
    if not hasattr(weight, "ds_id") or (gathered and not torch.is_grad_enabled()):
        return count
    most = torch.tensor(count, device=weight.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def offload_checkpoints(model: nn.Module) -> None:
    """Makes every checkpointed layer keep its input in host memory, pinned if there is an accelerator."""
    for layer in _layers(model):
        layer.forward = MethodType(_offloaded, layer)


def _offloaded(layer: Any, *args: Any, **kwargs: Any) -> Any:
    whole = type(layer).forward
    if not (layer.gradient_checkpointing and layer.training):
        return whole(layer, *args, **kwargs)
    device = torch.accelerator.current_accelerator()
    with save_on_cpu() if device is None else save_on_cpu(pin_memory=True, device_type=device.type):
        # the checkpoint's own hooks apply inside it: only its input sees these
        return whole(layer, *args, **kwargs)


def keep_attention(model: nn.Module) -> None:
    """Makes every checkpointed layer keep its attention over spans of `KEPT_KEYS` keys or more."""
    base: Any = getattr(model, "get_base_model", lambda: model)()
    own = base._set_gradient_checkpointing

    def keeping(
        enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **kwargs: Any
    ) -> None:
        own(enable=enable, gradient_checkpointing_func=_keeping(gradient_checkpointing_func), **kwargs)

    base._set_gradient_checkpointing = keeping
    for module in base.modules():  # that are checkpointed already
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = _keeping(module._gradient_checkpointing_func)


def _keeping(function: Callable[..., Any]) -> Callable[..., Any]:
    return partial(function, use_reentrant=False, context_fn=_contexts)


def _contexts() -> tuple["_Keep", "_Reuse"]:
    """For the forward pass of a layer, and for its recomputation. torch's selective checkpointing expects the
    same operators in both, and ZeRO-3 gathers weights in one of them."""
    kept: deque[Any] = deque()
    return _Keep(kept), _Reuse(kept)


class _Keep(TorchDispatchMode):
    def __init__(self, kept: deque[Any]):
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **kwargs or {})
        if _is_long(operator, args):
            self.kept.append(result)
        return result


class _Reuse(_Keep):
    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.kept.popleft() if _is_long(operator, args) else operator(*args, **kwargs or {})


def _is_long(operator: Any, args: Any) -> bool:
    keys = KEYS.get(operator, (lambda args: args[6]) if str(operator).startswith(PACKAGE) else None)
    return keys is not None and keys(args) >= KEPT_KEYS


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
