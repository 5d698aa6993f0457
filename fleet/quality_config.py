"""What the configuration says of quality and of what is learned from it: checks by name, audits, floors, the holdout, routing.

Data and its rules; it knows no tier and imports no check.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.A)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AuditConfig(_Frozen):
    """How the true quality of what was accepted is found out: by the flagship's look at a sample."""

    #: Share of the accepted outputs that the flagship looks at; 0: none; `auto`: some of a kind's first on each tier but the
    #: last, then few, and again more where wrong ones were found (`fleet.trust`).
    share: Share | Literal["auto"] = 0.0
    #: Share of the accepted outputs that has to be right: a tier that is surely below it for a kind is not started on; left out:
    #: any will do.
    floor: Share | None = None


class KindConfig(_Frozen):
    """What holds for one kind of work instead of what `audit` says for all."""

    #: Instead of `audit.floor`.
    floor: Share | None = None
    #: Instead of `audit.share`.
    audit_share: Share | Literal["auto"] | None = None


class HoldoutConfig(_Frozen):
    """Which accepted subtasks are also asked of the flagship, to measure what it alone would cost (`fleet.holdout`)."""

    #: Of the subtasks of each step, about.
    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    #: Of a step, however many subtasks it has.
    at_most: Annotated[int, Field(gt=0)] = 20


class RoutingConfig(_Frozen):
    """How `tier: auto` is decided."""

    #: Decide by what is known and learn nothing: the same kind always starts on the same tier. Audits are counted and shown, but
    #: a tier that they find below its floor meanwhile is started on all the same.
    frozen: bool = False
    #: Of the dice that are thrown for each subtask.
    seed: int = 0
    #: Outcomes of a kind after which one counts half: fewer follow a change sooner and try more.
    half_life: Annotated[float, Field(ge=10, le=1_000_000)] = 700


def _named(targets: dict[str, str]) -> dict[str, str]:
    for name, target in targets.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f'"{name}" is no name of a check: letters, digits, _, . and -, 100 at most')
        if not _TARGET.fullmatch(target):
            raise ValueError(f'"{target}" ({name}) is no package.module:callable')
    return targets


#: Names of checks, and the callables they stand for: `package.module:callable`.
CheckTargets = Annotated[dict[str, str], AfterValidator(_named)]
