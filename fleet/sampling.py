"""A small job in place of a large one: some of its items through the same steps, to see what they cost before all of them do.

Pure: which steps and items it has, and what its ledger and outcomes then say of each step. Running it is for others.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from fleet.config import FleetConfig
from fleet.errors import BadInputError
from fleet.estimate import Work
from fleet.evidence import Evidence, from_ledger
from fleet.forecast import scaled
from fleet.jobs import Items, JobSpec, Outcome, Step
from fleet.ledger import LedgerEntry

#: Items of a sample at most: it is to be small.
MOST = 20
#: How an outcome says that it was skipped for its own condition.
_CONDITION = "when:"


def sample_job(spec: JobSpec, items: Sequence[Any], budget_usd: Decimal) -> JobSpec:
    """The job that runs `items` through the steps that run once per item, and what these need, under a budget of its own.

    It has no deadlines: somebody waits for it, and what it costs at once says what any lane does.

    Raises:
        BadInputError: no step runs once per item.
    """
    by_id = {step.id: step for step in spec.steps}
    wanted = [step for step in spec.steps if step.each is not None]
    if not wanted or not items:
        raise BadInputError("There is nothing to sample: no step runs once per item (each: items).")
    kept: dict[str, Step] = {}
    while wanted:
        step = wanted.pop()
        if step.id not in kept:
            kept[step.id] = step
            wanted += [by_id[need] for need in step.needs]
    return spec.model_copy(
        update={
            "name": f"sample of {spec.name}"[:200],
            "items": _source(spec, items),
            "deadline": None,
            "steps": tuple(step.model_copy(update={"deadline": None}) for step in spec.steps if step.id in kept),
            "review": None,
            "recipe": None,
            "webhook": None,
            "holdout": None,
            "budget_usd": budget_usd,
        }
    )


def spread(count: int, of: int) -> list[int]:
    """Positions of so many items, spread evenly over all of them."""
    count = min(count, of)
    return [(2 * i + 1) * of // (2 * count) for i in range(count)]


def evidence_of(
    ledger: Iterable[LedgerEntry],
    outcomes: Iterable[Outcome],
    sampled: Sequence[Work],
    works: Sequence[Work],
    config: FleetConfig,
) -> Mapping[str, Evidence]:
    """By step, what a sample that has ended says of the whole job; `sampled`: the work of its own steps and items."""
    ran: dict[str, int] = {}
    skipped: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.status != "skipped":
            ran[outcome.step] = ran.get(outcome.step, 0) + 1
        elif (outcome.error or "").startswith(_CONDITION):
            skipped[outcome.step] = skipped.get(outcome.step, 0) + 1
    found = from_ledger(ledger)
    its, whole = ({work.step: work for work in group} for group in (sampled, works))
    return {
        step: replace(
            scaled(found.get(step, Evidence("sample")), its[step], whole[step], config),
            ran=ran.get(step, 0),
            skipped=skipped.get(step, 0),
        )
        for step in its.keys() & whole.keys()
    }


def _source(spec: JobSpec, items: Sequence[Any]) -> Items | tuple[Any, ...]:
    """Items as they were read; pictures are read again, by their paths."""
    if isinstance(spec.items, Items) and spec.items.images is not None:
        paths = tuple(glob.escape(item["path"]) for item in items)
        return Items(images=spec.items.images.model_copy(update={"include": paths}))
    return tuple(items)
