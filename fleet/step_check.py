"""A step's own check of an answer that keeps its schema: by the rule it gives, or by the check it names.

It owns which part decides, and makes one kind of rejection of what they find. Judges are asked elsewhere (`fleet.looks`): they
are models, and cost money.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet import named_checks, rules
from fleet.checks import Rejected
from fleet.config import FleetConfig
from fleet.examiners import Examiners
from fleet.jobs import Step


def prepare(step: Step, config: FleetConfig) -> None:
    """Before anything is paid for an answer. Raises BadInputError: nobody could check it, here."""
    if step.check is not None and step.check.call is not None:
        named_checks.target_of(step.check.call, config)


async def hold(step: Step, output: Any, values: Mapping[str, Any], config: FleetConfig, examiners: Examiners) -> None:
    """Hold an answer to its step's check; `values`: of the subtask's templates.

    Raises:
        Rejected: it will not do.
        BrokenCheckError: the check failed, and nobody knows.
    """
    check = step.check
    if check is None or check.judge is not None:
        return
    if check.call is not None:
        target = named_checks.target_of(check.call, config)
        needs = {need: values[need] for need in step.needs}
        question = {"target": target, "output": output, "item": values.get("item"), "needs": needs}
        reason = await examiners.ask(question)
        if reason is not None:
            raise Rejected(f"{check.call}: {reason or 'no reason was given'}", "check")
        return
    try:
        text = rules.keep(check, output)
    except rules.Unfit as unfit:
        raise Rejected(str(unfit), "check") from None
    if text is not None and (reason := await examiners.ask({"regex": check.regex, "text": text})) is not None:
        raise Rejected(f"{check.field or 'the answer'}: {reason}", "check")
