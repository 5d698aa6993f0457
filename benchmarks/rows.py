"""What `make bench` sets side by side: each row is a way to make the same call, as the processes it takes.

It knows commands and loads; `bench` runs and measures them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
#: Environments of their own, made by the Makefile: other queues do not agree with ours on the versions of what they use.
PEERS, LITELLM = ROOT / ".venv-peers" / "bin", ROOT / ".venv-litellm" / "bin"
OURS = Path(sys.executable)


@dataclass(frozen=True)
class Load:
    """How many calls are in flight, and how many seconds the provider takes for one."""

    in_flight: int
    latency_s: float

    def __str__(self) -> str:
        return f"{self.in_flight:,} in flight, {self.latency_s:g} s"


@dataclass(frozen=True)
class Row:
    """One way to make the calls; `{in_flight}` and `{port}` in a command are filled in."""

    name: str
    kind: Literal["script", "proxy", "queue", "fleet"]
    #: The process that makes the calls (of a fleet: none, its worker is started by tier).
    command: tuple[str, ...] = ()
    #: Enqueues as many calls as its last argument says.
    fill: tuple[str, ...] = ()
    #: Overrides the calls in flight, where more only cost.
    in_flight: int | None = None
    #: Windows of the others that its own is long, where the calls come back in bursts.
    windows: int = 1
    workers: int = 1
    environment: dict[str, str] = field(default_factory=dict, hash=False)


def _bare(name: str, client: str, windows: int = 1) -> Row:
    return Row(name, "script", (str(OURS), "-m", "benchmarks.peers.bare", client, "{in_flight}"), windows=windows)


def _queue(name: str, module: str, *command: str, in_flight: int | None = None) -> Row:
    fill = (str(PEERS / "python"), "-m", f"benchmarks.peers.{module}")
    tool, *arguments = command
    return Row(name, "queue", (str(PEERS / tool), *arguments), fill, in_flight)


def _celery(pool: str, in_flight: int | None = None) -> Row:
    app = ("celery", "-A", "benchmarks.peers.on_celery", "worker", "--loglevel", "WARNING", "--without-gossip")
    name = f"Celery {pool}" + (f" {in_flight}" if in_flight else "")
    return _queue(name, "on_celery", *app, "--without-mingle", "-P", pool, "-c", "{in_flight}", in_flight=in_flight)


#: Its 1,000 calls come back in one or two bursts every ten seconds or so: a window of eight counts them once or not at all.
DEFAULT = _bare("bare AsyncOpenAI, default transport", "default", windows=6)
BEST = _bare("bare AsyncOpenAI + aiohttp transport", "aiohttp")
FLOOR = _bare("bare aiohttp, no client", "hand")
PREFORK = _celery("prefork", 16)
THREADS, GEVENT = _celery("threads", 200), _celery("gevent")
TASKIQ = _queue(
    "taskiq",
    "on_taskiq",
    *("taskiq", "worker", "benchmarks.peers.on_taskiq:broker", "--workers", "1", "--max-async-tasks", "{in_flight}"),
    *("--max-prefetch", "100", "--no-parse", "--log-level", "WARNING"),
)
DRAMATIQ = _queue(
    "dramatiq (AsyncIO)",
    "on_dramatiq",
    *("dramatiq", "benchmarks.peers.on_dramatiq", "-p", "1", "-t", "{in_flight}", "--skip-logging"),
    # Each call holds a thread that wakes ten times a second: with 1,000 it makes fewer calls than with these.
    in_flight=400,
)
SAQ = _queue("SAQ", "on_saq", "saq", "benchmarks.peers.on_saq.settings")
STREAQ = _queue("streaQ", "on_streaq", "streaq", "run", "benchmarks.peers.on_streaq:worker")
PROXY = Row(
    "AsyncOpenAI + aiohttp through LiteLLM's proxy",
    "proxy",
    (str(LITELLM / "litellm"), "--host", "127.0.0.1", "--port", "{port}", "--config", "{config}", "--num_workers", "1"),
    # Its CPU is the limit before these; it takes them in step, so that all come back at about the same time.
    in_flight=100,
    windows=4,
    environment={
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
        "NO_DOCS": "True",
    },
)
FLEET = Row("tierfleet, everything on", "fleet")
TWO = Row("tierfleet, two workers", "fleet", workers=2)

#: Other task queues that do the same call.
QUEUES = (PREFORK, THREADS, GEVENT, TASKIQ, DRAMATIQ, SAQ, STREAQ)
BUSY, HALF, NO_LATENCY = Load(1_000, 1.0), Load(500, 1.0), Load(100, 0.0)
LOADS = (BUSY, HALF, NO_LATENCY)
ROWS = (DEFAULT, BEST, FLOOR, *QUEUES, PROXY, FLEET, TWO)

#: Rows by load that make up a figure: run in turn, so many times over.
PAIRED: dict[Load, tuple[Row, ...]] = {
    BUSY: (DEFAULT, BEST, PREFORK, TASKIQ, SAQ, STREAQ, FLEET, TWO),
    HALF: (BEST, FLEET),
    NO_LATENCY: (BEST, FLEET),
}
#: Rows by load that are run once, to be seen beside them.
SINGLE: dict[Load, tuple[Row, ...]] = {
    BUSY: (FLOOR, THREADS, GEVENT, DRAMATIQ, PROXY),
    NO_LATENCY: (DEFAULT, FLOOR, *QUEUES, PROXY, TWO),
}
