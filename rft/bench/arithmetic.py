"""What work costs by arithmetic alone, and the ceiling that this sets for a speedup.

An update does matrix products three times (forward and twice backward) and attention three and a half times (its flash
backward computes the scores again). A rollout goes forward once over the prompts and once more a token; its tokens read the
weights and the keys and values before them, and where that decides, bytes are what is saved. If time is spent on operations
and bytes at any two rates, the same for both sides, no speedup can be above the larger of their two ratios.
"""

from collections.abc import Sequence
from typing import Any

from rft.bench.setting import Setting
from rft.prefix_tree.layout import Tree

WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes


def update_flops(setting: Setting, tree: Tree) -> float:
    """Floating-point operations of an update over a tree."""
    own = [node.end - node.start for node in tree.nodes]
    return _update(setting, sum(own), _pairs(tree), len(tree.labels_N))


def questions_flops(setting: Setting) -> float:
    """The same of a batch of questions over one history, without making it."""
    history, question, completion = setting.prompt_tokens, setting.question_tokens, setting.completion_tokens
    behind = setting.questions * question + setting.rows * completion
    pairs = history * (history + 1) // 2 + history * behind
    pairs += setting.questions * (question * (question + 1) // 2 + question * setting.generations * completion)
    pairs += setting.rows * (completion * (completion + 1) // 2)
    return _update(setting, history + behind, pairs, setting.rows * completion)


def rows_flops(setting: Setting, rows: Sequence[Sequence[int]], labels: int) -> float:
    """Floating-point operations of an update over rows by themselves, with `labels` scored positions in all."""
    return _update(setting, sum(map(len, rows)), sum(len(row) * (len(row) + 1) // 2 for row in rows), labels)


def rollout_ceiling(setting: Setting, tree: Tree, micro_batches: int) -> float:
    """The most that sampling can gain over generating row by row, in so many micro-batches. tree: of the prompts."""
    prompt, completion, rows = setting.prompt_tokens + setting.question_tokens, setting.completion_tokens, setting.rows
    steps = completion - 1  # forwards behind the prefill
    pairs = rows * (steps * prompt + steps * (steps + 1) // 2)
    stock = _forward(setting, rows * (prompt + steps), rows * prompt * (prompt + 1) // 2 + pairs, rows * completion)
    shared = _forward(setting, len(tree.tokens_T) + rows * steps, _pairs(tree) + pairs, rows * completion)
    kept = steps * (setting.prompt_tokens + setting.questions * setting.question_tokens) + rows * steps * (steps + 1) / 2
    row_bytes = micro_batches * (steps + 1) * weight_bytes(setting) + token_bytes(setting) * pairs
    shared_bytes = (steps + 1) * weight_bytes(setting) + token_bytes(setting) * kept
    return max(stock / shared, row_bytes / shared_bytes)


def decode_bytes(setting: Setting) -> float:
    """Bytes that a decode step reads through the tree, its suffixes half as long as they become."""
    shared = setting.prompt_tokens + setting.questions * setting.question_tokens
    return weight_bytes(setting) + token_bytes(setting) * (shared + setting.rows * setting.completion_tokens / 2)


def weight_bytes(setting: Setting) -> float:
    """Bytes of the weights, input and output embedding being one."""
    m = setting.shape
    return WIDTHS[setting.dtype] * (m["num_hidden_layers"] * _layer(m) + m["hidden_size"] * m["vocab_size"])


def token_bytes(setting: Setting) -> int:
    """Bytes of a token's keys and values."""
    m = setting.shape
    return 2 * m["num_hidden_layers"] * m["num_key_value_heads"] * m["head_dim"] * WIDTHS[setting.dtype]


def speedup(figures: dict[str, Any], name: str, slow: float, fast: float, ceiling: float) -> None:
    """Puts the ratio into `figures` under `name`, or, above its ceiling, None there and the ratio under "noise"."""
    ratio = slow / fast
    figures[name] = ratio if ratio <= ceiling else None
    if ratio > ceiling:
        figures.setdefault("noise", {})[name] = ratio


def peak_flops(card: str, dtype: str) -> float | None:
    """The card's peak as its maker gives it; None where it is not known, or TRL, whose table it is, not installed."""
    try:
        from trl.trainer.utils import get_peak_flops
    except ImportError:
        return None
    return get_peak_flops(card, dtype)


def _pairs(tree: Tree) -> int:
    """Attended (query, key) pairs."""
    own = [node.end - node.start for node in tree.nodes]
    return sum(n * (n + 1) // 2 + n * (node.stop - node.end) for n, node in zip(own, tree.nodes, strict=True))


def _layer(m: dict[str, Any]) -> int:
    """Weights of a layer."""
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
