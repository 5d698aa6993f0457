"""`fleet plan`: what a job would do and cost, without asking a model. Pure functions of job, items and configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet import templates
from fleet.config import FleetConfig, Frozen
from fleet.conversation import Conversation
from fleet.errors import BadInputError
from fleet.jobs import JobSpec, Step
from fleet.prices import Usage, cost_nano_usd
from fleet.router import start_tier
from fleet.tokens import estimate_tokens

#: Share of its `max_output_tokens` that an answer usually takes; the upper estimate takes all of them.
TYPICAL_OUTPUT = 0.25


class StepEstimate(Frozen):
    """One step before it runs. Costs are nano-dollars for all its subtasks; `when` is taken as always true."""

    step: str
    tier: str
    model: str
    subtasks: int
    input_tokens: int
    typical_nano_usd: int
    most_nano_usd: int
    #: Seconds that the model's rate limits alone make it take.
    least_s: float


def estimate(spec: JobSpec, samples: Sequence[Any], items: int, config: FleetConfig) -> list[StepEstimate]:
    """An estimate per step and for the review, from prompts rendered over `samples` of `items` items."""
    found = [_step(step, spec, samples, items, config) for step in spec.steps]
    if spec.review is not None:
        shown = {step.id for step in spec.steps} - {need for step in spec.steps for need in step.needs}
        gathered = sum(
            (items if step.each else 1) * round(step.max_output_tokens * TYPICAL_OUTPUT)
            for step in spec.steps
            if step.id in shown
        )
        tokens = estimate_tokens(spec.goal + spec.review.prompt) + gathered
        found.append(_figures("review", "flagship", 1, tokens, spec.review.max_output_tokens, config))
    return found


def _step(step: Step, spec: JobSpec, samples: Sequence[Any], items: int, config: FleetConfig) -> StepEstimate:
    values = {"goal": spec.goal, "items": list(samples)}
    shown = [_tokens(step, values | {"item": sample}) for sample in samples] if step.each else [_tokens(step, values)]
    tokens = sum(shown) // max(1, len(shown)) + estimate_tokens(step.instructions)
    subtasks = items if step.each else 1
    return _figures(step.id, start_tier(step, config), subtasks, tokens, step.max_output_tokens, config)


def _tokens(step: Step, values: dict[str, Any]) -> int:
    """Tokens of one prompt; where the outputs of its needs are missing, of its template and item."""
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


def _figures(name: str, tier: str, subtasks: int, tokens: int, most: int, config: FleetConfig) -> StepEstimate:
    model_name, model = config.model_of(tier)
    typical = Usage(input_tokens=tokens, output_tokens=round(most * TYPICAL_OUTPUT))
    limits = model.limits
    per_minute = max(
        subtasks / limits.requests_per_minute if limits.requests_per_minute else 0.0,
        subtasks * typical.total / limits.tokens_per_minute if limits.tokens_per_minute else 0.0,
    )
    return StepEstimate(
        step=name,
        tier=tier,
        model=model_name,
        subtasks=subtasks,
        input_tokens=tokens * subtasks,
        typical_nano_usd=subtasks * cost_nano_usd(model_name, model, typical),
        most_nano_usd=subtasks * cost_nano_usd(model_name, model, Usage(input_tokens=tokens, output_tokens=most)),
        least_s=60 * per_minute,
    )
