"""The server process below the simulated provider: listens on a socket, says when it is ready, can reset a connection.

It knows no route.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Longer than clients keep idle connections, so that none is closed under a request that is just being sent.
KEEP_ALIVE_S = 75
BACKLOG = 2048


def listen(app: Starlette, listener: socket.socket, ready_file: Path | None) -> None:
    """Serves on a bound socket until SIGINT or SIGTERM; once ready the base URL is in `ready_file`, else on stdout.

    A request's state has a `reset()`, which resets its connection.
    """
    listener.listen(BACKLOG)
    _Server(_uvicorn(app), listener, ready_file).run(sockets=[listener])


def _uvicorn(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=_ResettableProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        # Calls that hang would hold up the end for as long as they hang.
        timeout_graceful_shutdown=1,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, listener: socket.socket, ready_file: Path | None) -> None:
        super().__init__(config)
        self._ready_file = ready_file
        self._url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ready_file is None:
            sys.stdout.write(f"The simulated provider answers at {self._url}\n")
            sys.stdout.flush()
        else:
            # Renamed into place, so that whoever waits for the file never reads half of it.
            draft = self._ready_file.with_name(f"{self._ready_file.name}.{os.getpid()}")
            draft.write_text(self._url)
            draft.replace(self._ready_file)


class _ResettableProtocol(H11Protocol):
    """Gives each connection's requests a `reset()` in their state, which ASGI has no word for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)

        def reset() -> None:
            connection = transport.get_extra_info("socket")
            # Lingering for 0 s makes the close a TCP reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

        self.app_state = {**self.app_state, "reset": reset}
