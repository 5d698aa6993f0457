"""Where a step starts, and who answers next."""

from __future__ import annotations

import pytest

from fleet.jobs import Step
from fleet.router import ladder_of, next_tier, start_tier
from tests.support.sim import fleet_config

CONFIG = fleet_config()


def step(**fields: object) -> Step:
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


@pytest.mark.parametrize(
    ("fields", "rungs"),
    [
        ({}, ("nano", "mini", "flagship")),
        ({"tier": "mini"}, ("mini", "flagship")),
        ({"tier": "mini", "max_tier": "nano"}, ("mini",)),
        ({"ladder": ["nano", "flagship"]}, ("nano", "flagship")),
        ({"ladder": ["nano", "mini", "flagship"], "max_tier": "mini"}, ("nano", "mini")),
        ({"ladder": ["nano", "gone", "flagship"]}, ("nano", "flagship")),
        ({"ladder": ["gone"]}, ("nano", "mini", "flagship")),
    ],
)
def test_the_tiers_that_a_step_may_use(fields: dict[str, object], rungs: tuple[str, ...]) -> None:
    assert ladder_of(step(**fields), CONFIG) == rungs
    for lower, upper in zip(rungs, [*rungs[1:], None], strict=True):
        assert next_tier(step(**fields), lower, CONFIG) == upper


def test_a_ladder_may_leave_a_tier_out() -> None:
    skipping = {"ladder": ["nano", "flagship"], "kind": "summarise"}
    assert start_tier(step(**skipping), CONFIG) == "nano"
    assert start_tier(step(kind="summarise", ladder=["mini", "flagship"]), CONFIG) == "mini"
    assert start_tier(step(kind="classify", ladder=["mini", "flagship"]), CONFIG) == "mini"
    assert next_tier(step(**skipping), "mini", CONFIG) == "flagship", "it was handed on by another plan"
    assert next_tier(step(ladder=["nano", "mini"]), "flagship", CONFIG) is None
