"""Log-probs of padded rows, in the form in which TRL's trainers ask for them: their own method, replaced.

import rft
rft.enable_prefix_tree(trainer.model)
trainer._get_per_token_logps_and_entropies = partial(rft.padded_logps, temperature=trainer.temperature)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rft.errors import ModelError
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps


def padded_logps(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    batch_size: int | None = None,
    compute_entropy: bool = False,
    *,
    temperature: float = 1.0,
    **others: Any,
) -> tuple[Tensor, Tensor | None, None]:
    """Computes what `GRPOTrainer._get_per_token_logps_and_entropies` of TRL 1.16 computes; each token that
    rows share is forwarded once.

    Args:
        model: a causal language model after `enable_prefix_tree`, wrapped for training or not.
        input_ids: (B, L) prompts padded on the left and completions padded on the right.
        attention_mask: (B, L) 1 where a token counts.
        logits_to_keep: C, the columns of completions, the last ones.
        batch_size: rows that TRL would forward at a time; all rows are one tree, whatever it says.
        compute_entropy: whether to return entropies (nats).
        temperature: divisor of the logits; TRL's trainers have it as `trainer.temperature`.
        **others: what TRL passes for images and for mixtures of experts; None or False.

    Returns:
        Log-probs (B, C), entropies (B, C) or None, and None for a loss of experts. After the end of a
        completion both are 0. float32 (float64 for a float64 model).

    Raises:
        ModelError: as `tree_logps`, or if one of `others` is set.
    """
    for name, value in others.items():
        if value is not None and value is not False:
            raise ModelError(
                f"{name}: the prefix tree takes text models without experts; leave it to the trainer"
            )
    tree = Tree.from_padded(input_ids, attention_mask, logits_to_keep)
    return *tree_logps(model, tree, temperature, compute_entropy), None
