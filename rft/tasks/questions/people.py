"""Which people are held out.

Invariant: a person is in one split only, and the splits depend only on (people, share, seed).
"""

from collections.abc import Collection
from random import Random

from rft.errors import DataError


def check_share(share: float, people: Collection[str]) -> None:
    """Checks the share of people to hold out, before anything is paid for.

    Raises:
        DataError: the share is impossible, or there is only one person.
    """
    if not 0 <= share < 1:
        raise DataError(f"--held-out-users {share:g}: expected a share from 0 to below 1, such as 0.1")
    if share and len(people) < 2:
        raise DataError(
            f"{next(iter(people))} is the only user, so nobody can be held out, and an evaluation would ask"
            " about the chats that a model was trained on; import chats of more users, or put all"
            " questions into train with --held-out-users 0"
        )


def split_people(people: Collection[str], share: float, seed: int) -> dict[str, str]:
    """Returns {person: split}. `share` of them, at least one, are in benchmark, half as many in val, and at
    least one in train; two people are train and benchmark, one is train."""
    order = sorted(people)
    Random(f"split-{seed}").shuffle(order)
    benchmark = min(max(1, round(share * len(order))), len(order) - 1) if share else 0
    val = min(max(1, round(share * len(order) / 2)), len(order) - benchmark - 1) if share else 0
    names = ["benchmark"] * benchmark + ["val"] * val + ["train"] * (len(order) - benchmark - val)
    return dict(zip(order, names, strict=True))
