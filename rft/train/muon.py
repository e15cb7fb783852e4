"""Muon for the matrices of the hidden layers and AdamW for the rest (embeddings, norms): one optimizer, one
learning rate.

Muon (Jordan et al. 2024) steps in the direction of a matrix's momentum with all singular values set to 1.
Scaled to the size of an AdamW step (Liu et al. 2025, arXiv 2502.16982), it needs no learning rate of its own.
Both implementations are torch's.

Invariant: the two parts and this optimizer share the same groups and states, so that a scheduler, a
checkpoint and a resume see one optimizer.
"""

import logging
from typing import Any

import torch
from torch.optim import AdamW, Muon
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from rft.errors import RecipeError

logger = logging.getLogger(__name__)


class MuonAdamW(torch.optim.Optimizer):
    """Muon and AdamW as one optimizer.

    Args:
        model: Muon gets its trainable matrices except the input and output embeddings; AdamW gets the rest.
        lr: Learning rate of all parameters.
        weight_decay: Weight decay of all matrices.
        betas: Betas of AdamW.
        eps: Epsilon of AdamW.
    """

    def __init__(
        self, model: torch.nn.Module, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
    ):
        embeddings = {
            id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()
        }
        head = getattr(model, "get_output_embeddings", lambda: None)()
        embeddings |= {id(p) for p in head.parameters()} if head is not None else set()
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in embeddings]
        embedded = [p for p in trained if p.ndim == 2 and id(p) in embeddings]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim != 2], "weight_decay": 0.0},
            {"params": embedded, "weight_decay": weight_decay},
        ]
        self.parts = [
            Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps),
        ]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        self.parts[0].param_groups, self.parts[1].param_groups = self.param_groups[:1], self.param_groups[1:]
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Performs one step of both parts. Closures are not supported."""
        assert closure is None
        for part in self.parts:
            part.step()


class MuonMixin(Trainer):
    """Mixin that makes MuonAdamW the optimizer of a trainer if its recipe sets `muon: true`.

    List it before the transformers or TRL trainer.

    Raises:
        RecipeError: If `muon: true` is set under DeepSpeed or FSDP.
    """

    args: Any  # a RunConfig

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not self.args.muon:
            return
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise RecipeError(
                "muon: true: Muon needs complete matrices, but DeepSpeed and FSDP shard them; remove the"
                " field"
            )
        if self.args.optim != TrainingArguments.optim:
            logger.warning("optim %s is ignored: muon is true", OptimizerNames(self.args.optim).value)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Creates a MuonAdamW if `muon: true` is set, otherwise the optimizer of the trainer."""
        if not self.args.muon:
            return super().create_optimizer(model)
        if self.optimizer is None:
            args, trained = self.args, model or self.model
            assert trained is not None
            self.optimizer = MuonAdamW(
                trained,
                args.learning_rate,
                args.weight_decay,
                (args.adam_beta1, args.adam_beta2),
                args.adam_epsilon,
            )
        return self.optimizer
