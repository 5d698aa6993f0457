"""A process that has imported what a worker imports and forks workers from that: a start costs tenths of a second.

It opens no connection and reads no fleet's environment before it forks, so a child is what `python -m fleet ...` would be:
the same command line through the same entry. Three things are a test's: the failpoints that the child is armed with, the
prompt that is deadly to it, and its name in the owner tokens of its claims, by which the store's log tells whose claim was
whose.

It reads orders as JSON lines (`{"fork": {...}}`, `{"signal": [pid, number]}`), answers `{"forked": pid}` and tells
`{"ended": [pid, status]}`; only children that it has not yet waited for are ever signalled.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import random
import secrets
import select
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# What a worker imports, so that its children need not.
import celery.apps.worker
import celery.bin.worker
import celery.worker.consumer
import celery.worker.state
import kombu.transport.redis
import openai.resources.responses
import uvloop

import fleet.cli
import fleet.duties
import fleet.processes
import fleet.runtime
import fleet.tasks
import queues.backend
import queues.consumer
import queues.failpoints
import queues.pool
import queues.store
import queues.transport
from fleet.client import FleetClient
from fleet.config import Environment, ProviderConfig, load_config
from fleet.jobs import JobSpec
from fleet.prices import Usage, cost_nano_usd
from fleet.providers.base import Completion, ModelRequest
from fleet.providers.openai import OpenAIProvider
from fleet.runtime import Runtime

WARM = (celery, kombu, openai, uvloop, queues)
_PR_SET_PDEATHSIG = 1
LOOK_S = 0.02


def main(config: Path) -> None:
    """Warm up, then fork as told until the orders end."""
    _warm_up(config)
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    orders = os.fdopen(sys.stdin.fileno(), "rb", buffering=0)
    pending = b""
    _tell({"ready": True})
    while True:
        if select.select([orders], [], [], LOOK_S)[0]:
            chunk = orders.read(65_536)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                _obey(json.loads(line), children)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            children.discard(pid)
            _tell({"ended": [pid, os.waitstatus_to_exitcode(status)]})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _obey(order: dict[str, Any], children: set[int]) -> None:
    if "signal" in order:
        pid, number = order["signal"]
        if pid in children:
            os.kill(pid, number)
        return
    asked = order["fork"]
    pid = os.fork()
    if pid == 0:
        _child(asked)
    children.add(pid)
    _tell({"forked": pid})


def _child(asked: dict[str, Any]) -> None:
    """Become one process of the fleet; does not return."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        os.environ.update(asked["environment"])
        random.seed()
        queues.failpoints._EVERY = queues.failpoints._armed(asked["failpoints"])
        queues.failpoints._passed = dict.fromkeys(queues.failpoints._EVERY, 0)
        if asked["deadly"]:
            _arm(asked["deadly"])
        name = asked["name"]
        queues.store.secrets = SimpleNamespace(token_hex=lambda n: f"{name}~{secrets.token_hex(n)}")  # type: ignore[assignment,attr-defined]
        if "submit" in asked:
            asyncio.run(_submit(asked["submit"], Path(asked["answer"])))
            code = 0
        else:
            sys.argv = ["fleet", *asked["command"]]
            fleet.cli.main()
            code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _arm(deadly: str) -> None:
    """Die of every prompt that has `deadly` in it, as a worker does whose memory a picture blows up."""
    complete = OpenAIProvider.complete

    async def die_of_it(provider: OpenAIProvider, request: ModelRequest, *others: Any) -> Completion:
        if deadly in request.prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        return await complete(provider, request, *others)

    OpenAIProvider.complete = die_of_it  # type: ignore[method-assign,assignment]


async def _submit(spec: dict[str, Any], answer: Path) -> None:
    """Submit one job as `fleet submit` does; the id is given out by writing it to `answer`."""
    runtime = Runtime.from_environment(Environment())
    try:
        job_id = await FleetClient(runtime).submit(JobSpec.model_validate(spec), tenant=spec["name"])
        with answer.open("a") as file:
            file.write(f"{job_id}\n")
    finally:
        await runtime.aclose()


def _warm_up(path: Path) -> None:
    config = load_config(path)
    for name, model in config.models.items():
        cost_nano_usd(name, model, Usage(input_tokens=1))

    async def client() -> None:
        await OpenAIProvider(ProviderConfig(), "http://127.0.0.1:9/v1", "none").aclose()

    asyncio.run(client())


def _tell(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
