"""The charge log: what the simulated vendor billed, a line per call, on disk before the answer is sent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType

from fleet.config import ModelConfig
from fleet.prices import Usage, cost_nano_usd


class ChargeLog:
    """Appends to a file of JSON lines; without a path it bills nobody.

    A line: `{call_id, model, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd, request_id,
    at}`, where `call_id` is the client's `X-Client-Request-Id` (null without one), `model` the name it asked for, and
    `at` seconds since 1970.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = None if path is None else path.open("a", encoding="utf-8")

    def bill(self, *, call_id: str | None, name: str, model: ModelConfig, usage: Usage, request_id: str) -> None:
        if self._file is None:
            return
        line = {
            "call_id": call_id,
            "model": name,
            **usage.model_dump(),
            "cost_nano_usd": cost_nano_usd(name, model, usage),
            "request_id": request_id,
            "at": round(time.time(), 6),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __enter__(self) -> ChargeLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
