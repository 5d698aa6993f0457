"""Trails and outcomes survive the store as they were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.entries import Asked
from fleet.jobs import Attempt
from fleet.outcomes import Kept, Trail, output_of
from fleet.prices import Usage
from queues.subtasks import Result, State

COUNTS = st.integers(min_value=0, max_value=10**12)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=50)


@settings(deadline=None)  # the machine is shared
@given(
    st.lists(st.builds(Attempt, tier=TEXTS, model=TEXTS, answer=TEXTS, reason=TEXTS), max_size=4),
    COUNTS,
    st.builds(Usage, input_tokens=COUNTS, cached_tokens=COUNTS, output_tokens=COUNTS, reasoning_tokens=COUNTS),
    COUNTS,
)
def test_a_trail_comes_back_as_it_was(attempts: list[Attempt], calls: int, usage: Usage, cost: int) -> None:
    trail = Trail(attempts, calls, asked=Asked(calls + 1, usage, cost))
    assert Trail.load(trail.dump()) == trail


def test_no_text_is_the_trail_of_a_first_attempt() -> None:
    assert Trail.load("") == Trail([], 0, asked=Asked(0, Usage(), 0))


@pytest.mark.parametrize("output", ["text", {"topic": "bug", "n": [1, None]}, None, "ä\u2028", [], 0])
def test_an_accepted_output_comes_back_with_what_it_took(output: object) -> None:
    trail = Trail([], 2, asked=Asked(3, Usage(input_tokens=10, output_tokens=5), 1_500_000_000))
    document = trail.document(Kept(output, "small", "nano"), error=None, tier="nano")
    found = output_of(Result("j/note/0", State.FINAL, "mini", "ok", document))
    assert (found.step, found.status, found.output, found.error) == ("note", "ok", output, None)
    assert (found.tier, found.model, found.attempts, found.usage.total) == ("mini", "small", 2, 15)
    assert found.cost_usd == 1.5


@pytest.mark.parametrize("result", [None, Result("j/note", State.RUNNING, "nano", None, None)])
def test_what_never_ended_counts_as_failed(result: Result | None) -> None:
    found = output_of(result)
    assert (found.status, found.error) == ("failed", "it never ended")
