"""A job's books, closed again: the receipt from what was exported of it, and where the two do not agree.

Pure: it is handed entries, outcomes, verdicts and the receipt that was written then. From that receipt it takes what no ledger
says: the job's name, its state, how long it took, its cap. Every figure about money, calls, tokens and quality is added up anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fleet.config import FleetConfig
from fleet.jobs import Outcome
from fleet.ledger import LedgerEntry
from fleet.quality import Judged, Quality
from fleet.receipt import Receipt, Tally

#: Waits that a receipt has from the ledger.
_OF_THE_LEDGER = ("queue", "permit", "provider")
#: Complaints of one sort that are told one by one.
MOST_TOLD = 5


@dataclass(frozen=True, slots=True)
class Replayed:
    """The receipt as the books have it, and sentences about what is wrong with them, or with what was written before."""

    receipt: Receipt
    complaints: tuple[str, ...]


def replay(
    told: Receipt,
    ledger: Iterable[LedgerEntry],
    outcomes: Iterable[Outcome],
    verdicts: Iterable[Judged],
    config: FleetConfig,
) -> Replayed:
    """The receipt `told` once more. An entry that stands twice is counted once, and complained of.

    `verdicts`: what people said. `config`: for the order of the tiers, and the flagship's price where entries of an earlier
    version have no comparison.
    """
    tally = Tally(config)
    seen: set[str] = set()
    twice, foreign, wrong = list[str](), list[str](), list[str]()
    for entry in ledger:
        if entry.call_id in seen:
            twice.append(entry.call_id)
            continue
        seen.add(entry.call_id)
        if entry.job != told.job_id:
            foreign.append(entry.call_id)
        if not adds_up(entry):
            wrong.append(entry.call_id)
        tally.add(entry)
    for outcome in outcomes:
        tally.count(outcome)
    for said in verdicts:
        tally.judge(said)
    found = tally.receipt(
        job_id=told.job_id,
        name=told.name,
        status=told.status,
        simulated=told.simulated,
        wall_s=told.wall_s,
        queue_s=told.waited_for_s.get("queue", 0.0),
        waited_for_s={name: s for name, s in told.waited_for_s.items() if name not in _OF_THE_LEDGER},
        skipped_items=told.skipped_items,
        gaps=told.gaps,
        budget=told.budget,
    )
    # An earlier version's receipt says less, and so do its rows.
    fields = set(told.model_fields_set)
    unsaid = Quality.model_fields.keys() - told.quality[0].model_fields_set if told.quality else set[str]()
    compared = [
        one.model_dump(mode="json", include=fields, exclude={"quality": {"__all__": unsaid}}) for one in (told, found)
    ]
    complaints = [
        *_complaints("stands twice in the ledger", twice),
        *_complaints("is of another job", foreign),
        *_complaints("costs something else than its usage at its own prices", wrong),
        *_differences("", *compared),
    ]
    return Replayed(found, tuple(complaints))


def adds_up(entry: LedgerEntry) -> bool:
    """Whether an entry's cost is its usage at the prices that it has; true of one without prices, of an earlier version."""
    price = entry.price
    return price is None or entry.cost_nano_usd == price.of_tokens(entry.usage) + entry.fees_nano_usd


def _complaints(what: str, ids: list[str]) -> Iterator[str]:
    for id_ in ids[:MOST_TOLD]:
        yield f"the call {id_} {what}"
    if len(ids) > MOST_TOLD:
        yield f"and {len(ids) - MOST_TOLD:,} calls more of which that is true"


def _differences(name: str, told: Any, found: Any) -> Iterator[str]:
    if isinstance(told, dict) and isinstance(found, dict):
        for key in told | found:
            yield from _differences(f"{name}.{key}" if name else key, told.get(key), found.get(key))
    elif told != found:
        yield f"{name}: the receipt says {told}, the books say {found}"
