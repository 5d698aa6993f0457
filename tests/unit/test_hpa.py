"""The model of KEDA and the HPA that autoscaling is simulated with: what each of them does with a number."""

from __future__ import annotations

from benchmarks.hpa import SYNC_S, Autoscaler, Policy, ScaledObject


def synced(scaler: Autoscaler, values: list[float], *, from_s: float = 0.0) -> list[int]:
    """Replicas after each sync, pods coming at once."""
    found = []
    for number, value in enumerate(values):
        scaler.sync(from_s + number * SYNC_S, value, scaler.replicas)
        found.append(scaler.replicas)
    return found


def active(**fields: object) -> Autoscaler:
    """At one replica, KEDA having seen work at the moment 0."""
    scaler = Autoscaler(ScaledObject(target=10, **fields))  # type: ignore[arg-type]
    scaler.poll(0, 1)
    return scaler


def test_none_becomes_one_with_the_first_work_and_the_hpa_does_the_rest() -> None:
    scaler = Autoscaler(ScaledObject(target=10))
    scaler.sync(0, 500, 0)
    assert scaler.replicas == 0, "an HPA leaves what has no replicas alone"
    scaler.poll(1, 0)
    assert scaler.replicas == 0
    scaler.poll(2, 500)
    assert scaler.replicas == 1


def test_up_by_four_or_by_as_many_as_there_are_within_fifteen_seconds() -> None:
    assert synced(active(), [1_000] * 6) == [5, 10, 20, 40, 80, 100]


def test_a_period_counts_what_was_added_in_it() -> None:
    scaler = active(up=(Policy("Pods", 3, 60),))
    assert synced(scaler, [1_000] * 6) == [4, 4, 4, 4, 7, 7]


def test_no_more_than_the_most_and_no_less_than_one() -> None:
    assert synced(active(max_replicas=7), [1_000] * 3) == [5, 7, 7]
    assert synced(active(down_window_s=0), [0, 0]) == [1, 1]


def test_a_tenth_too_many_or_too_few_changes_nothing() -> None:
    scaler = active(down_window_s=0)
    assert synced(scaler, [100, 100, 110, 90, 111, 89]) == [5, 10, 10, 10, 12, 9]


def test_down_only_when_nothing_within_the_window_recommended_more() -> None:
    scaler = active(down_window_s=60)
    assert synced(scaler, [50, 20, 20, 20, 20, 20, 20]) == [5, 5, 5, 5, 2, 2, 2]


def test_up_only_as_far_as_all_within_the_window_recommended() -> None:
    scaler = active(up_window_s=30)
    assert synced(scaler, [10, 50, 50, 50]) == [1, 1, 5, 5]


def test_to_none_once_there_was_no_work_for_the_cooldown_however_many_there_are() -> None:
    scaler = active(cooldown_s=60, down_window_s=300)
    synced(scaler, [50])
    assert scaler.replicas == 5
    scaler.poll(40, 0)
    scaler.poll(60, 0)
    assert scaler.replicas == 5
    scaler.poll(61, 0)
    assert scaler.replicas == 0
