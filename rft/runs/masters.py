"""Float32 master weights for training in half precision.

Invariant: no weight is trained in half precision only. A bfloat16 number has eight significant bits, so a
step of less than 1/512 of a weight is rounded away: at the learning rates of fine-tuning (1e-6 to 1e-5)
nearly all steps are. The trained weights are therefore float32 (the masters), and autocast computes in half
precision from them; DeepSpeed keeps its own masters. A checkpoint contains the masters; the final folder has
the dtype that the model was loaded in.
"""

import logging
from typing import Any

import torch
from peft import PeftModel
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer, TrainingArguments

from rft.errors import RecipeError

logger = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)


def sharding_precision(dtype: torch.dtype) -> MixedPrecisionPolicy:
    """Returns FSDP2's precision: float32 shards, gathered and computed with in `dtype`.

    Gradients are summed over the processes in float32, and the model's outputs keep their dtype. accelerate
    would round both, and with them the log-probs.
    """
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)


def check_masters(trained: torch.dtype, args: TrainingArguments) -> None:
    """Checks that weights of this dtype are not trained without masters.

    Raises:
        RecipeError: If they are.
    """
    if trained in HALF and not (args.bf16 or args.fp16):
        name = str(trained).removeprefix("torch.")
        raise RecipeError(
            f"dtype {name} with bf16: false would train {name} weights without masters: most steps of"
            f" learning_rate {args.learning_rate:g} are rounded away; set bf16: true (float32 masters,"
            " bfloat16 compute), or dtype: float32"
        )


class MastersMixin(Trainer):
    """Mixin before a TRL trainer: the trained weights of its model are float32.

    Raises:
        RecipeError: If they are in half precision and neither bf16 nor fp16 is on.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        model: Any = self.model
        self.loaded_dtype: torch.dtype = model.dtype
        for trained in sorted({p.dtype for p in model.parameters() if p.requires_grad}, key=str):
            check_masters(trained, self.args)
        computes_in_half = self.args.bf16 or self.args.fp16
        if computes_in_half and self.is_deepspeed_enabled and self.loaded_dtype == torch.float32:
            half = "bfloat16" if self.args.bf16 else "float16"
            if self.accelerator.is_main_process:
                logger.warning(
                    "dtype float32 with DeepSpeed and bf16 or fp16: the final folder has the %s weights that "
                    "DeepSpeed computes with; the float32 masters stay in checkpoint-N",
                    half,
                )
        if computes_in_half and not self.is_deepspeed_enabled:
            make_masters(model)
            spare_input_casts(model)

    def create_accelerator_and_postprocess(self) -> None:
        """Sets `sharding_precision` under FSDP2."""
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version == 2 and self.accelerator.mixed_precision != "no":
            plugin.mixed_precision_policy = sharding_precision(
                torch.bfloat16 if self.args.bf16 else torch.float16
            )

    def give_up_masters(self) -> None:
        """Casts the weights to the dtype that the model was loaded in, at the end of training. Adapters stay
        float32."""
        bare: Any = self.accelerator.unwrap_model(self.model)
        if not self.is_deepspeed_enabled and not isinstance(bare, PeftModel):
            bare.to(self.loaded_dtype)


def make_masters(model: torch.nn.Module) -> None:
    """Casts trained weights in half precision to float32, in place; frozen ones stay as they are."""
    for p in model.parameters():
        if p.requires_grad and p.dtype in HALF:
            p.data = p.data.float()


def spare_input_casts(model: torch.nn.Module) -> None:
    """Stops LoRA layers from casting their input.

    PEFT casts it to the adapter's float32 and autocast casts it back. The numbers are the same without the
    cast, and each layer no longer keeps a copy of its input for the backward pass.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
