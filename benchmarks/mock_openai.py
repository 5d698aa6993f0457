"""Owns a chat-completions server for benchmarks: fast, always the same answer, after a set latency.

A raw protocol, because a framework would be the bottleneck. `GET /count` says how many answers it has given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import cast

import uvloop

_ANSWER = json.dumps(
    {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "message": {"role": "assistant", "content": "word " * 130, "refusal": None, "annotations": []},
            }
        ],
        "usage": {
            "prompt_tokens": 200,
            "completion_tokens": 130,
            "total_tokens": 330,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
    }
).encode()


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Mock(asyncio.Protocol):
    """One connection: requests are answered in order, each `latency` seconds after its last byte."""

    answered = 0
    latency = 0.0
    answer = _response(_ANSWER)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            _, _, length = head.partition(b"content-length:")
            whole = end + 4 + int(length.split(b"\r\n", 1)[0] or 0)
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            if head.startswith(b"get /count"):
                self.transport.write(_response(str(Mock.answered).encode()))
            elif Mock.latency:
                asyncio.get_running_loop().call_later(Mock.latency, self._reply)
            else:
                self._reply()

    def _reply(self) -> None:
        if not self.transport.is_closing():
            Mock.answered += 1
            self.transport.write(self.answer)


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until cancelled."""
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    """`python -m benchmarks.mock_openai --port N --latency SECONDS`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    options = parser.parse_args()
    Mock.latency = options.latency
    uvloop.run(serve(options.port))


if __name__ == "__main__":
    main()
