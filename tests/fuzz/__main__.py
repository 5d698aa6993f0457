"""Owns the run of schemathesis over the whole API, before real workers and the simulated provider: `make fuzz`.

All of its checks but those named below, stateful tests among them, again and again with another seed until the time is over. It
lives in an environment of its own; what it finds is printed, and ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.serving import served
from tests.support.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
SCHEMATHESIS = ROOT / ".venv-fuzz" / "bin" / "schemathesis"
#: A schema cannot say what depends on something else: that `tool_choice` is only for conversations with tools, that a template
#: names what there is. What fits the schema and is refused for that is no finding.
BEYOND_THE_SCHEMA = "positive_data_acceptance"
#: Seconds of one run with its seed, beyond which it hangs.
LONGEST_S = 1_200


@contextlib.contextmanager
def stopping(valkey: Valkey) -> Iterator[Valkey]:
    try:
        yield valkey
    finally:
        valkey.stop()


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
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as name,
        stopping(Valkey(Path(name))) as store,
        served(Path(name), store) as fleet,
    ):
        began, runs = time.monotonic(), 0
        while runs == 0 or time.monotonic() - began < arguments.seconds:
            code = run(fleet.url, fleet.key, arguments.seed + runs, arguments.examples)
            runs += 1
            ended = [process.log.name for process in fleet.processes if process.process.poll() is not None]
            if code or ended:
                print(f"fuzz: seed {arguments.seed + runs - 1} found something (exit code {code}, ended: {ended})")
                print(fleet.processes[-1].log.read_text()[-5_000:])
                return 1
    print(f"fuzz_runs: {runs}")
    print(f"fuzz_seconds: {time.monotonic() - began:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
