"""The charge log: what the simulated vendor billed, a line per call, on disk before the answer is sent."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from fleet.config import ModelConfig
from fleet.prices import Usage, cost_nano_usd


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log: what it says, where it begins and how many bytes it has, without its end."""

    name: str
    model: ModelConfig
    lane: str
    says: dict[str, Any]
    start: int
    length: int


class ChargeLog:
    """Appends to a file of JSON lines; without a path it bills nobody.

    A line: `{call_id, model, input_tokens, cached_tokens, output_tokens, reasoning_tokens, lane, cost_nano_usd, request_id,
    at}`, where `call_id` is the client's `X-Client-Request-Id` (null without one; of a line of a batch its `custom_id`),
    `model` the name it asked for, `lane` as what it was served, and `at` seconds since 1970.

    A call is billed in full when its answer begins, whatever becomes of the caller. Only a call in the background that
    is cancelled after that is billed for less: its line is amended in place, so that at any moment there is one line a
    call.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = None if path is None else path.open("ab")
        # A file opened for appending is appended to wherever one writes.
        self._amending = None if path is None else path.open("r+b", buffering=0)

    def bill(
        self,
        *,
        call_id: str | None,
        name: str,
        model: ModelConfig,
        usage: Usage,
        request_id: str,
        lane: str = "standard",
    ) -> Line | None:
        """Writes the line of a call; it can be amended."""
        if self._file is None:
            return None
        says = {
            "call_id": call_id,
            "model": name,
            **usage.model_dump(),
            "lane": lane,
            "cost_nano_usd": cost_nano_usd(name, model, usage, lane),
            "request_id": request_id,
            "at": round(time.time(), 6),
        }
        raw = json.dumps(says).encode()
        self._file.write(raw + b"\n")
        self._file.flush()
        return Line(name, model, lane, says, self._file.tell() - len(raw) - 1, len(raw))

    def amend(self, line: Line, usage: Usage) -> None:
        """Bills a call for less than its line says: same line, same length."""
        if self._amending is None:
            return
        says = {
            **line.says,
            **usage.model_dump(),
            "cost_nano_usd": cost_nano_usd(line.name, line.model, usage, line.lane),
        }
        raw = json.dumps(says).encode().ljust(line.length)
        if len(raw) > line.length:
            raise ValueError("A charge can only be amended to a smaller one.")
        os.pwrite(self._amending.fileno(), raw, line.start)

    def __enter__(self) -> ChargeLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for file in (self._file, self._amending):
            if file is not None:
                file.close()
