"""Messages are read as kombu reads them."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
from kombu.exceptions import DecodeError
from kombu.serialization import dumps, loads
from kombu.utils import json as kombu_json

from queues import codec

VALUES = [
    [["j1/note/0"], {}, {"chord": {"options": {"queue": "ü"}}}],
    datetime.date(2026, 1, 2),
    {"id": uuid.UUID(int=7)},
]


@pytest.mark.parametrize("value", VALUES)
def test_what_kombu_wrote_is_read_back(value: Any) -> None:
    content_type, encoding, body = dumps(value, "json")
    for data in (body, body.encode(), memoryview(body.encode())):
        assert codec.loads(data) == kombu_json.loads(data) == value
        assert loads(data, content_type, encoding, accept={"application/json"}) == value


def test_what_is_no_json_is_kombus_error() -> None:
    for data in (b"{", b"\xff", "{"):
        with pytest.raises(DecodeError):
            loads(data, "application/json", "utf-8")
