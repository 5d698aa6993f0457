"""The instruments: every series from the start, none from elsewhere, and a page that no name can break."""

from __future__ import annotations

from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet.config import FleetConfig, ModelConfig, TierConfig
from fleet.meter import OTHER, OUTCOMES, Meter
from fleet.metrics_endpoint import shown
from fleet.store import COORDINATOR
from tests.support.sim import MODELS, fleet_config

HOSTILE = 'a"} 1\ntierfleet_spent_dollars_total{tier="nano"} 1e9\n# \\\u202e\x1b[2J' + "x" * 10_000


def meter(config: FleetConfig | None = None) -> Meter:
    config = config or fleet_config()
    return Meter(config, [*config.tiers, COORDINATOR])


def read(of: Meter) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) -> value."""
    body, _ = shown([of.registry], "")
    families = [f for f in text_string_to_metric_families(body.decode()) if f.name.startswith("tierfleet_")]
    return {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_every_series_is_there_before_anything_happens() -> None:
    at_first = read(meter())
    assert set(at_first.values()) == {0.0}
    for tier, model in zip(("nano", "mini", "flagship"), MODELS, strict=True):
        for outcome in OUTCOMES:
            assert ("tierfleet_calls_total", model, outcome, tier) in at_first
        assert ("tierfleet_spent_dollars_total", tier) in at_first
        assert ("tierfleet_permits_refused_total", model, "late") in at_first
    assert ("tierfleet_ready_to_start_seconds_count", COORDINATOR) in at_first
    assert not [key for key in at_first if OTHER in key]


def test_what_is_told_is_shown_where_it_belongs_and_adds_no_series() -> None:
    one = meter()
    series = set(read(one))
    nano, model = "nano", MODELS[0]
    one.started(nano, 2.0)
    one.ended(nano, "ok")
    one.escalated(nano)
    one.booked(nano, model, "rejected", uncached=70, cached=30, output=20, nano_usd=2_500_000_000)
    one.call_began(model)
    one.call_began(model)
    one.call_ended(model, 0.75)
    one.permit_asked(model)
    one.permit_asked(model)
    one.permit_asked(model)
    one.permit_came(model, 0.05)
    one.permit_failed(model, "outage")
    now = read(one)
    assert set(now) == series
    changed = {key: value for key, value in now.items() if value and not key[0].endswith("_bucket")}
    assert changed == {
        ("tierfleet_ready_to_start_seconds_count", nano): 1,
        ("tierfleet_ready_to_start_seconds_sum", nano): 2,
        ("tierfleet_subtasks_total", "ok", nano): 1,
        ("tierfleet_escalations_total", nano): 1,
        ("tierfleet_calls_total", model, "rejected", nano): 1,
        ("tierfleet_tokens_total", "input", nano): 70,
        ("tierfleet_tokens_total", "cached_input", nano): 30,
        ("tierfleet_tokens_total", "output", nano): 20,
        ("tierfleet_spent_dollars_total", nano): 2.5,
        ("tierfleet_calls_in_flight", model): 1,
        ("tierfleet_call_seconds_count", model): 1,
        ("tierfleet_call_seconds_sum", model): 0.75,
        ("tierfleet_permits_waiting", model): 1,
        ("tierfleet_permit_wait_seconds_count", model): 1,
        ("tierfleet_permit_wait_seconds_sum", model): 0.05,
        ("tierfleet_permits_refused_total", model, "outage"): 1,
    }


def test_names_that_are_not_configured_count_as_other_however_many_there_are() -> None:
    one = meter()
    before = Counter(key[0] for key in read(one))
    for number in range(500):
        name = f"{HOSTILE}-{number}"
        one.started(name, 1.0)
        one.booked(name, name, name, uncached=1, cached=1, output=1, nano_usd=1)
        one.call_began(name)
        one.call_ended(name, 1.0)
        one.permit_asked(name)
        one.permit_came(name, 1.0)
    now = read(one)
    assert now["tierfleet_calls_total", OTHER, "internal", OTHER] == 500
    more = Counter(key[0] for key in now) - before
    assert max(more[name] for name in more if not name.endswith("_bucket")) <= 3, "three kinds of tokens"
    assert "1e9" not in str(sorted(now))


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0"])
def test_a_model_may_be_called_whatever_it_likes(accept: str) -> None:
    tier = TierConfig(model=HOSTILE)
    config = FleetConfig(
        models={HOSTILE: ModelConfig(context_tokens=1)}, tiers=dict.fromkeys(("nano", "mini", "flagship"), tier)
    )
    one = meter(config)
    one.call_began(HOSTILE)
    body, _ = shown([one.registry], accept)
    assert b"1e9\n" not in body.replace(b"1e9\\n", b"")
    (sample,) = [
        s
        for family in text_string_to_metric_families(body.decode().removesuffix("# EOF\n"))
        if family.name == "tierfleet_calls_in_flight"
        for s in family.samples
    ]
    assert (sample.labels["model"], sample.value) == (HOSTILE, 1)
