"""Arithmetic cost of the work, and the ceiling that it sets for a speedup.

An update computes matrix products three times (once forward, twice backward) and attention three and a half
times (the flash backward recomputes the scores). A rollout runs forward once over the prompts and once more
per token. Each token reads the weights and all earlier keys and values; if that is the bottleneck, the saving
is in bytes. If operations and bytes each cost time at a fixed rate, the same for both sides, no speedup can
be above the larger of the two ratios.
"""

from collections.abc import Sequence
from typing import Any

from rft.bench.setting import Setting
from rft.prefix_tree.layout import Tree

WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes


def update_flops(setting: Setting, tree: Tree) -> float:
    """Returns the floating-point operations of an update over a tree."""
    return _update(setting, len(tree.tokens_T), _pairs(tree), len(tree.labels_N))


def questions_flops(setting: Setting) -> float:
    """Returns the floating-point operations for a batch of questions over one history, without building the
    batch."""
    history, question, completion = setting.prompt_tokens, setting.question_tokens, setting.completion_tokens
    pairs = causal_pairs(history) + history * (setting.tokens - history)
    pairs += setting.questions * (causal_pairs(question) + question * setting.generations * completion)
    pairs += setting.rows * causal_pairs(completion)
    return _update(setting, setting.tokens, pairs, setting.rows * completion)


def rows_flops(setting: Setting, rows: Sequence[Sequence[int]], labels: int) -> float:
    """Returns the floating-point operations of an update over separate rows, with `labels` scored positions
    in total."""
    return _update(setting, sum(map(len, rows)), sum(causal_pairs(len(row)) for row in rows), labels)


def rollout_ceiling(setting: Setting, tree: Tree, micro_batches: int) -> float:
    """Returns the highest possible speedup of sampling over generating separate rows.

    Args:
        setting: the model and the batch.
        tree: the tree of the prompts.
        micro_batches: number of micro-batches in which the separate rows are generated.
    """
    prompt, rows = setting.prompt_tokens + setting.question_tokens, setting.rows
    labels = rows * setting.completion_tokens
    steps = setting.completion_tokens - 1  # forward passes after the prefill
    pairs = rows * (steps * prompt + causal_pairs(steps))
    stock = _forward(setting, rows * (prompt + steps), rows * causal_pairs(prompt) + pairs, labels)
    shared = _forward(setting, len(tree.tokens_T) + rows * steps, _pairs(tree) + pairs, labels)
    cache_reads = (
        steps * (setting.prompt_tokens + setting.questions * setting.question_tokens)
        + rows * steps * (steps + 1) / 2
    )
    row_bytes = micro_batches * (steps + 1) * weight_bytes(setting) + token_bytes(setting) * pairs
    shared_bytes = (steps + 1) * weight_bytes(setting) + token_bytes(setting) * cache_reads
    return max(stock / shared, row_bytes / shared_bytes)


def decode_bytes(setting: Setting) -> float:
    """Returns the bytes that a decode step reads through the tree when its suffixes have half their final
    length."""
    shared = setting.prompt_tokens + setting.questions * setting.question_tokens
    return weight_bytes(setting) + token_bytes(setting) * (
        shared + setting.rows * setting.completion_tokens / 2
    )


def weight_bytes(setting: Setting) -> float:
    """Returns the bytes of the weights, with tied input and output embeddings."""
    m = setting.shape
    return WIDTHS[setting.dtype] * (m["num_hidden_layers"] * _layer(m) + m["hidden_size"] * m["vocab_size"])


def token_bytes(setting: Setting) -> int:
    """Returns the bytes of the keys and values of one token."""
    m = setting.shape
    return 2 * m["num_hidden_layers"] * m["num_key_value_heads"] * m["head_dim"] * WIDTHS[setting.dtype]


def causal_pairs(tokens: int) -> int:
    """Returns the number of (query, key) pairs if so many tokens attend themselves causally."""
    return tokens * (tokens + 1) // 2


def speedup(figures: dict[str, Any], name: str, path: str) -> None:
    """Stores under `name` how many times longer `path` takes than the tree, and under `name`_cpu the ratio of
    their CPU seconds, if these were measured. Above the ceiling, stores None there and the ratio under
    "noise"."""
    for kind in ("", "_cpu"):
        if f"{path}{kind}_seconds" in figures:
            ratio = figures[f"{path}{kind}_seconds"] / figures[f"tree{kind}_seconds"]
            counts = ratio <= figures["ceiling"]
            figures[name + kind] = ratio if counts else None
            if not counts:
                figures.setdefault("noise", {})[name + kind] = ratio


def peak_flops(card: str, dtype: str) -> float | None:
    """Returns the card's peak as its vendor states it. None if it is unknown, or if TRL, which has the table,
    is missing."""
    try:
        from trl.trainer.utils import get_peak_flops
    except ImportError:
        return None
    return get_peak_flops(card, dtype)


def _pairs(tree: Tree) -> int:
    """Returns the number of attended (query, key) pairs."""
    own = [node.end - node.start for node in tree.nodes]
    return sum(causal_pairs(n) + n * (node.stop - node.end) for n, node in zip(own, tree.nodes, strict=True))


def _layer(m: dict[str, Any]) -> int:
    """Returns the number of weights per layer."""
    heads, keys = m["num_attention_heads"] * m["head_dim"], m["num_key_value_heads"] * m["head_dim"]
    return m["hidden_size"] * (2 * heads + 2 * keys + 3 * m["intermediate_size"])


def _products(setting: Setting, tokens: int, labels: int) -> float:
    m = setting.shape
    return 2.0 * (m["num_hidden_layers"] * _layer(m) * tokens + m["hidden_size"] * m["vocab_size"] * labels)


def _attention(setting: Setting, pairs: int) -> float:
    m = setting.shape
    return 4.0 * m["num_hidden_layers"] * m["num_attention_heads"] * m["head_dim"] * pairs


def _forward(setting: Setting, tokens: int, pairs: int, labels: int) -> float:
    return _products(setting, tokens, labels) + _attention(setting, pairs)


def _update(setting: Setting, tokens: int, pairs: int, labels: int) -> float:
    return 3 * _products(setting, tokens, labels) + 3.5 * _attention(setting, pairs)
