"""What the stops of the Python tour share: the server they talk to, and a text to talk about."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from openai import APIStatusError, OpenAI
from pydantic import BaseModel

T = TypeVar("T")
E = TypeVar("E", bound=APIStatusError)

#: Seconds that work in the background may take.
PATIENCE_S = 120.0
POLL_S = 0.1

FACTS = "Summarise: The pump in hall 3 leaks. It was repaired in May. Parts are on order."
#: A red square of 64 x 64 pixels.
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAS0lEQVR42u3PQQkAAAgAsetfWiP4FgYrsKZeS0BAQEBAQEBAQEBA"
    "QEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEDgsqnc8OJg6Ln3AAAAAElFTkSuQmCC"
)
PICTURE_BYTES = base64.b64decode(PICTURE.partition(",")[2])


@dataclass(frozen=True)
class Target:
    """A server, through a client that retries nothing: what goes wrong is to be seen."""

    client: OpenAI
    model: str


def until(look: Callable[[], T], done: Callable[[T], bool]) -> T:
    """Looks until it is done; what was seen last."""
    deadline = time.monotonic() + PATIENCE_S
    while not done(found := look()):
        assert time.monotonic() < deadline, f"after {PATIENCE_S:.0f} s it is still {found!r}"
        time.sleep(POLL_S)
    return found


def refused(kind: type[E], request: Callable[[], object]) -> E:
    """The error with which the client reports a refusal; it has to be of that kind."""
    try:
        answer = request()
    except kind as error:
        return error
    raise AssertionError(f"it was answered instead of refused with {kind.__name__}: {answer!r}")


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The strict JSON schema of a model without options and models in it."""
    return model.model_json_schema() | {"additionalProperties": False}
