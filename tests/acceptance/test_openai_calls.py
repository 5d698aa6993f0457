"""OpenAI's calls through real processes: a caller sees nothing of a worker's death, nor of the end of its provider's patience."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from aiohttp import web
from openai import AsyncOpenAI

from tests.support.bench import GOOD, config
from tests.support.cli import Folder
from tests.support.processes import FleetProcess
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

#: So long that a claim of a dead worker is somebody else's.
CLAIM_S = 2.0


class Holding:
    """A provider that never answers its first call, and all others at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.calls = 0

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        self.calls += 1
        if self.calls == 1:
            self.asked.set()
            await asyncio.sleep(3600)
        message = {"role": "assistant", "content": "An answer.", "refusal": None}
        usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return web.json_response(
            {"id": "c", "object": "chat.completion", "model": GOOD, "choices": [choice], "usage": usage}
        )


def test_a_caller_sees_nothing_of_a_workers_death(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        holding = Holding()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", holding.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port := free_port())
        await site.start()
        url = f"http://127.0.0.1:{port}/v1"
        more = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
        settings = config(claim_s=CLAIM_S)
        api_port = free_port()

        def process(*words: str) -> FleetProcess:
            return FleetProcess(valkey, tmp_path, settings, url, *words, **more)

        processes = [process("coordinator"), process("worker", "--tier", "nano")]
        api = process("api", "--port", str(api_port))
        processes.append(api)
        try:
            await asyncio.to_thread(processes[0].ready, valkey, "coordinator")
            await asyncio.to_thread(processes[1].ready, valkey, "nano")
            await asyncio.to_thread(until, lambda: api_port in api.listens_on(), "the API to listen", api)
            made = await asyncio.to_thread(
                Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url}).fleet, "keys", "create", "-o", "json"
            )
            key = json.loads(made.out)["key"]
            async with AsyncOpenAI(base_url=f"http://127.0.0.1:{api_port}/v1", api_key=key, max_retries=0) as ai:
                asking = asyncio.ensure_future(
                    ai.chat.completions.create(model="nano", messages=[{"role": "user", "content": "x"}], timeout=120)
                )
                await asyncio.wait_for(holding.asked.wait(), 60)
                processes[1].process.kill()
                processes.append(process("worker", "--tier", "nano"))
                answer = await asking
            assert answer.choices[0].message.content == "An answer."
            assert holding.calls == 2
        finally:
            for one in reversed(processes):
                await asyncio.to_thread(one.stop)
            await runner.cleanup()

    asyncio.run(scenario())
