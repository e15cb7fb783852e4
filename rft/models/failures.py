"""How a call to an endpoint fails: nothing can work (`EndpointError`), one call did not (`Unanswered`), and
why (`Trouble`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from reward.judge import CallFailed, Unreachable
from rft.errors import ServerError
from rft.models.reply import Words


class EndpointError(ServerError, Unreachable):
    """No call to this endpoint can succeed until the user fixes what the message says."""


class BudgetSpent(EndpointError):
    """The next call could cost more than the remaining budget."""


class Unanswered(CallFailed):
    """One call failed after all retries. `failures` is {kind: count}."""

    def __init__(self, message: str, failures: Mapping[str, int]):
        super().__init__(message)
        self.failures = dict(failures)


class TooLong(Unanswered):
    """The prompt is too long for the server."""


@dataclass(frozen=True)
class Trouble:
    """Why a call got no reply.

    Attributes:
        kind: one of the constants below, "timeout", "connection", "malformed", or an HTTP status.
        error: the error message of the server.
        wait: seconds that the server asks to wait (None: not given).
        billed: whether the call may be billed anyway.
        status: the HTTP status (0: none).
    """

    kind: str
    error: Words
    wait: float | None = None
    billed: bool = False
    status: int = 0


FILTERED, UNFINISHED, TOO_LONG, REFUSED = "filtered", "unfinished", "too long", "refused"
