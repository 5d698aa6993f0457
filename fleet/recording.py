"""Whether this process records its spans: if `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector. Else OpenTelemetry is not imported,
and no span is made.

It owns the beginning and the end of the recording of one process; what a span is, `fleet.traces` knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fleet import traces
from fleet.config import Environment
from fleet.errors import BadInputError

if TYPE_CHECKING:
    from fleet.otlp import Exporter


class Recording:
    """The recording of one process, from when it is made to `end`."""

    def __init__(self, environment: Environment, process: str) -> None:
        """`process`: `api`, `coordinator`, `worker-nano`; the collector shows it as `tierfleet-PROCESS`.

        Raises:
            BadInputError: OpenTelemetry's variables cannot be used.
        """
        self._exporter: Exporter | None = None
        if environment.traced:
            # A third of a second that nobody else should pay for.
            from fleet.otlp import Exporter  # noqa: PLC0415

            try:
                self._exporter = Exporter(f"tierfleet-{process}")
            except ValueError as error:
                raise BadInputError(f"A variable that begins with OTEL_ cannot be used: {error}") from error
            traces.record_with(self._exporter.record, content=environment.fleet_trace_content == "1")

    async def end(self) -> None:
        """Record no more, and send what is left, for some seconds at most; the loop goes on meanwhile."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            traces.record_with(None)
            await asyncio.to_thread(exporter.close)


@contextlib.asynccontextmanager
async def recording(environment: Environment, process: str) -> AsyncIterator[None]:
    """Record while the block runs."""
    recorded = Recording(environment, process)
    try:
        yield
    finally:
        await recorded.end()
