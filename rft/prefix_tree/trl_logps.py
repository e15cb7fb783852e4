"""Log-probs of padded rows over a tree, in the form in which TRL's GRPOTrainer asks for them.

    import rft
    rft.enable_prefix_tree(trainer.model)
    trainer._get_per_token_logps_and_entropies = rft.trl_logps(trainer.temperature)

Invariant: the numbers are TRL's; each token that rows share is forwarded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from rft.errors import ModelError
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps

Logps = Callable[..., tuple[Tensor, Tensor | None, None]]


def trl_logps(temperature: float = 1.0) -> Logps:
    """Returns a function that takes the place of a trainer's `_get_per_token_logps_and_entropies` (TRL 1.16).

    It takes `(model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False)`: a
    model after `enable_prefix_tree`, wrapped for training or not, and rows (B, L) with prompts padded on the
    left and completions padded on the right, in the last `logits_to_keep` columns (C). All rows are one tree,
    whatever `batch_size` is.

    It returns log-probs (B, C), entropies (B, C) in nats or None, and None for a loss of experts. Both tables
    are 0 after the end of a completion, in float32 (float64 for a float64 model). It raises ModelError as
    `tree_logps` does, and for images and mixtures of experts.

    Args:
        temperature: divisor of the logits; TRL's trainers have it as `trainer.temperature`.
    """

    def logps(
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        for name, value in others.items():
            if value is not None and value is not False:
                raise ModelError(
                    f"{name}: the prefix tree takes text models without experts; keep TRL's own method"
                )
        tree = Tree.from_padded(input_ids, attention_mask, logits_to_keep)
        return *tree_logps(model, tree, temperature, compute_entropy), None

    return logps
