"""Words that stand for what nobody but its owner may see, a vendor that says some of them, and where to look for them."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import redis

#: How a prompt asks this vendor for an answer that breaks its schema, for a refusal, and for one that is no JSON.
FAIL, REFUSE, BREAK = "please-fail", "please-refuse", "please-break"
_BODY = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")


class Canaries:
    """A word for each attribute that is asked for, the same each time."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.known.setdefault(name, f"canary-{name.replace('_', '-')}-{secrets.token_hex(8)}")

    def found_in(self, text: str) -> set[str]:
        """The names of those that `text` has, also where it is base64."""
        whole = plain(text)
        return {name for name, word in self.known.items() if word in whole}


def plain(text: str) -> str:
    """A text, and what is base64 in it, as the bodies of messages and events are, in plain."""
    return "\n".join([text, *(_decoded(part) for part in _BODY.findall(text))])


def _decoded(part: str) -> str:
    with contextlib.suppress(ValueError):
        return base64.b64decode(part + "=" * (-len(part) % 4)).decode("utf-8", "replace")
    return ""


@dataclass
class Vendor:
    """A chat completions server and webhook receiver in one; `heard` is what it was sent."""

    canaries: Canaries
    url: str = ""
    heard: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return self.url.removeprefix("http://").removesuffix("/v1")

    def answer(self, path: str, body: str) -> tuple[int, bytes]:
        self.heard.append(f"{path} {body}")
        if not path.startswith("/v1/"):
            return 200, b""
        said, review = self.canaries.vendor, '"verdict"' in body  # which names the items
        if REFUSE in body and not review:
            return 400, json.dumps({"error": {"message": f"{said}: {body}", "type": "e", "code": "refused"}}).encode()
        if BREAK in body and not review:
            return 200, f'{{"choices": [{{"message": "{said}'.encode()
        text: Any = {"topic": self.canaries.output}
        if review:
            text = {"verdict": "accept", "result": self.canaries.output, "rework": [], "gaps": []}
        content = self.canaries.output if FAIL in body and not review else json.dumps(text)
        return 200, json.dumps(
            {
                "id": "c",
                "object": "chat.completion",
                "model": json.loads(body)["model"],
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
                ],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            }
        ).encode()


@contextlib.contextmanager
def serving(canaries: Canaries) -> Iterator[Vendor]:
    """The vendor, on loopback."""
    vendor = Vendor(canaries)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, answer = vendor.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield vendor
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def overheard(client: redis.Redis, told: re.Pattern[str]) -> Iterator[list[str]]:
    """The commands of the store that match, scripts' own ones too, while the block runs."""
    lines: list[str] = []
    watching = threading.Event()
    ended = secrets.token_hex(16)

    def listen() -> None:
        with client.monitor() as monitor:
            watching.set()
            for command in monitor.listen():
                if ended in command["command"]:
                    return
                if told.search(command["command"]):
                    lines.append(command["command"])

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert watching.wait(10)
    try:
        yield lines
    finally:
        client.echo(ended)
        thread.join(30)
