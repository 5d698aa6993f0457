"""The metrics of the whole fleet by name: what one look at the store found, as Prometheus reads it.

One scheme, here and in `fleet.meter`: `tierfleet_`, base units, `_total` for what only grows, and no label but `tier`, `model`
and some whose values are listed in the code. Those of tiers and models come from the configuration. Whatever stands in jobs,
prompts and keys has no way in. All coordinators of a fleet show the same numbers: take the max over them, not the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from queues.limits import Standing
from queues.shared import EVERYBODY, Cap
from queues.survey import NEARLY, OpenJobs, Righted, Survey

#: Why the reconciler puts something back: the values of the label `reason`.
REASONS = (Righted.CLAIM_EXPIRED, Righted.MESSAGE_LOST, Righted.GATE_SWEPT)
#: Gauges by tier: name, field of a tier's survey, what it is.
TIER_GAUGES = (
    ("tierfleet_backlog_subtasks", "ready", "Subtasks that are ready and not released yet."),
    ("tierfleet_released_subtasks", "out", "Subtasks that are on their way to a worker or running."),
    ("tierfleet_workers", "workers", "Workers that are alive."),
    ("tierfleet_capacity_subtasks", "capacity", "Subtasks that the live workers can run at once."),
)
#: Gauges of the whole store: name, field of the survey, what it is.
GAUGES = (
    ("tierfleet_watched_subtasks", "watched", "Claims, messages and gates that the reconciler keeps an eye on."),
    ("tierfleet_overdue_subtasks", "overdue", "Those whose time is over: the reconciler should be putting them back."),
    ("tierfleet_overdue_gates", "gates_overdue", "Gates among them: complete, and not delivered by their chord."),
    ("tierfleet_overdue_oldest_seconds", "oldest_overdue_s", "How long the oldest of them has been overdue."),
    ("tierfleet_overdue_gate_oldest_seconds", "oldest_gate_s", "How long the oldest of those gates has been overdue."),
)
#: Counters by tier: name (`_total` is added), what is counted, what it is.
COUNTERS = (
    ("tierfleet_messages_resent", Righted.RESENT, "Messages sent for subtasks that were put back."),
    ("tierfleet_claims_taken_over", Righted.TAKEN_OVER, "Expired claims that another worker took over at once."),
    ("tierfleet_subtask_kills", Righted.KILL, "Deaths of workers, each counted for every subtask the worker held."),
    ("tierfleet_subtasks_quarantined", Righted.QUARANTINED, "Subtasks ended because their workers kept dying."),
)


#: Gauges by model: name, what it is.
USED, USE, PAUSED, OUTAGE, NEXT = (
    ("tierfleet_limit_used", "Of the account of a model: requests and tokens of the last minute, and calls in flight."),
    ("tierfleet_limit_use_ratio", "The same as a share of what is allowed; not shown where there is no limit."),
    ("tierfleet_account_paused_seconds", "Seconds that are left of a pause that the vendor asked for."),
    ("tierfleet_account_outage", "1 while the vendor has an outage and single calls try whether it is over, else 0."),
    ("tierfleet_account_next_call_seconds", "Seconds until another call could start."),
)
#: Gauges of the jobs that have not ended: name, field of what was found, what it is; amounts are nano-dollars in the store.
OPEN_JOBS = (
    ("tierfleet_open_jobs", "open", "Jobs that have not ended."),
    ("tierfleet_nearly_spent_jobs", "nearly_used_up", "Open jobs that have spent nine tenths of their budget."),
)
BUDGETS = (
    ("tierfleet_budget_dollars", "caps", "Budgets of the open jobs, in US dollars; of those that have one."),
    ("tierfleet_budget_spent_dollars", "used", "What the open jobs have spent of these budgets."),
    ("tierfleet_budget_held_dollars", "held", "What running calls hold of these budgets."),
)
FLEETS = (
    (
        "tierfleet_fleet_budget_dollars",
        "What the whole fleet may spend in a day and in a month; not shown where there is no cap.",
    ),
    ("tierfleet_fleet_spent_dollars", "What the whole fleet has spent in this day and month (UTC)."),
)
PERS = ("day", "month")
NANO = 1_000_000_000


class Metrics(Collector):
    """The metrics of one survey."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey

    def collect(self) -> Iterator[Metric]:
        """Every tier and every reason, also those that never happened: a counter that appears late hides its first step."""
        survey = self._survey
        for name, field, text in TIER_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["tier"])
            for tier, numbers in survey.tiers.items():
                gauge.add_metric([tier], getattr(numbers, field))
            yield gauge
        for name, field, text in GAUGES:
            yield GaugeMetricFamily(name, text, value=getattr(survey, field))
        put_back = CounterMetricFamily(
            "tierfleet_reconciler_put_back",
            "Subtasks that should have been moving and were put back into the backlog, by what was found.",
            labels=["tier", "reason"],
        )
        for tier in survey.tiers:
            for reason in REASONS:
                put_back.add_metric([tier, reason], survey.righted.get((tier, reason), 0))
        yield put_back
        for name, what, text in COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["tier"])
            for tier in survey.tiers:
                counter.add_metric([tier], survey.righted.get((tier, what), 0))
            yield counter


class AdmissibleMetrics(Collector):
    """What autoscaling goes by."""

    def __init__(self, by_tier: Mapping[str, int]) -> None:
        self._by_tier = by_tier

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily(
            "tierfleet_admissible_subtasks",
            "Subtasks that run, and those that limits and budgets would let run beside them if there were workers.",
            labels=["tier"],
        )
        for tier, number in self._by_tier.items():
            gauge.add_metric([tier], number)
        yield gauge


class AccountMetrics(Collector):
    """How the accounts of models stand."""

    def __init__(self, standings: Mapping[str, Standing]) -> None:
        """`standings`: by the name of the model in the configuration."""
        self._standings = standings

    def collect(self) -> Iterator[Metric]:
        used, use = (GaugeMetricFamily(*named, labels=["model", "limit"]) for named in (USED, USE))
        paused, outage, following = (GaugeMetricFamily(*named, labels=["model"]) for named in (PAUSED, OUTAGE, NEXT))
        for model, now in self._standings.items():
            for limit, amount, allowed in (
                ("requests", now.requests, now.requests_per_minute),
                ("tokens", now.tokens, now.tokens_per_minute),
                ("in_flight", now.calls, now.in_flight),
            ):
                used.add_metric([model, limit], amount)
                if allowed:
                    use.add_metric([model, limit], amount / allowed)
            paused.add_metric([model], now.paused_s)
            outage.add_metric([model], now.outage_s is not None)
            following.add_metric([model], now.next_s)
        yield from (used, use, paused, outage, following)


class OpenJobMetrics(Collector):
    """The jobs that have not ended and their money, in total: no label tells of whom."""

    def __init__(self, jobs: OpenJobs, caps: Iterable[Cap]) -> None:
        """`caps`: of tenants and of all; of whom `jobs` has what was used."""
        self._jobs = jobs
        self._caps = list(caps)

    def collect(self) -> Iterator[Metric]:
        jobs = self._jobs
        for name, field, text in OPEN_JOBS:
            yield GaugeMetricFamily(name, text, value=getattr(jobs, field))
        paused = GaugeMetricFamily(
            "tierfleet_paused_jobs",
            "Open jobs that are paused: asked for by somebody, at a cap on what may be spent (budget), or halted by the fleet "
            "because somebody has to mend something.",
            labels=["reason"],
        )
        paused.add_metric(["asked"], jobs.paused - jobs.halted)
        paused.add_metric(["budget"], jobs.at_cap)
        paused.add_metric(["halted"], jobs.halted - jobs.at_cap)
        yield paused
        for name, field, text in BUDGETS:
            yield GaugeMetricFamily(name, text, value=getattr(jobs, field) / NANO)
        left = max(0, jobs.caps - jobs.used - jobs.held)
        yield GaugeMetricFamily("tierfleet_budget_left_dollars", "What is left of these budgets.", value=left / NANO)
        used = {(cap.whom, cap.per): jobs.used_by[cap.whom][PERS.index(cap.per)] for cap in self._caps}
        near = {cap.whom for cap in self._caps if used[cap.whom, cap.per] >= NEARLY * cap.most}
        yield GaugeMetricFamily(
            "tierfleet_nearly_spent_tenants",
            "Tenants that have spent nine tenths of what the configuration lets them spend in this day or month (UTC).",
            value=len(near - {EVERYBODY}),
        )
        budget, spent = (GaugeMetricFamily(name, text, labels=["per"]) for name, text in FLEETS)
        for cap in self._caps:
            if cap.whom == EVERYBODY:
                budget.add_metric([cap.per], cap.most / NANO)
        for per, amount in zip(PERS, jobs.used_by[EVERYBODY], strict=True):
            spent.add_metric([per], amount / NANO)
        yield budget
        yield spent


class StoreMetrics(Collector):
    """Whether the store answered; where it did not, nothing else of the fleet is shown."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "tierfleet_store_up", "1 if the store answered this process, else 0.", value=self._answers
        )
