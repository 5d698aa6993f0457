"""Checks as an operator may register them, good ones and such as nobody should."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def short(output: Any, item: Any, needs: Mapping[str, Any]) -> str | None:
    """A text of no more than eight characters."""
    print(output)
    return None if len(str(output)) <= 8 else "say it in eight characters"


def seen(output: Any, item: Any, needs: Mapping[str, Any]) -> str | None:
    """What it was given, as a reason."""
    return f"{output!r} {item!r} {dict(needs)!r}"


def raises(output: Any, item: Any, needs: Mapping[str, Any]) -> str | None:
    raise ValueError(f"what the answer says: {output}")


def sleeps(output: Any, item: Any, needs: Mapping[str, Any]) -> str | None:
    time.sleep(3_600)
    return None


def spins(output: Any, item: Any, needs: Mapping[str, Any]) -> str | None:
    while True:
        pass


def exits(output: Any, item: Any, needs: Mapping[str, Any]) -> str | None:
    os._exit(0)


def exits_once(output: str, item: Any, needs: Mapping[str, Any]) -> str | None:
    """The first time only; `output` is the path of a file that says that it was."""
    if not Path(output).exists():
        Path(output).touch()
        os._exit(1)
    return None


def agrees(output: Any, item: Any, needs: Mapping[str, Any]) -> Any:
    return True


async def waits(output: Any, item: Any, needs: Mapping[str, Any]) -> str | None:
    return None
