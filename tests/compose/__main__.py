"""`python -m tests.compose`: the image built, the fleet brought up, looked over, worked, robbed of a worker, and taken down.

Prints what it does and then `name: value` lines; exits 1 with the first thing that is not as it should be.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.compose import parts, story
from tests.compose.engine import engine
from tests.compose.fleet import FILE, Fleet
from tests.compose.images import build
from tests.support.cli import ROOT

#: What was fetched once, for the next run; `make clean` drops it.
KEPT = ROOT / "build" / "compose-test"
MOST_ABOVE_BASE_MB = 250


def main() -> int:
    """The whole test."""
    # Who ends this ends the engine and its containers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    began, figures = time.monotonic(), dict[str, float]()
    KEPT.mkdir(parents=True, exist_ok=True)
    try:
        say("parts of Debian")
        parts.install()
        parts.compose_plugin(KEPT)
        base, pip_config = parts.base_root(KEPT), parts.pip_config(KEPT)
    except parts.PartMissingError as error:
        print(error, file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="tierfleet-"))
    try:
        with engine(folder, KEPT, apart=False) as builder:
            fleet = Fleet(builder, folder, pip_config)
            say("docker compose config, every profile")
            fleet.compose("--profile", "*", "config", "--quiet", files=[FILE])
            say("building the image")
            figures |= build(builder, fleet, base)
        assert figures["image_above_base_mb"] <= MOST_ABOVE_BASE_MB, figures
        with engine(folder, KEPT, apart=True) as runner:
            fleet = Fleet(runner, folder, pip_config)
            try:
                figures |= story.told(runner, fleet, say)
            finally:
                fleet.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "30")
    finally:
        shutil.rmtree(folder)
    figures["seconds"] = time.monotonic() - began
    for name, value in figures.items():
        print(f"{name}: {value:.0f}")
    return 0


def say(what: str) -> None:
    """What is being done."""
    print(f"  {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
