"""A Celery message as it lies in a queue's list on Redis."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """Its headers, its positional arguments, and the body of the chord it is a member of."""

    headers: dict[str, Any]
    args: list[Any]
    chord: dict[str, Any] | None

    @classmethod
    def read(cls, raw: bytes) -> Message:
        message = json.loads(raw)
        args, _, embed = json.loads(base64.b64decode(message["body"]))
        return cls(message["headers"], args, embed["chord"])
