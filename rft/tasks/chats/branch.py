"""Follows one branch of a conversation tree, from its last message back to its first."""

from collections.abc import Mapping, Set
from typing import Any

from rft.tasks.chats.draft import Draft, shown


def branch(
    leaf: str,
    parents: Mapping[str, Any],
    messages: Set[str],
    draft: Draft,
    roots: Set[Any] = frozenset({None}),
) -> list[str]:
    """Returns the ids from the first node to `leaf`; [] if they have no order.

    If a parent does not exist, the branch begins behind the gap. The draft counts the messages that are left
    out, and says what is wrong.

    Args:
        leaf: id of the last node.
        parents: for each node its parent's id.
        messages: ids of the nodes that are messages.
        draft: the conversation.
        roots: values that stand for "no parent".
    """
    path, seen, at = [leaf], {leaf}, parents[leaf]
    while at in parents and at not in roots and at not in seen:
        path.append(at)
        seen.add(at)
        at = parents[at]
    whole = at in roots
    if not whole and at in seen:
        draft.problem("its messages form a cycle, so they have no order")
        draft.drop("broken branch", len(messages))
        return []
    if not whole:
        draft.problem(f"the parent of {shown(path[-1])} does not exist; the messages after it are taken")
    draft.drop("other branch" if whole else "broken branch", len(messages - seen))
    return path[::-1]
