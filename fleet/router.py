"""Which tier a subtask starts on and which one takes over: pure functions of step and configuration."""

from __future__ import annotations

import re

from fleet.config import FleetConfig
from fleet.jobs import AUTO, Step

#: Kinds of work that the cheapest tier usually does well; other kinds start one tier up.
_BULK = re.compile(r"classif|extract|rank|filter|label|triage|topic|sort|detect|tag|route|score|dedup|match", re.I)


def start_tier(step: Step, config: FleetConfig) -> str:
    """The step's own tier; for `auto` nano for bulk work (by its kind) and mini for the rest, never above `max_tier`."""
    if step.tier != AUTO:
        return step.tier
    if _BULK.search(step.label):
        return "nano"
    return "mini" if "mini" in config.ladder("nano", step.max_tier) else "nano"


def next_tier(step: Step, tier: str, config: FleetConfig) -> str | None:
    """The tier that answers after `tier` was rejected, None at the top of the step's ladder."""
    ladder = config.ladder(tier, step.max_tier)
    # A ceiling that is not above `tier` ends the ladder here: it was reached, or the step started on it.
    if len(ladder) < 2 or (step.max_tier is not None and step.max_tier not in ladder):
        return None
    return ladder[1]
