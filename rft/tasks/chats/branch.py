"""Follows one branch of a conversation tree, from its last message back to its first."""

from collections.abc import Mapping, Set
from typing import Any

ROOT, MISSING, CYCLE = "root", "missing parent", "cycle"


def branch(
    leaf: str, parents: Mapping[str, Any], roots: Set[Any] = frozenset({None})
) -> tuple[list[str], str]:
    """Returns the ids from the first message to `leaf`, and how the way to the first message ended.

    Args:
        leaf: id of the last message.
        parents: for each message its parent's id.
        roots: values that stand for "no parent".

    Returns:
        The ids and ROOT; MISSING if a parent does not exist; CYCLE if a message is its own ancestor.
    """
    path, seen, at = [leaf], {leaf}, parents[leaf]
    while at not in roots:
        if at in seen:
            return path[::-1], CYCLE
        if at not in parents:
            return path[::-1], MISSING
        path.append(at)
        seen.add(at)
        at = parents[at]
    return path[::-1], ROOT
