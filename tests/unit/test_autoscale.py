"""The simulation of autoscaling on small loads: it repeats itself, and what it replays is what coordinators answer with."""

from __future__ import annotations

import math
from dataclasses import replace

from benchmarks.autoscale import Setting, fixed, ours, simulate, whole_list
from benchmarks.cluster import Cluster, Load
from queues.tiers import Allowance

#: A job of a thousand at once, of calls of six seconds on pods of ten; ten calls a second keep six pods busy.
LOAD = Load(
    name="small",
    tier="mini",
    concurrency=10,
    allowance=Allowance(requests_per_minute=600),
    call_s=6,
    tokens=100,
    arrivals=lambda _: iter([(30.0, 1_000)]),
    work_from_s=30,
    work_to_s=30,
    drained_from_s=30,
    until_s=60,
)


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    first, again, other = (simulate(LOAD, ours, Setting(), seed) for seed in (1, 1, 2))
    assert first == again
    assert first.waits != other.waits


def test_all_work_is_done_once_and_no_faster_than_limit_and_places_allow() -> None:
    run = Cluster(LOAD, 1, (0, 0), pods=20).run()
    assert len(run.waits) == 1_000
    assert run.drained_s >= 100
    few = Cluster(LOAD, 1, (0, 0), pods=3).run()
    assert few.drained_s >= 0.95 * 1_000 * 6 / 30
    unlimited = Cluster(replace(LOAD, allowance=Allowance()), 1, (0, 0), pods=100).run()
    assert unlimited.drained_s < 60, "all at once, as long as the longest call takes"
    held = Cluster(replace(LOAD, allowance=Allowance(in_flight=30)), 1, (0, 0), pods=100).run()
    assert held.drained_s >= 0.95 * 1_000 * 6 / 30


def test_work_behind_a_rate_limit_adds_no_pods_that_it_cannot_keep_busy() -> None:
    assert LOAD.busy_pods() == 6
    run = simulate(LOAD, ours, Setting(), 0)
    assert 6 <= run.most_pods <= 7
    assert simulate(LOAD, whole_list, Setting(), 0).most_pods == 20


def test_the_best_fixed_fleet_is_what_the_limit_keeps_busy() -> None:
    pods, run = fixed(LOAD, 0)
    assert pods in (6, 7)
    assert run.pod_seconds >= pods * run.drained_s


def test_a_pod_that_is_told_to_stop_takes_nothing_more_and_ends_with_its_last_call() -> None:
    few = replace(LOAD, allowance=Allowance(), arrivals=lambda _: iter([(30.0, 300)]))
    cluster = Cluster(few, 1, (0, 0), pods=2)
    told: list[int] = []

    def stop() -> None:
        cluster.scale(1)
        told.extend(sorted(pod.running for pod in cluster.pods))

    cluster.every(math.inf, 40.0, stop)
    run = cluster.run()
    assert told == [10, 10], "it is still there"
    assert len(run.waits) == 300
    assert run.pod_seconds < 1.5 * (30 + run.drained_s)
    assert run.drained_s > 0.9 * 300 * 6 / 10
