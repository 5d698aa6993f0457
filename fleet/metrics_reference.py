"""Every metric the processes show, as a table: made from the code that shows them, for `fleet.reference`.

It makes the collectors of a worker, a coordinator and the API over nothing, and reads names, kinds, labels and help off them. No
store is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from fleet.api.traffic import Traffic
from fleet.config import FleetConfig, Limits, ModelConfig, TierConfig
from fleet.meter import OUTCOMES, Meter
from fleet.metrics import AccountMetrics, AdmissibleMetrics, Metrics, OpenJobMetrics, StoreMetrics
from fleet.store import COORDINATOR
from queues.limits import Standing
from queues.shared import EVERYBODY, Cap
from queues.survey import OpenJobs, Survey, TierSurvey

HEAD = """\
# Metrics

<!-- Made by `make docs`; a test keeps it so. -->

Every process shows its metrics at `FLEET_METRICS_ADDRESS` under `/metrics`, without a key. The API shows its own and those of the
whole fleet on its own port, too, to a key with the scope admin. Every coordinator shows the same of the whole fleet: take the max
over processes. What a worker or the API counts is its own: add it up. Labels come from the configuration (`tier`, `model`) or are
listed here; no id, prompt, output or key is in any of them, and a name that the configuration no longer has counts as `other`.

Beside these every process shows `process_*`: its CPU seconds, memory, open files and start time.\
"""
#: Labels whose values come from the configuration, or are the API's routes.
FREE = ("tier", "model", "route")


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: its name as Prometheus stores it (a histogram's without `_bucket`, `_sum`, `_count`)."""

    name: str
    kind: str
    #: By name, the values it may have; none where those are free (`FREE`).
    labels: dict[str, tuple[str, ...]]
    text: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series."""
        return (
            tuple(self.name + end for end in ("_bucket", "_sum", "_count"))
            if self.kind == "histogram"
            else (self.name,)
        )


def rows() -> dict[str, list[Row]]:
    """By who shows them, in the order in which they are shown."""
    tier = TierConfig(model="m")
    config = FleetConfig(
        models={
            "m": ModelConfig(context_tokens=1, limits=Limits(requests_per_minute=1, tokens_per_minute=1, in_flight=1))
        },
        tiers={"nano": tier, "mini": tier, "flagship": tier},
    )
    survey = Survey({"nano": TierSurvey(0, 0, 0, 0)}, 0, 0, 0.0, 0, {})
    standing = Standing(1, 1, 1, 0, 0, 0, 0.0, 0.0, None)
    return {
        "A worker and the coordinator": _rows([Meter(config, [*config.tiers, COORDINATOR]).registry]),
        "The coordinator, of the whole fleet": _rows(
            [
                StoreMetrics(answers=True),
                Metrics(survey),
                AdmissibleMetrics({"nano": 0}),
                AccountMetrics({"m": standing}),
                OpenJobMetrics(OpenJobs(0, 0, 0, 0, 0, 0, 0, 0, {EVERYBODY: (0, 0)}), [Cap(EVERYBODY, "day", 1)]),
            ]
        ),
        "The API": _rows([Traffic().registry]),
    }


def process_rows() -> list[Row]:
    """What every process shows of itself as a process; nothing where there is no /proc."""
    return _rows([ProcessCollector(registry=None)])


def table() -> str:
    """The page."""
    parts = [HEAD]
    for who, listed in rows().items():
        parts.append(f"\n## {who}\n\n| metric | kind | labels | what it is |\n|---|---|---|---|")
        parts += [f"| `{row.name}` | {row.kind} | {_labels(row)} | {row.text} |" for row in listed]
    outcomes = ", ".join(f"`{outcome}`" for outcome in OUTCOMES)
    return "\n".join([*parts, f"\nThe outcomes of calls: {outcomes}.\n"])


def _rows(collectors: Iterable[Collector]) -> list[Row]:
    return [_row(metric) for collector in collectors for metric in collector.collect()]


def _row(metric: Metric) -> Row:
    labels: dict[str, dict[str, None]] = {}
    for sample in metric.samples:
        for name, value in sample.labels.items():
            if name != "le":
                labels.setdefault(name, {})[value] = None
    listed = {name: () if name in FREE else tuple(values) for name, values in labels.items()}
    return Row(metric.name + ("_total" if metric.type == "counter" else ""), metric.type, listed, metric.documentation)


def _labels(row: Row) -> str:
    if row.name == "tierfleet_calls_total":
        return "`tier`, `model`, `outcome` (below)"
    return ", ".join(f"`{name}`" + (f" ({', '.join(values)})" if values else "") for name, values in row.labels.items())
