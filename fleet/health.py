"""Whether a process lives and takes work, as files in a folder of its own (`FLEET_HEALTH`), and the probe that looks at them.

`live` is touched from the event loop, so it grows old as soon as that hangs, whatever else goes on in the process. `ready` is
there from when the process takes work until it was asked to end. The probe, `python -m fleet.health live|ready`, asks no broker
and no store: one that is away must not have every process killed that waits for it. Each process needs a folder of its own;
nothing else has to be writable. It imports the standard library alone: a probe is a new process every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fleet.errors import BadInputError

#: Seconds between touches, and the age from which on `live` says that the loop hangs. A busy loop may be late by seconds.
BEAT_S, STALE_S = 2.0, 15.0
LIVE, READY = "live", "ready"


class Health:
    """What one process says of itself; without a folder it says nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._ending = False

    def begin(self) -> None:
        """Take the folder over from whoever had it before. Raises BadInputError: it cannot be written to."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / READY).unlink(missing_ok=True)
            (self._folder / LIVE).touch()
        except OSError as error:
            raise BadInputError(
                f"FLEET_HEALTH is {self._folder}, which cannot be written to ({error.strerror}); name a folder that can."
            ) from error

    async def beat(self) -> None:
        """Live until cancelled. Raises OSError when a touch fails; begin again then."""
        while self._folder is not None:
            (self._folder / LIVE).touch()
            await asyncio.sleep(BEAT_S)

    def ready(self) -> None:
        """Work is taken from now on, unless the end was asked for already."""
        if self._folder is not None and not self._ending:
            (self._folder / READY).touch()

    def ending(self) -> None:
        """No work is taken any more. May be called by a signal handler."""
        self._ending = True
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / READY).unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def beating(health: Health) -> AsyncIterator[None]:
    """Live while the block runs; a folder that fails meanwhile fails the probe, and nothing else."""
    beat = asyncio.create_task(health.beat())
    try:
        yield
    finally:
        beat.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await beat


def trouble(folder: Path, what: str) -> str | None:
    """Why the process of a folder is not `live`, or not `ready`; None: it is."""
    try:
        age_s = time.time() - (folder / LIVE).stat().st_mtime
    except OSError as error:
        return f"there is no {folder / LIVE} ({error.strerror})"
    if age_s > STALE_S:
        return f"the event loop has not run for {age_s:.0f} s"
    if what == READY and not (folder / READY).exists():
        return "the process takes no work: it is starting, or was asked to end"
    return None


def main(arguments: list[str]) -> int:
    """The probe: 0 if it is so, 1 if it is not (stderr says why), 2 if it was asked wrongly."""
    folder = os.environ.get("FLEET_HEALTH")
    if arguments not in ([LIVE], [READY]) or not folder:
        print("usage: FLEET_HEALTH=FOLDER python -m fleet.health live|ready", file=sys.stderr)  # noqa: T201
        return 2
    why = trouble(Path(folder), arguments[0])
    if why is not None:
        print(f"not {arguments[0]}: {why}", file=sys.stderr)  # noqa: T201
    return 0 if why is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
