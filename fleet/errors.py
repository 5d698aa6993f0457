"""Every error the fleet raises on purpose: one root, and each class says what its reader can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from queues.limits import Told


class FleetError(Exception):
    """Root of the fleet's own errors; its text is a sentence fit to show a user."""


class BadInputError(FleetError):
    """A file, key or value given by the user cannot be used; nothing was started and nothing was spent."""


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


class StoreUnavailableError(FleetError):
    """The store or the broker did not answer; what was accepted before is still there."""


class NotAcceptedError(StoreUnavailableError):
    """The store could not keep a job: surely nothing of it is there, and it may be submitted again."""


class PlanError(FleetError):
    """The flagship's plan could not be used, after its one repair round."""


class BudgetExceededError(FleetError):
    """The next call could cost more than the job's budget has left, and no running call could free some."""


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
