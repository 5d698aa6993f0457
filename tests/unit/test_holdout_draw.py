"""Which subtasks are asked of the flagship for comparison: few, the same ones again, any of them equally likely."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.holdout import drawn
from fleet.quality_config import HoldoutConfig

shares = st.floats(min_value=0.0001, max_value=1)


def draw(rule: HoldoutConfig, items: int, job: str = "j-1", step: str = "classify") -> list[int]:
    return [item for item in range(items) if drawn(rule, job, step, item, items)]


@given(shares, st.integers(1, 30), st.integers(1, 2_000), st.text(min_size=1, max_size=8))
def test_never_more_than_at_most_nor_a_whole_one_off_the_share(share: float, most: int, items: int, job: str) -> None:
    rule = HoldoutConfig(share=share, at_most=most)
    found = draw(rule, items, job)
    assert len(found) <= most
    assert abs(len(found) - min(share * items, most)) < 1
    assert draw(rule, items, job) == found, "the same ones again"


def test_all_of_them_and_one_without_items() -> None:
    everything = HoldoutConfig(share=1, at_most=1_000)
    assert draw(everything, 500) == list(range(500))
    assert drawn(everything, "j", "brief", None, 500)


def test_every_item_is_as_likely_as_any_other_and_small_jobs_take_part_in_proportion() -> None:
    rule = HoldoutConfig(share=0.1)
    counts = [0] * 7
    jobs = 4_000
    for job in range(jobs):
        for item in draw(rule, 7, f"j{job}"):
            counts[item] += 1
    # 400 expected of each, with a standard deviation of 19.
    assert all(320 < count < 480 for count in counts), counts


def test_steps_and_jobs_draw_for_themselves() -> None:
    rule = HoldoutConfig(share=0.05)
    draws = {tuple(draw(rule, 100, job, step)) for job in ("a", "b", "c") for step in ("one", "two")}
    assert len(draws) == 6
