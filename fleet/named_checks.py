"""Checks that an operator has registered, by name: in the configuration (`checks`), or by the entry points of installed packages.

It owns who is registered. A job names one and never says what to import; nothing is imported here: an examiner does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points

from fleet.config import FleetConfig
from fleet.documents import nearest
from fleet.errors import BadInputError

#: The group of entry points whose names are checks: `name = "package.module:callable"`.
GROUP = "tierfleet.checks"


def target_of(name: str, config: FleetConfig) -> str:
    """`package.module:callable` behind the name of a check; the configuration's word goes before that of a package.

    Raises:
        BadInputError: nobody has registered it; the nearest name that somebody has.
    """
    if (target := config.checks.get(name)) is not None:
        return target
    if (target := _installed().get(name)) is not None:
        return target
    raise BadInputError(
        f'There is no check "{name}"{nearest(name, {*config.checks, *_installed()})}; '
        f"an operator registers checks in the configuration (checks) or in a package (entry points {GROUP})."
    )


@lru_cache(maxsize=1)
def _installed() -> Mapping[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}
