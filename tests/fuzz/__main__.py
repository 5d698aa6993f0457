"""Owns the run of schemathesis over the whole API, before real workers and the simulated provider: `make fuzz`.

All of its checks but those named below, stateful tests among them, again and again with another seed until the time is over. It
lives in an environment of its own; what it finds is printed, and ends the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fleet.config import FleetConfig
from fleet.keys import Keys
from fleet.runtime import NAMESPACE
from fleet.sim.settings import SimSettings
from queues.link import Link
from tests.support.processes import FleetProcess
from tests.support.sim import MODELS, fleet_config, running_sim
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

ROOT = Path(__file__).resolve().parents[2]
SCHEMATHESIS = ROOT / ".venv-fuzz" / "bin" / "schemathesis"
#: A schema cannot say what depends on something else: that `tool_choice` is only for conversations with tools, that a template
#: names what there is. What fits the schema and is refused for that is no finding.
BEYOND_THE_SCHEMA = "positive_data_acceptance"
#: Seconds of one run with its seed, beyond which it hangs.
LONGEST_S = 1_200
WORKERS = ("nano", "mini", "flagship")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, str, list[FleetProcess]]]:
    """A fleet with its API: base URL, a key that may do everything, and the processes."""
    settings = SimSettings(speed=1000, invalid_output=dict.fromkeys(MODELS, 0.0))
    config: FleetConfig = fleet_config()
    valkey = Valkey(folder)
    port = free_port()
    processes: list[FleetProcess] = []
    try:
        with running_sim(folder / "sim", settings, config) as sim:
            for words in (("coordinator",), *(("worker", "--tier", tier) for tier in WORKERS)):
                processes.append(FleetProcess(valkey, folder, config, sim.url, *words))
                processes[-1].ready(valkey, words[-1])
            api = FleetProcess(valkey, folder, config, sim.url, "api", "--port", str(port))
            processes.append(api)
            until(lambda: port in api.listens_on(), "the API to listen", api)
            yield f"http://127.0.0.1:{port}", asyncio.run(_key(valkey.url)), processes
    finally:
        for process in reversed(processes):
            process.stop()
        valkey.stop()


async def _key(url: str) -> str:
    link = Link.from_url(url)
    try:
        return (await Keys(link, NAMESPACE).create("default", ("submit", "read", "admin"), "fuzz", 0.0))[1]
    finally:
        await link.aclose()


def run(url: str, key: str, seed: int, examples: int) -> int:
    """One run; its exit code."""
    command = [
        *(str(SCHEMATHESIS), "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {key}"),
        *("--checks", "all", "--exclude-checks", BEYOND_THE_SCHEMA, "--seed", str(seed)),
        *("--max-examples", str(examples), "--request-timeout", "60", "--no-color"),
    ]
    return subprocess.run(command, timeout=LONGEST_S, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask the API what its OpenAPI says can be asked.")
    parser.add_argument("--seconds", type=float, default=60, help="No new run begins after so long.")
    parser.add_argument("--examples", type=int, default=15, help="Of each operation and phase in a run.")
    parser.add_argument("--seed", type=int, default=1, help="Of the first run.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, served(Path(name)) as (url, key, processes):
        began, runs = time.monotonic(), 0
        while runs == 0 or time.monotonic() - began < arguments.seconds:
            code = run(url, key, arguments.seed + runs, arguments.examples)
            runs += 1
            ended = [process.log.name for process in processes if process.process.poll() is not None]
            if code or ended:
                print(f"fuzz: seed {arguments.seed + runs - 1} found something (exit code {code}, ended: {ended})")
                print(processes[-1].log.read_text()[-5_000:])
                return 1
    print(f"fuzz_runs: {runs}")
    print(f"fuzz_seconds: {time.monotonic() - began:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
