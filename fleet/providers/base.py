"""The seam between the fleet and a vendor: what is asked, what comes back, and the protocol a provider keeps.

A provider authenticates and speaks a wire; it passes on what its vendor says of limits and keeps none, knows no job and no
budget, and it never retries.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fleet.conversation import Conversation
from fleet.errors import ProviderError
from fleet.prices import Usage
from fleet.tokens import estimate_tokens, image_size, picture_tokens, request_upper_bound
from queues.limits import Told

#: Longest of what a vendor calls its model or the call; it is the vendor who says it, and the ledger keeps it.
MAX_NAME = 200
#: The service tier of calls that are served at once and at the standard price. Of the others that the vendor's API takes, `auto`
#: is what its account is set to (as is saying nothing), `flex` is cheaper, `priority` dearer, and `scale` bought beforehand.
DEFAULT_TIER = "default"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture sent along with a prompt: its media type (`image/png`) and its bytes."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call to a model."""

    #: Our own id of the call; sent along, so that a vendor's record can be matched with the ledger.
    call_id: str
    model: str
    prompt: str
    instructions: str = ""
    images: tuple[Image, ...] = ()
    #: JSON schema the answer has to match (structured output); `None` for free text.
    schema: Mapping[str, Any] | None = None
    schema_name: str = "output"
    max_output_tokens: int = 4096
    reasoning_effort: str | None = None
    timeout_s: float = 120.0
    #: `flex`, or `default`: served, and billed, as the standard whatever the vendor's account is set to for calls that do not
    #: say; heeded by providers that say it, else without effect.
    service_tier: str | None = None
    #: What calls with the same beginning have in common; sent to vendors that route by it.
    cache_key: str | None = None
    #: Asked instead of prompt, instructions, images and schema: a whole conversation, passed on as it is.
    conversation: Conversation | None = None
    #: Run it in the background at the vendor, so that another process can collect the answer; heeded by providers that
    #: reattach, else without effect.
    background: bool = False

    def input_estimate(self) -> int:
        """Estimated input tokens: instructions, prompt, schema and pictures, or the conversation."""
        if self.conversation is not None:
            return self.conversation.input_estimate(self.model)
        pictures = sum(picture_tokens(self.model, image_size(image.data)) for image in self.images)
        return sum(map(estimate_tokens, self._texts())) + pictures

    def upper_bound(self) -> int:
        """The most tokens the call can use, input and output: what to reserve for it."""
        if self.conversation is not None:
            return self.conversation.input_bound(self.model) + self.max_output_tokens
        pictures = (image.data for image in self.images)
        return request_upper_bound(self._texts(), pictures, self.max_output_tokens, self.model)

    @property
    def pictures(self) -> int:
        """How many pictures are sent along."""
        return len(self.images) if self.conversation is None else self.conversation.pictures

    def _texts(self) -> tuple[str, ...]:
        return (self.instructions, self.prompt, "" if self.schema is None else json.dumps(self.schema))


def ask(prompt: str, **fields: Any) -> ModelRequest:
    """A request whose model, call id and timeout the executor fills in."""
    return ModelRequest(call_id="", model="", prompt=prompt, **fields)


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer, with what it used."""

    text: str
    #: `stop` is a whole answer; the others are outcomes of their own, not answers.
    finish: Literal["stop", "length", "refusal", "empty"]
    usage: Usage
    #: Whether the vendor reported `usage`; otherwise it is estimated from the bytes.
    usage_reported: bool
    #: The model that answered, as the vendor names it.
    model: str
    #: The vendor's id of the call; of a call in the background its handle.
    request_id: str | None
    #: The service tier that the vendor says it answered with.
    service_tier: str | None = None
    #: What the vendor said of its limits.
    told: Told | None = None
    #: The answer to a conversation as the vendor gave it, and its word for why it ended.
    message: Mapping[str, Any] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BatchStanding:
    """Where a batch stands at the vendor."""

    #: The vendor's id of it.
    handle: str
    #: Its answers can be read: those of all lines, or of as many as were run before it was cancelled or expired.
    ended: bool
    #: Nothing of it was run, as the account has too much in batches that have not ended.
    full: bool = False
    #: It was cancelled before all lines were run.
    cancelled: bool = False
    #: The vendor's ids of the files it was sent and has written.
    files: tuple[str, ...] = ()
    #: The files with answers and errors.
    answers: tuple[str, ...] = ()
    #: Lines that were answered, as the vendor counts them.
    answered: int = 0


class BatchProvider(Protocol):
    """What an account can do with batches: calls in a file, answered within a day, at a lower price.

    The vendor's batches, not those that callers of the fleet's own API send. Every method takes a bounded time and never
    retries; each raises ProviderError as `Provider.complete` does.
    """

    def line(self, request: ModelRequest) -> tuple[str, bytes]:
        """A call as a line of a batch, without its end, and the route it asks: lines of one batch ask the same. Its name in the
        answers is `request.call_id`."""

    async def upload(self, lines: bytes) -> str:
        """Send a file of lines; the vendor's id of it. Nothing is run or billed by that."""

    async def begin(self, file: str, route: str, mark: str) -> BatchStanding:
        """Have the lines of a file run, in a batch that bears our `mark`.

        After an error that may have come behind the beginning (`maybe_billed`), look for the mark before another is begun.
        """

    async def find(self, mark: str, since: float) -> BatchStanding | None:
        """The oldest batch that bears a mark, of those begun after `since` (Unix seconds) and not found to be no good."""

    async def look(self, handle: str) -> BatchStanding:
        """Where a batch stands."""

    async def cancel(self, handle: str) -> None:
        """Ask the vendor to start no more lines of a batch; one that has ended stays as it is."""

    async def answers(self, standing: BatchStanding, route: str) -> dict[str, Completion | ProviderError]:
        """What became of the lines of a batch that has ended, by call id; one that is not in it was not run."""

    async def forget(self, standing: BatchStanding) -> None:
        """Delete the files of a batch at the vendor; best effort: it raises no ProviderError."""


#: Told the handle of a call that has begun in the background.
Started = Callable[[str], Awaitable[None]]


class Provider(Protocol):
    """An account with a vendor."""

    @property
    def reattaches(self) -> bool:
        """Whether a call can run in the background here and be asked for later, by whoever holds its handle."""

    @property
    def says_default(self) -> bool:
        """Whether the vendor is told of calls with the service tier `default` that they are to be served so."""

    @property
    def batches(self) -> BatchProvider | None:
        """The account's batches, None where it has none."""

    async def complete(self, request: ModelRequest, started: Started | None = None) -> Completion:
        """The answer of the model.

        With `request.background`, where the provider reattaches, the call runs at the vendor whatever becomes of this
        process: `started` is awaited with its handle as soon as that is known and before anything else, and what it
        raises passes through. An error after that is of that one call, which still runs at the vendor if the error's
        kind is `timeout`, and may have ended there if it is `unreachable`: collect or cancel it before paying for another.

        Raises:
            ProviderError: there was none; the error says whether and when to ask again.
        """

    async def collect(self, handle: str, request: ModelRequest) -> Completion:
        """The answer of a call that was begun in the background, waited for up to `request.timeout_s` from now.

        It pays for nothing. Of `request` only what names and bounds the call is used, and its texts where the vendor
        reports no usage.

        Raises:
            ProviderError: as `complete` after `started`; kind `not_found` if the vendor no longer knows the handle
                (it may have been billed, and asking again is no use).
        """

    async def cancel(self, handle: str) -> None:
        """Ask the vendor to stop a call in the background; best effort: it raises no ProviderError.

        One that has ended, or that the vendor does not know, is left as it is. What was generated may be billed.
        """

    async def aclose(self) -> None:
        """Close the connections."""
