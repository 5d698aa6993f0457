"""Where a step starts, and who answers next."""

from __future__ import annotations

import pytest

from fleet.jobs import Step
from fleet.router import next_tier, start_tier
from tests.support.sim import fleet_config

CONFIG = fleet_config()


def step(**fields: str) -> Step:
    return Step.model_validate({"id": "work", "prompt": "x"} | fields)


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({"tier": "flagship"}, "flagship"),
        ({"tier": "nano", "kind": "write"}, "nano"),
        ({"kind": "classify"}, "nano"),
        ({"kind": "ticket-topic"}, "nano"),
        ({"id": "extract_names"}, "nano"),
        ({"id": "extract_names", "kind": "summary"}, "mini"),
        ({"kind": "summarise"}, "mini"),
        ({"kind": "migration-plan"}, "flagship"),
        ({"kind": "migration-plan", "max_tier": "mini"}, "mini"),
        ({"kind": "summarise", "max_tier": "nano"}, "nano"),
        ({"kind": "summarise", "max_tier": "mini"}, "mini"),
    ],
)
def test_a_step_starts_on_its_tier_or_where_its_kind_is_done_well(fields: dict[str, str], tier: str) -> None:
    assert start_tier(step(**fields), CONFIG) == tier


@pytest.mark.parametrize(
    ("top", "tier", "following"),
    [
        (None, "nano", "mini"),
        (None, "mini", "flagship"),
        (None, "flagship", None),
        ("mini", "nano", "mini"),
        ("mini", "mini", None),
        ("nano", "nano", None),
        ("nano", "mini", None),
        ("mini", "flagship", None),
    ],
)
def test_the_ladder_is_climbed_rung_by_rung_up_to_the_ceiling(
    top: str | None, tier: str, following: str | None
) -> None:
    assert next_tier(step(**({"max_tier": top} if top else {})), tier, CONFIG) == following
