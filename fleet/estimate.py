"""How large the work of a job is before it runs: subtasks, prompts and likely answers per step, and the ladder of each.

Pure functions of job, items and configuration; what that comes to in dollars and seconds is `fleet.forecast`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fleet import likely, templates, trust
from fleet.config import FLAGSHIP, FleetConfig
from fleet.conversation import Conversation
from fleet.errors import BadInputError
from fleet.jobs import JobSpec, Step, in_order
from fleet.judging import AUDIT_INSTRUCTIONS, VERDICT_SCHEMA
from fleet.lanes import due_s
from fleet.router import next_tier, start_tier
from fleet.tokens import estimate_tokens

REVIEW = "review"
#: Tokens that a judge or an auditor writes, about.
VERDICT_TOKENS = 60


@dataclass(frozen=True, slots=True)
class Look:
    """Who else is asked about accepted answers."""

    tier: str
    #: Of the answers; with `most_share` that depends on what was found so far: it is the usual one.
    share: float
    most_share: float | None = None
    #: Tokens that it writes, and reads beside the work and its answer.
    output_tokens: int = VERDICT_TOKENS
    input_tokens: int = 0
    #: Nobody waits for it: it takes the lane of audits.
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """One step, or the review, before it runs; of a step's subtasks `when` may skip some."""

    step: str
    kind: str
    #: The tiers that it may climb, the one that it starts on first.
    ladder: tuple[str, ...]
    #: If nothing were skipped.
    subtasks: int
    #: Of one call on the average: its prompt, and its answer as it is likely to be, and at most.
    input_tokens: int
    output_tokens: int
    most_output_tokens: int
    #: Whether a schema says what the answer looks like.
    structured: bool = False
    needs: tuple[str, ...] = ()
    #: Whether there is a condition; of the items that were looked at, how many it holds for. (0, 0): it depends on answers.
    conditional: bool = False
    holds: tuple[int, int] = (0, 0)
    #: Steps whose outputs, all of them, are in its prompt: their tokens come on top of `input_tokens`.
    gathers: tuple[str, ...] = ()
    #: How often it may be done again: a review's rounds.
    rounds: int = 0
    #: Whether more than a schema has to be kept.
    checked: bool = False
    looks: tuple[Look, ...] = ()
    #: When it is due in seconds from the job's submission; None: it has no deadline.
    due_s: float | None = None


def measure(spec: JobSpec, samples: Sequence[Any], items: int, config: FleetConfig) -> list[Work]:
    """The work of each step, needs first, and of the review, from prompts rendered over `samples` of `items` items."""
    steps = in_order({step.id: step for step in spec.steps})
    stand_ins = {step.id: likely.answer(step.output, step.max_output_tokens) for step in steps}
    found = [_work(step, spec, stand_ins, samples, items, config) for step in steps]
    if spec.review is not None:
        needed = {need for step in steps for need in step.needs}
        found.append(
            Work(
                step=REVIEW,
                kind=REVIEW,
                ladder=(FLAGSHIP,),
                subtasks=1,
                input_tokens=estimate_tokens(spec.goal + spec.review.prompt),
                output_tokens=likely.output_tokens(None, spec.review.max_output_tokens),
                most_output_tokens=spec.review.max_output_tokens,
                gathers=tuple(step.id for step in steps if step.id not in needed),
                rounds=spec.review.rounds,
            )
        )
    return found


def _work(
    step: Step,
    spec: JobSpec,
    stand_ins: Mapping[str, Any],
    samples: Sequence[Any],
    items: int,
    config: FleetConfig,
) -> Work:
    each = {other.id for other in spec.steps if other.each is not None}
    gathers = tuple(need for need in step.needs if step.each is None and need in each)
    values: dict[str, Any] = {"goal": spec.goal, "items": list(samples)}
    # A list of answers has as many as there are items; what they come to is added when it is known.
    values |= {need: [] if need in gathers else stand_ins[need] for need in step.needs}
    rows = [values | {"item": sample} for sample in samples] if step.each else [values]
    tokens = [_tokens(step, row) for row in rows]
    ladder = [start_tier(step, config)]
    while (above := next_tier(step, ladder[-1], config)) is not None:
        ladder.append(above)
    output = likely.output_tokens(step.output, step.max_output_tokens)
    if step.conversation is not None:
        output = likely.output_tokens(None, step.max_output_tokens)
    return Work(
        step=step.id,
        kind=step.label,
        ladder=tuple(ladder),
        subtasks=items if step.each else 1,
        input_tokens=round(sum(tokens) / max(1, len(tokens))) + estimate_tokens(step.instructions),
        output_tokens=output,
        most_output_tokens=step.max_output_tokens,
        structured=step.output is not None,
        needs=step.needs,
        conditional=step.when is not None,
        holds=_holds(step, rows),
        gathers=gathers,
        checked=step.check is not None,
        looks=_looks(step, spec, ladder, output, items if step.each else 1, config),
        due_s=due_s(step, spec.steps, spec.deadline),
    )


def _looks(
    step: Step, spec: JobSpec, ladder: Sequence[str], output_tokens: int, subtasks: int, config: FleetConfig
) -> tuple[Look, ...]:
    judge = step.check.judge if step.check is not None else None
    found = [] if judge is None else [Look(judge.tier, judge.share)]
    audits = Look(
        FLAGSHIP,
        0.0,
        input_tokens=estimate_tokens(AUDIT_INSTRUCTIONS + json.dumps([VERDICT_SCHEMA, step.output])),
        audit=True,
    )
    told = config.audit_share(step.label)
    if told != "auto":
        found.append(replace(audits, share=told))
    elif len(ladder) > 1:  # nobody is above the last tier
        found.append(replace(audits, share=trust.usual_share(subtasks), most_share=trust.most_share(subtasks)))
    rule = spec.holdout or config.holdout
    if rule is not None and ladder[0] != FLAGSHIP:
        found.append(Look(FLAGSHIP, min(rule.share, rule.at_most / max(1, subtasks)), output_tokens=output_tokens))
    return tuple(look for look in found if look.share > 0)


def _tokens(step: Step, values: dict[str, Any]) -> int:
    """Tokens of one prompt; of its template and item where it cannot be rendered over stand-ins."""
    if isinstance(step.conversation, Conversation):
        return step.conversation.input_estimate()
    if step.conversation is not None:
        return estimate_tokens(str(values.get("item", "")))
    try:
        return estimate_tokens(templates.render(step.prompt, values))
    except BadInputError:
        item = values.get("item", "")
        text = item.get("text", item) if isinstance(item, dict) else item
        return estimate_tokens(step.prompt) + estimate_tokens(str(text))


def _holds(step: Step, rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """For how many of the items a condition that asks for no answer holds, and of how many."""
    if step.when is None or templates.check_expression(step.when) & set(step.needs):
        return 0, 0
    try:
        return sum(templates.holds(step.when, row) for row in rows), len(rows)
    except BadInputError:
        return 0, 0
