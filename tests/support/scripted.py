"""A chat completions server that answers from a script, strictly: a call too many or a reply too few fails the test."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Reply:
    """One answer of the script: a text, or an error by its status."""

    text: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    finish: str = "stop"
    code: str = "scripted"
    #: Further fields of a whole answer, or others in place of those it has.
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Script:
    """The replies that are left and the calls that came, in order."""

    replies: list[Reply]
    url: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    unexpected: int = 0

    def prompt(self, call: int) -> str:
        """The user's message of a call."""
        return str(self.calls[call]["messages"][-1]["content"])

    async def answer(self, request: web.Request) -> web.Response:
        self.calls.append(await request.json())
        if not self.replies:
            self.unexpected += 1
            return web.json_response({"error": {"message": "not in the script", "code": "unexpected"}}, status=400)
        reply = self.replies.pop(0)
        if reply.status != 200:
            error = {"message": "as scripted", "type": "error", "param": None, "code": reply.code}
            return web.json_response({"error": error}, status=reply.status, headers=reply.headers)
        return web.json_response(
            {
                "id": f"c{len(self.calls)}",
                "object": "chat.completion",
                "model": self.calls[-1]["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": reply.finish,
                        "message": {"role": "assistant", "content": reply.text},
                    }
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            }
            | dict(reply.fields),
            headers=reply.headers,
        )


@contextlib.asynccontextmanager
async def scripted(*replies: Reply | str | dict[str, Any]) -> AsyncIterator[Script]:
    """A server on loopback with this script; a text or a mapping (sent as JSON) is a whole answer."""
    script = Script([_reply(reply) for reply in replies])
    app = web.Application(client_max_size=50_000_000)
    app.router.add_post("/v1/chat/completions", script.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        script.url = f"http://{host}:{port}/v1"
        yield script
    finally:
        await runner.cleanup()
    assert script.unexpected == 0, f"{script.unexpected} calls that the script does not have"
    assert not script.replies, f"{len(script.replies)} replies of the script were never asked for"


def _reply(reply: Reply | str | dict[str, Any]) -> Reply:
    if isinstance(reply, Reply):
        return reply
    return Reply(reply if isinstance(reply, str) else json.dumps(reply))
