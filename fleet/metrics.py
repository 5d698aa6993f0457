"""The fleet's metrics by name: a survey of the store as text that Prometheus reads.

One scheme: `tierfleet_`, base units, `_total` for what only grows, and no label but `tier` and `reason`, whose values
come from the configuration and from this file. Whatever stands in jobs, prompts and keys has no way in.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from queues.survey import Righted, Survey

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
)
#: Counters by tier: name (`_total` is added), what is counted, what it is.
COUNTERS = (
    ("tierfleet_messages_resent", Righted.RESENT, "Messages sent for subtasks that were put back."),
    ("tierfleet_claims_taken_over", Righted.TAKEN_OVER, "Expired claims that another worker took over at once."),
    ("tierfleet_subtask_kills", Righted.KILL, "Deaths of workers, each counted for every subtask the worker held."),
    ("tierfleet_subtasks_quarantined", Righted.QUARANTINED, "Subtasks ended because their workers kept dying."),
)


class Metrics(Collector):
    """The metrics of one survey. All coordinators of a fleet show the same numbers: take the max over them, not the sum."""

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
