"""The seam between the fleet and a vendor: what is asked, what comes back, and the protocol a provider keeps.

A provider authenticates and speaks a wire; it knows no job, no budget and no limit, and it never retries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fleet.prices import Usage
from fleet.tokens import estimate_tokens, request_upper_bound, tokens_of_image


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

    def input_estimate(self) -> int:
        """Estimated input tokens: instructions, prompt, schema and pictures."""
        return sum(map(estimate_tokens, self._texts())) + sum(tokens_of_image(image.data) for image in self.images)

    def upper_bound(self) -> int:
        """The most tokens the call can use, input and output: what to reserve for it."""
        return request_upper_bound(self._texts(), (image.data for image in self.images), self.max_output_tokens)

    def _texts(self) -> tuple[str, ...]:
        return (self.instructions, self.prompt, "" if self.schema is None else json.dumps(self.schema))


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
    request_id: str | None


class Provider(Protocol):
    """An account with a vendor."""

    async def complete(self, request: ModelRequest) -> Completion:
        """The answer of the model.

        Raises:
            ProviderError: there was none; the error says whether and when to ask again.
        """

    async def aclose(self) -> None:
        """Close the connections."""
