"""What the configuration says of quality: checks by name, the share that is audited, floors, and what holds for one kind only.

Data and its rules; it knows no tier and imports no check.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.A)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AuditConfig(_Frozen):
    """How the true quality of what was accepted is found out: by the flagship's look at a sample."""

    #: Share of the accepted outputs that the flagship looks at; 0: none.
    share: Share = 0.0
    #: Share of the accepted outputs that has to be right: a tier that is surely below it for a kind is not started on; left out:
    #: any will do.
    floor: Share | None = None


class KindConfig(_Frozen):
    """What holds for one kind of work instead of what `audit` says for all."""

    #: Instead of `audit.floor`.
    floor: Share | None = None
    #: Instead of `audit.share`.
    audit_share: Share | None = None


def _named(targets: dict[str, str]) -> dict[str, str]:
    for name, target in targets.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f'"{name}" is no name of a check: letters, digits, _, . and -, 100 at most')
        if not _TARGET.fullmatch(target):
            raise ValueError(f'"{target}" ({name}) is no package.module:callable')
    return targets


#: Names of checks, and the callables they stand for: `package.module:callable`.
CheckTargets = Annotated[dict[str, str], AfterValidator(_named)]
