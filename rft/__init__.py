"""Reinforcement fine-tuning of language models for personalization over long chat histories.

Invariant: `import rft` imports the version and nothing else. A name of `__all__` is imported from its home
when it is first used, so it needs only the packages that its home needs.

    import rft

    split = rft.load_split("out/people", "benchmark")
    summary = rft.evaluate_model("recipes/quickstart/base", split, "out/evaluation", limit=40)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rft.version import __version__

if TYPE_CHECKING:
    from rft.errors import RftError
    from rft.evaluate.evaluate_model import evaluate_model
    from rft.memory.memory import Memory
    from rft.models.endpoint import Endpoint
    from rft.models.local import LocalModel
    from rft.prefix_tree.attention import enable as enable_prefix_tree
    from rft.prefix_tree.layout import Tree
    from rft.prefix_tree.logprobs import tree_logps
    from rft.prefix_tree.sample import sample
    from rft.prefix_tree.trl_logps import trl_logps
    from rft.tasks.chats.importing import import_chats
    from rft.tasks.check import check as check_data
    from rft.tasks.count import count_tokens
    from rft.tasks.load import load_split
    from rft.train.fine_tune import fine_tune

__all__ = [
    "Endpoint",
    "LocalModel",
    "Memory",
    "RftError",
    "Tree",
    "__version__",
    "check_data",
    "count_tokens",
    "enable_prefix_tree",
    "evaluate_model",
    "fine_tune",
    "import_chats",
    "load_split",
    "sample",
    "tree_logps",
    "trl_logps",
]

_HOMES = {
    "Endpoint": ("rft.models.endpoint", "Endpoint"),
    "LocalModel": ("rft.models.local", "LocalModel"),
    "Memory": ("rft.memory.memory", "Memory"),
    "RftError": ("rft.errors", "RftError"),
    "Tree": ("rft.prefix_tree.layout", "Tree"),
    "check_data": ("rft.tasks.check", "check"),
    "count_tokens": ("rft.tasks.count", "count_tokens"),
    "enable_prefix_tree": ("rft.prefix_tree.attention", "enable"),
    "evaluate_model": ("rft.evaluate.evaluate_model", "evaluate_model"),
    "fine_tune": ("rft.train.fine_tune", "fine_tune"),
    "import_chats": ("rft.tasks.chats.importing", "import_chats"),
    "load_split": ("rft.tasks.load", "load_split"),
    "sample": ("rft.prefix_tree.sample", "sample"),
    "tree_logps": ("rft.prefix_tree.logprobs", "tree_logps"),
    "trl_logps": ("rft.prefix_tree.trl_logps", "trl_logps"),
}
"""{name: its module, and its name there}; the same as the imports above, which type checkers read."""

if not TYPE_CHECKING:  # otherwise a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'rft' has no attribute {name!r}")
        module, there = _HOMES[name]
        globals()[name] = value = getattr(import_module(module), there)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
