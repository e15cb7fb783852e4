"""A limit on what calls may cost.

Invariant: the money spent never exceeds the limit. Before a call the most that it can cost is reserved, and a
call is made only if that fits; what was spent is in a ledger on disk, so that a restarted run stays within
the same budget.
"""

import asyncio
import re
from pathlib import Path

from rft.models.failures import BudgetSpent


class Budget:
    """A budget in dollars, which several endpoints may share. Use it from one event loop at a time.

    Args:
        limit: maximum dollars to spend (None: no limit).
        ledger: file with one line per amount spent, so that a killed and restarted run stays within the same
            budget.
        option: the option that sets the limit, named in messages.
    """

    def __init__(self, limit: float | None = None, ledger: Path | None = None, option: str = "--budget"):
        self.limit, self.ledger, self.option = limit, ledger, option
        self.spent, self.set_aside = _spent_before(ledger), 0.0
        self._waiting: list[asyncio.Future[None]] = []

    async def reserve(self, cost: float) -> None:
        """Reserves `cost`; waits while other calls have reserved too much. Raises BudgetSpent if it does not
        fit."""
        while self.limit is not None and self.spent + self.set_aside + cost > self.limit:
            if not self.set_aside:
                raise BudgetSpent(
                    f"the budget of ${self.limit:g} does not allow another call: ${self.spent:.4f} is spent"
                    f" and the next call may cost ${cost:.4f}; raise {self.option} and run the same command"
                    " again to resume"
                )
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        self.set_aside += cost

    def settle(self, reserved: float, spent: float) -> None:
        """Releases the reservation of a call and records its actual cost."""
        left = self.set_aside - reserved
        self.set_aside = left if left > 1e-12 else 0.0  # rounding errors of float sums
        self.spent += spent
        if spent and self.ledger is not None:
            self.ledger.parent.mkdir(parents=True, exist_ok=True)
            with self.ledger.open("a", encoding="ascii") as file:
                file.write(f"{spent:.9f}\n")
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


def _spent_before(ledger: Path | None) -> float:
    if ledger is None or not ledger.exists():
        return 0.0
    lines = ledger.read_text(encoding="ascii", errors="replace").splitlines()
    return sum(
        float(line) for line in lines if re.fullmatch(r"\d+\.\d{9}", line)
    )  # skip an incomplete line: that run was killed while writing
