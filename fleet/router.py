"""Which tier a subtask starts on, which one takes over, and which calls run in the background.

Pure functions of step and configuration; it knows no provider (whether one can run calls in the background is asked
elsewhere) and no state.
"""

from __future__ import annotations

from fleet.config import AUTO, FleetConfig, TierConfig
from fleet.jobs import Step
from fleet.routing import first_tier

#: From so many output tokens a call counts as long: at the 50 to 100 a second that large models write, the limit is
#: minutes away, longer than a worker that is told to stop is given to end. Answers of a step (2,000 by default) end
#: in time; reviews do not.
LONG_OUTPUT_TOKENS = 8_000
#: From here a call counts as dear (5 cents at worst). Asking for it adds a second or so and some requests that cost
#: nothing, which is not worth it for the fractions of a cent that bulk calls cost.
DEAR_NANO_USD = 50_000_000


def runs_in_background(tier: TierConfig, max_output_tokens: int, worst_nano_usd: int) -> bool:
    """Whether a call of the tier with this output limit and highest cost is one to run in the background."""
    if tier.background != "auto":
        return tier.background == "always"
    return max_output_tokens >= LONG_OUTPUT_TOKENS or worst_nano_usd >= DEAR_NANO_USD


def ladder_of(step: Step, config: FleetConfig) -> tuple[str, ...]:
    """The tiers that may answer a step, in order: its ladder, or all from its tier (nano for `auto`) upwards, to `max_tier`."""
    if step.ladder:
        top = step.ladder.index(step.max_tier) + 1 if step.max_tier in step.ladder else None
        if rungs := tuple(rung for rung in step.ladder[:top] if rung in config.tiers):  # it may have lost some since
            return rungs
    start = "nano" if step.tier == AUTO else step.tier
    rungs = config.ladder(start, step.max_tier)
    # A ceiling that is not above its tier was meant for one that the configuration had below.
    return rungs if step.max_tier in (None, *rungs) else (start,)


def start_tier(step: Step, config: FleetConfig) -> str:
    """The step's own tier; for `auto`, where nothing was learned (`fleet.routes` knows what was), by its kind: bulk work at the
    bottom of its ladder, plans and the like at its top, the rest on mini."""
    return step.tier if step.tier != AUTO else first_tier(step.label, ladder_of(step, config))


def is_checked(step: Step) -> bool:
    """Whether an answer to it can be wrong and seen to be: where none can, that answers are accepted says nothing of a tier."""
    return step.output is not None or step.check is not None


def next_tier(step: Step, tier: str, config: FleetConfig) -> str | None:
    """The tier that answers after `tier` was rejected, None at the top of the step's ladder."""
    rungs = ladder_of(step, config)
    if tier in rungs:
        return rungs[rungs.index(tier) + 1] if tier != rungs[-1] else None
    # It is between two rungs, or above them all: the plan, or the configuration, was another when it was asked.
    above = config.ladder(tier, None)[1:] if tier in config.tiers else ()
    return next((rung for rung in rungs if rung in above), None)
