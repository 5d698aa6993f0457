"""What an answer has to be besides its schema, as a step says it: a check by name, a rule, or a judge.

It owns the form and those rules that are decided by looking: pure functions of the answer, whose reasons quote nothing of it. A
regular expression is only described here: how long one takes is up to who wrote it, so it is tried elsewhere, within a time
(`fleet.examiners`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from fleet.config import Frozen
from fleet.patterns import check_pattern
from fleet.quality_config import Share
from fleet.stored import KEPT

MAX_REGEX_CHARS = 1_000
MAX_VALUES = 1_000
_RULES = ("regex", "one_of", "min_length", "max_length")


class Judge(Frozen):
    """A model that is asked whether an answer will do."""

    #: The tier that is asked.
    tier: str
    #: What it is asked: a template over `output`, and what the step's own prompt may use.
    prompt: Annotated[str, Field(min_length=1)]
    #: Share of the answers that are judged, chosen by the subtask's id; the others pass.
    share: Annotated[Share, Field(gt=0)] = 1.0


class Check(Frozen):
    """The step's own check of an answer that keeps its schema: `call`, a rule, or a judge. A name alone is short for `call`."""

    #: The name of a check that the operator has registered.
    call: Annotated[str, Field(max_length=200)] | None = None
    #: A regular expression that has to be found in it; `^` and `$` tie it to its ends.
    regex: Annotated[str, Field(max_length=MAX_REGEX_CHARS)] | None = None
    #: The values that it may be.
    one_of: Annotated[tuple[Any, ...], Field(min_length=1, max_length=MAX_VALUES)] | None = None
    #: Characters of a text, or entries of a list, at least.
    min_length: Annotated[int, Field(ge=0)] | None = None
    #: And at most.
    max_length: Annotated[int, Field(ge=0)] | None = None
    #: Which field of the answer the rule is for (`a.b`: b in a); left out: all of it.
    field: str | None = None
    #: A model that judges.
    judge: Judge | None = None

    @model_validator(mode="after")
    def _one(self, info: ValidationInfo) -> Check:
        if info.context is KEPT:
            return self
        ruled = any(getattr(self, name) is not None for name in _RULES)
        if (self.call is not None) + ruled + (self.judge is not None) != 1:
            raise ValueError(f"a check is one of: a name, a rule ({', '.join(_RULES)}), or a judge")
        if self.field is not None and not ruled:
            raise ValueError("field is for rules; a check by name and a judge see the whole answer")
        least, most = self.min_length, self.max_length
        if least is not None and most is not None and least > most:
            raise ValueError(f"min_length ({least}) is above max_length ({most})")
        if self.regex is not None:
            check_pattern(self.regex)
        return self


def _of_name(value: Any) -> Any:
    return {"call": value} if isinstance(value, str) else value


#: A check as a job gives it: a name, or a mapping.
StepCheck = Annotated[Check, BeforeValidator(_of_name)]


class Unfit(Exception):
    """An answer that a rule is not for, or that breaks it; the text says which and quotes nothing of the answer."""


def subject(check: Check, output: Any) -> Any:
    """What of an answer a rule is for. Raises Unfit: it has no such field."""
    value = output
    for part in (check.field or "").split(".") if check.field else ():
        if not isinstance(value, dict) or part not in value:
            raise Unfit(f"the answer has no field {check.field}")
        value = value[part]
    return value


def keep(check: Check, output: Any) -> str | None:
    """Hold an answer to a rule; the text in which its `regex` has still to be found, None where it has none.

    Raises:
        Unfit: it breaks the rule.
    """
    value, name = subject(check, output), check.field or "the answer"
    if check.one_of is not None and _canonical(value) not in map(_canonical, check.one_of):
        raise Unfit(f"{name} is none of the {len(check.one_of)} values that it may be")
    if check.min_length is not None or check.max_length is not None:
        if not isinstance(value, (str, list)):
            raise Unfit(f"{name} has no length: it is neither a text nor a list")
        unit = "characters" if isinstance(value, str) else "entries"
        if len(value) < (check.min_length or 0):
            raise Unfit(f"{name} has fewer than {check.min_length} {unit}")
        if check.max_length is not None and len(value) > check.max_length:
            raise Unfit(f"{name} has more than {check.max_length} {unit}")
    if check.regex is None:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _canonical(value: Any) -> str:
    """True is not 1 and 1.0 is 1, as in JSON schemas."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str)
