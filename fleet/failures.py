"""What a call without an answer says of its vendor, its account and itself, and how long to wait before it is made again.

Pure. What is done about it is the executor's.
"""

from __future__ import annotations

import random

from fleet.errors import ProviderErrorKind
from queues.limits import End

#: What ails the account and not the call: every other call would fail of it, too.
OF_THE_ACCOUNT = ("quota", "auth")
#: What says nothing of the call that met it; any other error may be the call's own fault, or have been billed.
NOT_THE_CALL = ("connection", "overloaded")
#: What a vendor with an outage does.
BROKEN = ("overloaded", "server", "timeout", "connection", "malformed")
BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0


def end_of(kind: ProviderErrorKind) -> End:
    """How the permit of a call ended that failed so. A vendor that has no room for flex answers, and limits nothing else."""
    if kind == "rate_limit":
        return "refused"
    return "broken" if kind in BROKEN else "ended"


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures: exponential with full jitter."""
    longest: float = min(MAX_BACKOFF_S, BACKOFF_S * 2**failures)
    return longest * random.uniform(0.1, 1.0)  # noqa: S311  no secret
