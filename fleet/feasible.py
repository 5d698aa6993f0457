"""Whether a job that is well-formed can run on a fleet of this configuration: what its steps ask, on which tiers, checked how.

It owns what is said of one that cannot. It is asked where jobs are accepted, never of jobs that were.
"""

from __future__ import annotations

from fleet import named_checks, templates
from fleet.config import AUTO, FleetConfig
from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.jobs import TEMPLATE_NAMES, JobSpec, Step

#: What a judge's prompt calls the answer.
OUTPUT = "output"


def check_feasible(spec: JobSpec, config: FleetConfig) -> None:
    """BadInputError when a step of a job cannot be run."""
    for step in spec.steps:
        check_asks(step)
        check_tiers(step, config)
        check_check(step, config)


def check_asks(step: Step) -> None:
    """BadInputError when it asks a model for nothing, or for two things, or for the items' own without items."""
    if (step.conversation is None) == (not step.prompt.strip()):
        raise BadInputError(f"steps.{step.id} needs a prompt, or a conversation instead of one.")
    if step.conversation is not None and (step.output is not None or step.instructions):
        raise BadInputError(f"steps.{step.id}: a conversation has its instructions and its output's form in it.")
    if step.conversation == "item" and step.each is None:
        raise BadInputError(f"steps.{step.id}: a conversation of each item needs each: items.")


def check_tiers(step: Step, config: FleetConfig) -> None:
    """BadInputError when it names a tier the configuration does not have, or its ladder leads nowhere."""
    where = f"steps.{step.id}"
    _check_tier(f"{where}.tier", step.tier, config, auto=True)
    for name in step.ladder:
        _check_tier(f"{where}.ladder", name, config)
    if step.max_tier is not None:
        _check_tier(f"{where}.max_tier", step.max_tier, config)
    if step.ladder:
        for lower, upper in zip(step.ladder, step.ladder[1:], strict=False):
            if upper not in config.ladder(lower, None)[1:]:
                raise BadInputError(f'{where}.ladder: "{upper}" is not on the way up from "{lower}".')
        if step.tier not in (AUTO, step.ladder[0]):
            raise BadInputError(
                f'{where}.ladder begins with "{step.ladder[0]}" and tier is "{step.tier}"; '
                "leave the tier out, or begin with it."
            )
        if step.max_tier is not None and step.max_tier not in step.ladder:
            raise BadInputError(f'{where}.max_tier "{step.max_tier}" is not in its ladder; leave one of the two out.')
        return
    start = "nano" if step.tier == AUTO else step.tier
    if step.max_tier is not None and step.max_tier not in config.ladder(start, step.max_tier):
        raise BadInputError(f'{where}.max_tier "{step.max_tier}" is not on the way up from "{start}".')


def check_check(step: Step, config: FleetConfig) -> None:
    """BadInputError when its own check cannot be made."""
    check, where = step.check, f"steps.{step.id}.check"
    if check is None:
        return
    if check.call is not None:
        try:
            named_checks.target_of(check.call, config)
        except BadInputError as error:
            raise BadInputError(f"{where}: {error}") from None
    if check.field is not None and step.conversation is None:
        first = check.field.partition(".")[0]
        if step.output is None:
            raise BadInputError(
                f'{where}.field is "{check.field}", but the answer is plain text; give the step an output.'
            )
        properties = step.output.get("properties")
        if isinstance(properties, dict) and first not in properties:
            raise BadInputError(f'{where}.field is "{check.field}"{nearest(first, properties)}.')
    if check.judge is not None:
        _check_tier(f"{where}.judge.tier", check.judge.tier, config)
        allowed = (TEMPLATE_NAMES | {OUTPUT, *step.needs}) - (set() if step.each else {"item"})
        try:
            used = templates.names_used(check.judge.prompt)
        except BadInputError as error:
            raise BadInputError(f"{where}.judge.prompt: {error}") from None
        if unknown := used - allowed:
            raise BadInputError(f'{where}.judge.prompt uses "{min(unknown)}"{nearest(min(unknown), allowed)}.')
        if OUTPUT not in used:
            raise BadInputError(f"{where}.judge.prompt shows the judge no answer: it has to use {{{{ output }}}}.")


def _check_tier(where: str, tier: str, config: FleetConfig, *, auto: bool = False) -> None:
    valid = [*config.tiers, *([AUTO] if auto else [])]
    if tier not in valid:
        raise BadInputError(f'{where} is "{tier}"{nearest(tier, valid)}.')
