"""Every error the fleet raises on purpose: one root, and each class says what its reader can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from queues.limits import Told


class FleetError(Exception):
    """Root of the fleet's own errors; its text is a sentence fit to show a user."""

    #: Whether the text may quote what a user or a model wrote: then it is for that user, and for no log.
    quotes: ClassVar[bool] = False


class BadInputError(FleetError):
    """A file, key or value given by the user cannot be used; nothing was started and nothing was spent."""

    quotes = True


class JobNotFoundError(BadInputError):
    """No job has the given id in this store."""


class TenantLimitError(FleetError):
    """A tenant has under way, has sent or has spent all that it may.

    Args:
        retry_after_s: seconds until there may be room again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class KeyReusedError(BadInputError):
    """An idempotency key stands for something else already; nothing was started."""


class AddressRefusedError(BadInputError):
    """An address that a user named is none the fleet asks: no usable URL, or one that leads into its own network."""


class OutsideError(FleetError):
    """What a user named was not reached, or did not answer in time or as it should; it may later."""


class MessageRefusedError(FleetError):
    """A message of the broker holds no job of a producer of ours; the text has nothing of the message in it."""


class StoreUnavailableError(FleetError):
    """The store or the broker did not answer; what was accepted before is still there."""


class NotAcceptedError(StoreUnavailableError):
    """The store could not keep a job: surely nothing of it is there, and it may be submitted again."""


class PlanError(FleetError):
    """The flagship's plan could not be used, after its one repair round."""

    quotes = True


class BudgetExceededError(FleetError):
    """The next call could cost more than the job's budget has left, and no running call could free some."""


class ApiError(FleetError):
    """The fleet's API did not do what a client asked for; the text is what it said, `status` its HTTP status.

    What has a class of its own in the fleet is raised as that over HTTP too: JobNotFoundError (404), KeyReusedError (409),
    BadInputError (400, 413, 422), TenantLimitError (429), StoreUnavailableError (503, 507).
    """

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class NotAllowedError(ApiError):
    """The key is none of the fleet's (401), or may not do this (403)."""


class ApiUnreachableError(ApiError):
    """No answer came, so `status` is None: whether what was asked for was done is not known."""

    def __init__(self, message: str) -> None:
        super().__init__(message, None)


class NotEndedError(FleetError, TimeoutError):
    """A job did not end in the time that was given for it; it goes on."""


@dataclass(frozen=True, slots=True)
class MapFailure:
    """An item of a `map` without a result: its place, from 0, and why."""

    index: int
    reason: str


class MapError(FleetError):
    """Some items of a `map` have no result. Nothing is lost: the others are in here, and the job keeps all it has.

    Args:
        message: what happened to the job as a whole.
        job_id: the job; one that has ended can be asked for what failed again, with `client.job(job_id).retry()`.
        results: by item, the model, or None.
        failures: the items without one, in order.
    """

    def __init__(self, message: str, *, job_id: str, results: Sequence[Any], failures: Sequence[MapFailure]) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.results = list(results)
        self.failures = list(failures)


ProviderErrorKind = Literal[
    "rate_limit",
    "quota",
    "overloaded",
    "server",
    "timeout",
    "unreachable",
    "connection",
    "auth",
    "forbidden",
    "bad_request",
    "not_found",
    "malformed",
    "cancelled",
]

#: What ails the account and not the call: every other call would fail of it, too.
OF_THE_ACCOUNT: tuple[ProviderErrorKind, ...] = ("quota", "auth")
#: What says nothing of the call that met it; any other error may be the call's own fault, or have been billed.
NOT_THE_CALL: tuple[ProviderErrorKind, ...] = ("connection", "overloaded")
#: What a vendor with an outage does.
BROKEN: tuple[ProviderErrorKind, ...] = ("overloaded", "server", "timeout", "connection", "malformed")


class ProviderError(FleetError):
    """A model call that gave no answer; it carries its own decision, so nobody parses messages.

    Args:
        message: a sentence without prompt, output or key in it.
        kind: what happened, in a closed set.
        retryable: whether the same call may succeed later.
        retry_after: seconds to wait before that, when the provider said so.
        maybe_billed: whether the provider may have charged for the call (it was sent and its end is unknown).
        request_id: the provider's own id of the call, when it gave one.
        told: what the provider said of its limits.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: ProviderErrorKind,
        retryable: bool,
        retry_after: float | None = None,
        maybe_billed: bool = False,
        request_id: str | None = None,
        told: Told | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ProviderErrorKind = kind
        self.retryable = retryable
        self.retry_after = retry_after
        self.maybe_billed = maybe_billed
        self.request_id = request_id
        self.told = told
