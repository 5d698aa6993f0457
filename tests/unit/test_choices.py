"""What a call holds by lane and provider, and at what its answer is booked."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.choices import Choice, answered, choose
from fleet.entries import Purpose
from fleet.ledger import AT_MOST
from fleet.prices import Usage
from fleet.providers.base import Completion, ask
from queues.subtasks import Claim
from tests.support.bench import GOOD
from tests.support.lanes import lanes_config

CONFIG = lanes_config()
CLAIM = Claim("j/s/0", "nano", 1, "", "", 0, 1)
PURPOSE = Purpose("j", "j/s/0", CLAIM, "s", "s", "work", "nano", record="j/1.0.0")


def chosen(lane: Any = "standard", says_default: bool = True) -> Choice:
    request = ask("Say.", max_output_tokens=100)
    return choose(CONFIG, "nano", GOOD, request, reattaches=False, says_default=says_default, lane=lane)


def answer(usage: Usage, *, reported: bool = True, tier: str | None = None) -> Completion:
    return Completion("fine", "stop", usage, reported, "m", None, service_tier=tier)


@pytest.mark.parametrize(("lane", "asked"), [("standard", "default"), ("flex", "flex"), ("batch", None)])
def test_a_call_says_how_it_is_to_be_served_and_a_line_of_a_batch_nothing(lane: Any, asked: str | None) -> None:
    assert chosen(lane).request.service_tier == asked


@pytest.mark.parametrize("tier", [None, "default", "flex", "scale"])
@pytest.mark.parametrize("lane", ["standard", "flex", "batch"])
def test_all_that_a_call_can_use_is_believed_in_every_lane_and_a_token_more_is_not(lane: Any, tier: str | None) -> None:
    drafted = chosen(lane).draft(PURPOSE, "c")
    worst = drafted.worst.usage
    for usage in (worst, worst.model_copy(update={"cached_tokens": worst.input_tokens}), Usage()):
        call = answered(CONFIG, drafted, answer(usage, tier=tier))
        assert (call.entry.usage, call.entry.usage_reported, call.entry.reason) == (usage, True, None)
        assert call.entry.cost_nano_usd <= drafted.worst.cost_nano_usd
    for field in ("input_tokens", "output_tokens"):
        more = worst.model_copy(update={field: getattr(worst, field) + 1})
        call = answered(CONFIG, drafted, answer(more, tier=tier))
        assert (call.entry.usage, call.entry.usage_reported, call.entry.reason) == (worst, False, AT_MOST)
        assert call.completion.usage == worst
        assert call.entry.cost_nano_usd == drafted.worst.cost_nano_usd


def test_a_line_of_a_batch_whose_usage_nobody_tells_is_booked_at_its_most() -> None:
    """Its prompt is in a file at the vendor: an estimate would be of the answer alone."""
    few = answer(Usage(output_tokens=1), reported=False)
    drafted = chosen("batch").draft(PURPOSE, "c")
    call = answered(CONFIG, drafted, few)
    assert (call.entry.cost_nano_usd, call.entry.reason) == (drafted.worst.cost_nano_usd, AT_MOST)
    estimated = answered(CONFIG, chosen().draft(PURPOSE, "c"), few)
    assert (estimated.entry.usage, estimated.entry.usage_reported, estimated.entry.reason) == (few.usage, False, None)
