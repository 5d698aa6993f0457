"""The receipt of a job: a pure sum over its ledger and its outcomes.

It owns what is counted and how the comparison is estimated; it knows no store, and `fleet.receipt_view` shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from fleet.config import FLAGSHIP, FleetConfig, Frozen
from fleet.counterfactual import Counterfactual, Measured, Savings, compared
from fleet.jobs import JobStatus, Outcome
from fleet.ledger import WORKER_LOST, LedgerEntry
from fleet.prices import billed_as
from fleet.quality import Counts, Judged, Quality

#: Calls that judge the answer of another one: what they say is no verdict on their own.
JUDGES = ("check", "audit")


class TierReceipt(Frozen):
    """What one tier did and cost."""

    calls: int = 0
    #: Calls whose answer did not pass the check, and calls without an answer.
    rejected: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0
    #: Subtasks whose outcome was accepted from this tier.
    accepted: int = 0
    #: Subtasks that were answered here, and those of them whose first answer here passed.
    tried: int = 0
    first_try_passed: int = 0
    #: Subtasks that were tried here and went on to another tier.
    escalated_from: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class StepReceipt(Frozen):
    """What one step cost and came to; a plan and a review are steps, too."""

    calls: int = 0
    cost_nano_usd: int = 0
    accepted: int = 0
    failed: int = 0
    skipped: int = 0
    passed_on: int = 0


class Budget(Frozen):
    """A job's cap, and what calls that are under way hold of it."""

    cap_nano_usd: int
    reserved_nano_usd: int = 0


class Receipt(Frozen):
    """What a finished job shows. Money is in nano-dollars, shares run from 0 to 1, durations are seconds."""

    job_id: str
    name: str
    status: JobStatus
    #: The simulated provider served: the money is counted, but nobody was charged.
    simulated: bool
    cost_nano_usd: int
    calls: int
    #: Calls whose usage the provider did not report, or not as it can be, so that it is estimated or taken to be the most.
    usage_estimated_calls: int
    #: Calls whose worker died between sending them and writing what came of them; booked at their worst case.
    possibly_paid_twice: int
    tiers: dict[str, TierReceipt]
    #: Cost by what the calls were for: plan, work, check, audit, review, reduce.
    roles: dict[str, int]
    #: Cost by how they were asked: standard, flex, batch.
    lanes: dict[str, int] = Field(default_factory=dict)
    steps: dict[str, StepReceipt] = Field(default_factory=dict)
    #: What the vendor's cache saved of the input's price, less what writing into it cost more.
    cache_saved_nano_usd: int = 0
    #: Calls that the vendor served with a service tier that has no known price; booked as asked.
    price_unknown_calls: int = 0
    #: What audits found, and people, by kind and tier.
    quality: tuple[Quality, ...] = ()
    budget: Budget | None = None
    accepted: int
    failed: int
    skipped: int
    #: Replies that whoever leads the conversation got although they are refusals or were cut off: nothing that was accepted.
    passed_on: int = 0
    #: Inputs that could not become items, and gaps the reviewer named.
    skipped_items: int
    gaps: int
    cost_per_accepted_nano_usd: int | None
    #: What the flagship alone would have cost, with the 95 % interval of what was measured of that, and how it was estimated;
    #: None where a price that it takes is not known.
    flagship_alone_nano_usd: int | None
    flagship_alone_interval_nano_usd: tuple[int, int] | None = None
    estimate: str
    flagship_measured: tuple[Measured, ...] = ()
    #: That less the cost, by what saved it.
    savings: Savings | None = None
    #: 1 - cost / flagship alone; below 0 when the fleet cost more.
    saving_share: float | None
    flagship_token_share: float
    wall_s: float
    #: Seconds added up over all calls (`permit`, `provider`) and subtasks (`queue`); many of them run side by side.
    waited_for_s: dict[str, float]


@dataclass(slots=True)
class _Subtask:
    """What the ledger says of one subtask. Moments order the calls, so entries may come in any order."""

    first_answer: dict[str, tuple[tuple[float, str], bool]] = field(default_factory=dict)
    latest: tuple[tuple[float, str], str] = ((-1.0, ""), "")
    tiers: set[str] = field(default_factory=set)

    def add(self, entry: LedgerEntry) -> None:
        moment = (entry.started_at, entry.call_id)
        self.tiers.add(entry.tier)
        self.latest = max(self.latest, (moment, entry.tier))
        if entry.status == "failed":
            return
        first = self.first_answer.get(entry.tier)
        if first is None or moment < first[0]:
            self.first_answer[entry.tier] = (moment, entry.status == "ok")


class Tally:
    """What a receipt is made of, taken in entry by entry. Memory grows with the subtasks, not with the calls."""

    def __init__(self, config: FleetConfig) -> None:
        """`config`: for the order of the tiers, and the prices of entries that an earlier version wrote without comparison."""
        self._config = config
        self._counterfactual = Counterfactual()
        self._sums: dict[str, dict[str, int]] = {}
        self._roles: dict[str, int] = {}
        self._subtasks: dict[str, _Subtask] = {}
        self._outcomes = dict.fromkeys(("accepted", "failed", "skipped", "passed_on"), 0)
        self._accepted: dict[str, int] = {}
        self._lanes: Counter[str] = Counter()
        self._steps: dict[str, Counter[str]] = {}
        self._quality = Counts()
        self._waited_ms = self._latency_ms = self._estimated = self._lost = self._cache_saved = self._price_unknown = 0
        self._until: float | None = None

    def add(self, entry: LedgerEntry) -> None:
        """Count an entry of the ledger; in any order, each once."""
        tier = self._sums.setdefault(entry.tier, dict.fromkeys(TierReceipt.model_fields, 0))
        for key, amount in _amounts(entry).items():
            tier[key] += amount
        self._roles[entry.role] = self._roles.get(entry.role, 0) + entry.cost_nano_usd
        self._lanes[entry.lane] += entry.cost_nano_usd
        step = self._steps.setdefault(entry.step or entry.role, Counter())
        step["calls"] += 1
        step["cost_nano_usd"] += entry.cost_nano_usd
        if entry.price is not None:
            self._cache_saved += entry.price.saved_by_cache(entry.usage)
            told = billed_as(entry.lane, entry.answered_service_tier)
            self._price_unknown += entry.answered_service_tier is not None and told != entry.price.context
        self._waited_ms += entry.waited_ms
        self._latency_ms += entry.latency_ms
        self._estimated += not entry.usage_reported
        self._lost += entry.reason == WORKER_LOST
        self._until = max(self._until or 0.0, entry.finished_at)
        self._quality.add(entry)
        if entry.role == "work" and entry.subtask is not None:
            self._subtasks.setdefault(entry.subtask, _Subtask()).add(entry)
        answered = entry.compared is None and entry.status != "failed"
        self._counterfactual.add(compared(self._config, entry) if answered else entry)

    def count(self, outcome: Outcome) -> None:
        """Count the outcome of a subtask."""
        end = outcome.status if outcome.status != "ok" else "accepted" if outcome.error_kind is None else "passed_on"
        self._outcomes[end] += 1
        self._steps.setdefault(outcome.step, Counter())[end] += 1
        if end == "accepted" and outcome.tier is not None:
            self._accepted[outcome.tier] = self._accepted.get(outcome.tier, 0) + 1

    def judge(self, said: Judged) -> None:
        """Count what a person says of an output."""
        self._quality.judge(said)

    def receipt(
        self,
        *,
        job_id: str,
        name: str,
        status: JobStatus,
        simulated: bool,
        wall_s: float,
        queue_s: float = 0.0,
        waited_for_s: Mapping[str, float] | None = None,
        skipped_items: int = 0,
        gaps: int = 0,
        budget: Budget | None = None,
    ) -> Receipt:
        """The receipt over everything that was counted.

        Args:
            queue_s: seconds the subtasks waited between being ready and being claimed, added up.
            waited_for_s: further waits by name, such as `budget` or `paused`.
            skipped_items: inputs that could not become items.
            gaps: gaps the reviewer named.
        """
        tiers = self._tiers()
        accepted = self._outcomes["accepted"]
        cost = sum(tier.cost_nano_usd for tier in tiers.values())
        tokens = sum(tier.tokens for tier in tiers.values())
        comparison = self._counterfactual.comparison()
        alone = comparison.alone
        return Receipt(
            job_id=job_id,
            name=name,
            status=status,
            simulated=simulated,
            cost_nano_usd=cost,
            calls=sum(tier.calls for tier in tiers.values()),
            usage_estimated_calls=self._estimated,
            possibly_paid_twice=self._lost,
            tiers=tiers,
            roles=dict(sorted(self._roles.items())),
            lanes=dict(sorted(self._lanes.items())),
            steps={step: StepReceipt(**sums) for step, sums in sorted(self._steps.items())},
            cache_saved_nano_usd=self._cache_saved,
            price_unknown_calls=self._price_unknown,
            quality=tuple(row for row in self._quality.rows() if row.audited),
            budget=budget,
            **self._outcomes,
            skipped_items=skipped_items,
            gaps=gaps,
            cost_per_accepted_nano_usd=round(cost / accepted) if accepted else None,
            flagship_alone_nano_usd=alone,
            flagship_alone_interval_nano_usd=comparison.interval,
            estimate=comparison.estimate,
            flagship_measured=comparison.measured,
            savings=comparison.savings,
            saving_share=1 - cost / alone if alone else None,
            flagship_token_share=tiers[FLAGSHIP].tokens / tokens if tokens and FLAGSHIP in tiers else 0.0,
            wall_s=wall_s,
            waited_for_s={
                "queue": queue_s,
                "permit": self._waited_ms / 1000,
                "provider": self._latency_ms / 1000,
                **(waited_for_s or {}),
            },
        )

    def _tiers(self) -> dict[str, TierReceipt]:
        empty = dict.fromkeys(TierReceipt.model_fields, 0)
        sums = {tier: dict(amounts) for tier, amounts in self._sums.items()}
        for subtask in self._subtasks.values():
            for tier, (_, passed) in subtask.first_answer.items():
                sums[tier]["tried"] += 1
                sums[tier]["first_try_passed"] += passed
            for tier in subtask.tiers - {subtask.latest[1]}:
                sums[tier]["escalated_from"] += 1
        for tier, accepted in self._accepted.items():
            sums.setdefault(tier, dict(empty))["accepted"] += accepted
        ladder = [*self._config.tiers, *sorted(sums.keys() - self._config.tiers.keys())]
        return {tier: TierReceipt(**sums[tier]) for tier in ladder if tier in sums}


def _amounts(entry: LedgerEntry) -> dict[str, int]:
    return {
        "calls": 1,
        "rejected": entry.status == "rejected" and entry.role not in JUDGES,
        "failed": entry.status == "failed",
        "input_tokens": entry.usage.input_tokens,
        "cached_tokens": entry.usage.cached_tokens,
        "output_tokens": entry.usage.output_tokens,
        "cost_nano_usd": entry.cost_nano_usd,
    }
