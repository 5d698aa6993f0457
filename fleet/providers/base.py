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
from fleet.prices import Usage
from fleet.tokens import estimate_tokens, request_upper_bound, tokens_of_image
from queues.limits import Told

#: Longest of what a vendor calls its model or the call; it is the vendor who says it, and the ledger keeps it.
MAX_NAME = 200


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
    #: Asked instead of prompt, instructions, images and schema: a whole conversation, passed on as it is.
    conversation: Conversation | None = None
    #: Run it in the background at the vendor, so that another process can collect the answer; heeded by providers that
    #: reattach, else without effect.
    background: bool = False

    def input_estimate(self) -> int:
        """Estimated input tokens: instructions, prompt, schema and pictures, or the conversation."""
        if self.conversation is not None:
            return self.conversation.input_estimate()
        return sum(map(estimate_tokens, self._texts())) + sum(tokens_of_image(image.data) for image in self.images)

    def upper_bound(self) -> int:
        """The most tokens the call can use, input and output: what to reserve for it."""
        if self.conversation is not None:
            return self.conversation.input_bound() + self.max_output_tokens
        return request_upper_bound(self._texts(), (image.data for image in self.images), self.max_output_tokens)

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
    #: What the vendor said of its limits.
    told: Told | None = None
    #: The answer to a conversation as the vendor gave it, and its word for why it ended.
    message: Mapping[str, Any] | None = None
    reason: str | None = None


#: Told the handle of a call that has begun in the background.
Started = Callable[[str], Awaitable[None]]


class Provider(Protocol):
    """An account with a vendor."""

    @property
    def reattaches(self) -> bool:
        """Whether a call can run in the background here and be asked for later, by whoever holds its handle."""

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
