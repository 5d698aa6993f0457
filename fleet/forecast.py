"""What a job will cost and how long it will take, with 95 % intervals: from a sample of it, the fleet's history, or priors.

Pure: work as `fleet.estimate` measures it and evidence go in, figures come out, the same ones for the same input. The interval
is the middle 95 % of `DRAWS` draws with a fixed seed (a parametric bootstrap: Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, 6.5); `fleet.draws` says what is drawn. The time is the slowest of what the accounts' limits and the tiers'
places (one worker of each) let through, and the longest chain of calls that wait for each other, batches included.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fleet.config import FleetConfig, Frozen
from fleet.draws import Dice
from fleet.estimate import Work
from fleet.evidence import NOTHING, Basis, Evidence
from fleet.interval import CONFIDENCE
from fleet.ledger import Lane

DRAWS = 1_000


class Range(Frozen):
    """A figure before it is known: the middle of what was drawn, and the ends between which 95 % of it lies."""

    typical: float
    low: float
    high: float


class StepForecast(Frozen):
    """One step, or the review. Costs are nano-dollars for all its subtasks, escalations included."""

    step: str
    tier: str
    model: str
    #: How its first calls are likely to be asked.
    lane: Lane = "standard"
    subtasks: int
    #: Of all first prompts, if no subtask is skipped.
    input_tokens: int
    calls: Range
    cost_nano_usd: Range
    basis: Basis
    #: Answers that this rests on.
    seen: float


class Forecast(Frozen):
    """A whole job."""

    steps: tuple[StepForecast, ...]
    cost_nano_usd: Range
    time_s: Range
    #: What the limits of the accounts alone make it take, typically.
    limits_s: float
    #: Share of the draws in which the budget is too small; None: there is none.
    over_budget: float | None
    #: Seconds after the submission by which nothing waits for a batch any more; None: no step is likely to be asked in any.
    batches_until_s: float | None = None


def forecast(
    works: Sequence[Work], evidence: Mapping[str, Evidence], config: FleetConfig, budget_nano_usd: int | None = None
) -> Forecast:
    """What `works`, needs first, come to; `evidence` by step."""
    dice = Dice(config, evidence)
    draws = [dice.draw([*works]) for _ in range(DRAWS)]
    costs = [sum(draw.cost.values()) for draw in draws]
    times = [draw.time(config) for draw in draws]
    steps = []
    for work in works:
        its = evidence.get(work.step, NOTHING)
        steps.append(
            StepForecast(
                step=work.step,
                tier=work.ladder[0],
                model=config.model_of(work.ladder[0])[0],
                lane=Counter(draw.lanes[work.step] for draw in draws).most_common(1)[0][0],
                subtasks=work.subtasks,
                input_tokens=work.input_tokens * work.subtasks,
                calls=_range([draw.calls[work.step] for draw in draws]),
                cost_nano_usd=_range([draw.cost[work.step] for draw in draws]),
                basis=its.basis,
                seen=sum(one.n for one in its.seen.values()),
            )
        )
    due = [work.due_s for work, row in zip(works, steps, strict=True) if row.lane == "batch" and work.due_s is not None]
    return Forecast(
        steps=tuple(steps),
        batches_until_s=max(due) - config.lanes.back_s if due else None,
        cost_nano_usd=_range(costs),
        time_s=_range([time for time, _ in times]),
        limits_s=_range([limited for _, limited in times]).typical,
        over_budget=None if budget_nano_usd is None else sum(cost > budget_nano_usd for cost in costs) / len(costs),
    )


def scaled(evidence: Evidence, seen: Work, work: Work, config: FleetConfig) -> Evidence:
    """Evidence of a step over other items than those it will run over: prompts that are longer cost more."""
    longer, shorter = (Dice(config, {}).likely_cost(one, one.ladder[0]) for one in (work, seen))
    return replace(evidence, scale=longer / shorter)


def _range(values: Sequence[float]) -> Range:
    ordered = sorted(values)
    last = len(ordered) - 1
    tail = (1 - CONFIDENCE) / 2
    return Range(
        typical=ordered[last // 2], low=ordered[math.floor(tail * last)], high=ordered[math.ceil((1 - tail) * last)]
    )
