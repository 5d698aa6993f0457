"""The API of a bench, as a real server on loopback, and callers with keys."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from fleet.api.observed import Observed
from fleet.api.server import build
from fleet.keys import Keys, Scope
from fleet.runtime import NAMESPACE
from tests.support.bench import Bench, bench, config
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey, free_port
from tests.support.worker import eventually

STEP = {"id": "write", "each": "items", "tier": "nano", "prompt": "Write {{ item }}.", "max_output_tokens": 50}
JOB: dict[str, Any] = {"name": "test", "items": ["a", "b"], "steps": [STEP]}


def requests(count: int, **body: Any) -> bytes:
    """A file of so many requests for a batch."""
    asked = {"model": "nano", "messages": [{"role": "user", "content": "Write a line."}]} | body
    envelope = {"method": "POST", "url": "/v1/chat/completions", "body": asked}
    return b"".join(json.dumps({"custom_id": f"r{i}"} | envelope).encode() + b"\n" for i in range(count))


REQUESTS = requests(2)


@dataclass
class Api:
    """A served bench."""

    fleet: Bench
    url: str
    session: aiohttp.ClientSession

    async def key(self, tenant: str = "default", *scopes: Scope) -> str:
        """A new key."""
        keys = Keys(self.fleet.runtime.link, NAMESPACE)
        return (await keys.create(tenant, scopes or ("submit", "read"), "test", 0.0))[1]

    async def ask(
        self, method: str, path: str, key: str | None = None, **options: Any
    ) -> tuple[int, Any, Mapping[str, str]]:
        """(status, body, headers)."""
        headers = options.pop("headers", {}) | ({} if key is None else {"Authorization": f"Bearer {key}"})
        async with self.session.request(method, self.url + path, headers=headers, **options) as answer:
            body: Any = await answer.text()
            if "json" in answer.content_type and not answer.content_type.endswith("jsonl"):
                body = await answer.json(content_type=None)
            return answer.status, body, answer.headers

    async def upload(self, key: str | None, data: bytes, name: str, purpose: str = "user_data") -> str:
        """The id of a new file."""
        form = aiohttp.FormData()
        form.add_field("purpose", purpose)
        form.add_field("file", io.BytesIO(data), filename=name)
        status, file, _ = await self.ask("POST", "/v1/files", key, data=form)
        assert status == 200, file
        return str(file["id"])


async def stored(api: Api) -> dict[bytes, bytes]:
    """Every key of the store but for what moves by itself, and what it holds."""
    execute = api.fleet.runtime.link.execute
    names = [
        name for name in await execute("KEYS", "*") if not name.startswith((b"fleet:w:", b"fleet:beat", b"fleet:audit"))
    ]
    return {name: await execute("DUMP", name) for name in names}


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every file in the blob folder of the bench in `folder`, half-written ones too."""
    blobs = folder / "blobs"
    return {str(path.relative_to(blobs)): path.read_bytes() for path in blobs.rglob("*") if path.is_file()}


@contextlib.asynccontextmanager
async def served(fleet: Bench, *, loopback: bool = True) -> AsyncIterator[Api]:
    """`loopback`: False, and it takes itself for one that others can reach."""
    port = free_port()
    app = Observed(build(fleet.runtime, loopback=loopback))
    settings = uvicorn.Config(app, port=port, log_config=None, lifespan="on")
    server = uvicorn.Server(settings)
    serving = asyncio.create_task(server._serve())  # without its signal handlers

    async def started() -> bool:
        return bool(server.started)

    await eventually(started, "the API")
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Api(fleet, f"http://127.0.0.1:{port}", session)
    finally:
        server.should_exit = True
        await serving


def on_api(
    scenario: Callable[[Api], Awaitable[None]],
    valkey: Valkey,
    folder: Path,
    sim: RunningSim,
    *,
    loopback: bool = True,
    working: bool = False,
    **fields: Any,
) -> None:
    """Run a scenario against the API of a bench of its own; `working`: jobs run while it lasts."""

    async def run() -> None:
        async with (
            bench(valkey, folder, config(**fields), sim=sim.url) as fleet,
            served(fleet, loopback=loopback) as api,
        ):
            work = asyncio.create_task(fleet.work()) if working else None
            try:
                await scenario(api)
            finally:
                if work is not None:
                    work.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await work

    asyncio.run(run())
