"""The ledger's entry: what one provider call was for, used and cost, whatever came of it.

It is data only: the store keeps the entries, `fleet.receipt` adds them up.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fleet.config import Frozen
from fleet.flaws import Flaw
from fleet.prices import Rates, Usage

CallStatus = Literal["ok", "rejected", "failed"]
#: Reason of an entry for a call whose worker vanished between sending it and writing what came of it.
WORKER_LOST = "worker lost"
#: Reason of an entry for an answer that nobody has judged yet, with its cost; the verdict takes its place.
UNCHECKED = "not checked yet"
#: Reason of an entry, whatever its verdict, of whose usage nothing is known, or what nobody can believe.
AT_MOST = "no usage was reported that this call can have; booked at its most"

Role = Literal["plan", "work", "check", "audit", "review", "reduce"]
#: How the vendor is asked: at once, at once but later where it is busy, or as a line of a batch.
Lane = Literal["standard", "flex", "batch"]
NotNegative = Annotated[int, Field(ge=0)]


class Compared(Frozen):
    """What an answered call is compared with (`fleet.counterfactual`), in nano-dollars, as prices were when it was made."""

    #: What cached input took off its price, in its own lane; below 0 where writing into the cache cost more.
    cache_saved: int = 0
    #: What the lane took off the standard price after that.
    lane_saved: int = 0
    #: Its tokens on the flagship, at once and with nothing cached.
    flagship_input: NotNegative = 0
    flagship_output: NotNegative = 0


class LedgerEntry(Frozen):
    """One provider call: a line of `ledger.jsonl`. Moments are Unix seconds, durations milliseconds."""

    call_id: str
    job: str
    #: The subtask that the call worked for; a plan, a review and a part of one are subtasks too.
    subtask: str | None = None
    step: str | None = None
    kind: str | None = None
    #: `check`: a judge's look at an answer; `audit`: a look at one that was accepted; `reduce`: the outputs were too many for
    #: the reviewer and were condensed first.
    role: Role
    #: An audit that judges nobody: what was accepted elsewhere, asked of the flagship to see what that costs (`fleet.holdout`).
    holdout: bool = False
    tenant: str | None = None
    #: Which call for its subtask this is, from 1; 0 where that is not counted.
    attempt: NotNegative = 0
    #: The tier whose answer it was shown: a rejected one, or that which a check or an audit is about.
    came_from: str | None = None
    tier: str
    #: The model that was asked for, and the one that answered as the vendor names it.
    model: str
    answered_model: str | None = None
    provider: str
    #: How it was asked, and the service tier that the vendor says it served with.
    lane: Lane = "standard"
    answered_service_tier: str | None = None
    usage: Usage = Usage()
    #: Pictures sent.
    images: NotNegative = 0
    #: False: the provider reported no usage, or one that cannot be, and it is estimated.
    usage_reported: bool = True
    cost_nano_usd: NotNegative
    #: What of that the vendor took for the call itself, beside its tokens.
    fees_nano_usd: NotNegative = 0
    #: The prices that it was computed from: `price.of_tokens(usage) + fees_nano_usd` is the cost. Rows of earlier versions
    #: have none.
    price: Rates | None = None
    #: None: there was no answer, or a price that it takes is not known.
    compared: Compared | None = None
    #: What was held for it.
    reserved_nano_usd: NotNegative = 0
    #: `ok`: answered and accepted; `rejected`: answered, but the check did not pass; `failed`: no answer, or one that was lost to
    #: an error of ours. A refusal, or what was cut off, is rejected where it is passed on, too, to who leads a conversation over
    #: the OpenAI-compatible API.
    #: Of a check or an audit: `ok`: it found the answer right; `rejected`: wrong; `failed`: it gave no verdict that can be used.
    status: CallStatus
    reason: str | None = None
    #: What was wrong with the answer.
    flaw: Flaw | None = None
    request_id: str | None = None
    #: The claim's fence under which the call was made.
    fence: NotNegative = 0
    started_at: float
    finished_at: float
    #: Waiting for a permit.
    waited_ms: NotNegative = 0
    #: From the request to the end of the answer.
    latency_ms: NotNegative = 0
