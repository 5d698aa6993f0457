"""A wall clock that is wrong in one process: libfaketime, preloaded. Timers, and the times of files, stay true.

The library comes with the Python package `libfaketime` (for one kind of machine) or with Debian's `faketime`; it is
believed only once it has put a clock wrong here.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

#: Seconds by which the clock of a seat is wrong.
WRONG = {"nano.0": 600, "flagship.1": -600}
_TRUE = {"DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "FAKETIME_NO_CACHE": "1"}
_PROBE_S = 10


def wrong_by(seconds: int) -> dict[str, str]:
    """What makes the clock of a process wrong, where the library is loaded."""
    return {"FAKETIME": f"{seconds:+d}s"}


@cache
def preloaded() -> dict[str, str] | None:
    """The variables under which a process, and those it forks, take their clock from `wrong_by`; None: not to be had."""
    for path in _libraries():
        variables = {"LD_PRELOAD": str(path), **_TRUE}
        told = subprocess.run(
            [sys.executable, "-c", "import time; print(time.time())"],
            env={**os.environ, **variables, **wrong_by(3600)},
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
        if told.returncode == 0 and abs(float(told.stdout) - time.time() - 3600) < _PROBE_S:
            return variables
    return None


def _libraries() -> list[Path]:
    found = importlib.util.find_spec("libfaketime")
    folders = [] if found is None else [Path(folder) for folder in found.submodule_search_locations or ()]
    return [
        *(path for folder in folders for path in folder.rglob("libfaketime.so.1")),
        *Path("/usr/lib").glob("*/faketime/libfaketime.so.1"),
    ]
