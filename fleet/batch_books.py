"""What the lines of a vendor's batch cost: entries and charges of what it brought, brought too late, or never said.

A line that was given back before its batch had ended is booked at the most that it can cost, as a guess; what the batch brings
later is the truth about it, which nobody waits for any more. It asks no vendor and no store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from fleet.choices import answered
from fleet.config import FleetConfig
from fleet.entries import Draft, Unsettled, charge
from fleet.errors import ProviderError
from fleet.ledger import UNCHECKED, LedgerEntry
from fleet.lines import Sent
from fleet.providers.base import Completion
from queues.subtasks import Charge


def found_out(
    unsettled: Iterable[Unsettled],
    answers: Mapping[str, Completion | ProviderError],
    otherwise: ProviderError | None,
    config: FleetConfig,
) -> list[Sent]:
    """What became of each line; `otherwise`: what befell those of which nothing is said, None: they were not run."""
    sent = []
    for line in unsettled:
        draft, found = line.draft(), answers.get(line.lost.call_id, otherwise)
        if isinstance(found, Completion):
            call = answered(config, draft, found)
            sent.append(Sent(call.entry, line.record, call.completion))
        else:
            sent.append(Sent(_without_answer(draft, found), line.record, None))
    return sent


def given_back(unsettled: Iterable[Unsettled]) -> list[Sent]:
    """Lines that are not waited for any longer: each may be on the bill."""
    return [Sent(line.lost, line.record, None) for line in unsettled]


def unsettled_of(sent: Iterable[Sent]) -> list[Unsettled]:
    """Lines that were given back, of which the truth is still to come."""
    return [Unsettled(one.entry, None, one.record) for one in sent]


def charge_of(sent: Sent, *, wanted: bool) -> Charge:
    """What is booked of a line: its answer's cost until somebody has judged the answer; `wanted`: somebody will."""
    if sent.completion is None:
        return charge(sent.entry, sent.record)
    reason = UNCHECKED if wanted else "cancelled"
    entry = sent.entry.model_copy(update={"status": "failed", "reason": reason})
    return replace(charge(entry, sent.record), provisional=wanted)


def _without_answer(draft: Draft, error: ProviderError | None) -> LedgerEntry:
    """The entry of a line that has no answer."""
    if error is None:
        return draft.failed("cancelled", maybe_billed=False)
    return draft.failed(error.kind, maybe_billed=error.maybe_billed, request_id=error.request_id)
