"""How simulated models behave when nobody says so: by their rank in price."""

from __future__ import annotations

import random

import pytest

from fleet.sim.asked import Asked
from fleet.sim.produce import Fault, dice_for, fault_of, produce
from fleet.sim.settings import CHEAPEST, DEAREST, MIDDLE, Faults, Latency, Manner, SimSettings
from tests.support.sim import MODELS, fleet_config

FREE = Manner(latency=Latency(base_s=1, per_output_token_s=0.1, per_1k_input_s=10), invalid_output=0)
ASKED = Asked(model="m", instructions="", prompt="The pump in hall 3 leaks.", effort="medium")


def test_the_cheapest_is_fast_and_errs_and_the_dearest_does_not() -> None:
    assert SimSettings().manners(fleet_config()) == dict(zip(MODELS, (CHEAPEST, MIDDLE, DEAREST), strict=True))


def test_what_is_said_of_a_model_wins() -> None:
    slow = Latency(base_s=9, per_output_token_s=0, per_1k_input_s=0)
    manners = SimSettings(latency={MODELS[0]: slow}, invalid_output={MODELS[2]: 0.5}).manners(fleet_config())
    assert manners[MODELS[0]] == Manner(latency=slow, invalid_output=0.04)
    assert manners[MODELS[2]] == Manner(latency=DEAREST.latency, invalid_output=0.5)


def test_faults_come_as_often_as_said() -> None:
    dice = random.Random(1)
    faults = Faults(hang=0.1, refusal=0.3)
    found = [fault_of(faults, dice) for _ in range(4000)]
    wanted: list[tuple[Fault, float]] = [("hang", 0.1), ("refusal", 0.3), ("reset", 0)]
    for name, share in wanted:
        assert found.count(name) / 4000 == pytest.approx(share, abs=0.03)


def test_dice_fall_by_seed_content_call_and_repetition_alone() -> None:
    rolls = {
        dice_for(seed, content, call_id, seen).random()
        for seed in (1, 2)
        for content in (b"a", b"b")
        for call_id in ("x", None)
        for seen in (0, 1)
    }
    assert len(rolls) == 16
    assert dice_for(1, b"a", "x", 0).random() in rolls


def test_time_and_tokens_follow_from_what_was_written() -> None:
    made = produce(
        ASKED,
        manner=FREE,
        fault=None,
        dice=random.Random(3),
        tokens_in=1000,
        tokens_cached=0,
        max_output_tokens=400,
        rework=0,
    )
    assert made.usage.reasoning_tokens == 100
    written = made.usage.output_tokens - 100
    assert made.first_s / made.rest_s == pytest.approx((1 + 10 + 10) / (written * 0.1))
    assert 0.8 <= made.first_s / 21 <= 1.2
