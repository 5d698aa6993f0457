"""Owns the simulation of autoscaling: `make bench-autoscale`.

Loads that arrive as they do in practice are replayed on a virtual clock against `fleet.scaling`, the policy that a coordinator
answers KEDA with, and a model of KEDA and the Horizontal Pod Autoscaler (`benchmarks.hpa`) with the parameters of k8s/; beside
it, KEDA's plain scaling by the length of the broker's list, and fleets of a fixed size. Pods take 30 to 60 s to start, and end
with their last call. Nothing waits for the wall clock, chance is seeded, and the loads were not fitted to the figures.

Of the fixed fleets the best is the smallest that drains the work within 1 % of the time of the fastest: with more it would
stand idle, with fewer it would be slower. It is there all the time, as a fixed fleet is.

    pods_beyond_limit           most pods at a time beyond what the limit can keep busy, on the rate-limited load
    burst_drain_vs_fixed        time until a burst is done, over that of the best fixed fleet, which is warm
    burst_pod_seconds_vs_fixed  pod-seconds of that hour over those of the best fixed fleet

Each is the worst of several seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.cluster import Cluster, Load, Run
from benchmarks.hpa import SYNC_S, Autoscaler, ScaledObject
from benchmarks.rows import PEERS, ROOT
from fleet.choices import allowance_of
from fleet.config import load_config
from fleet.scaling import admissible, lanes_of
from queues.tiers import Allowance

#: What a pod takes to start: scheduling, an image that is on the node, a worker that comes up (6 to 8 s of it), some nodes that
#: have to come first.
START_S = (30.0, 60.0)
SEEDS = 3
MAX_PODS = 20
#: A fleet that takes so much of another's time is as fast.
SAME = 1.01
#: The parameters of k8s/: a pod for 95 % of its places (with all of them, what the HPA's tolerance of a tenth leaves out would
#: leave a limit unused), and two minutes of patience before pods go that took one to come.
USED, POLLING_S, WINDOW_S, COOLDOWN_S = 0.95, 5.0, 120.0, 120.0
CONFIG = load_config(ROOT / "config" / "fleet.yaml")
HOUR_S = 3_600.0


def _tier(tier: str) -> tuple[int, Allowance]:
    return CONFIG.tiers[tier].concurrency, allowance_of(CONFIG.model_of(tier)[1])


def _poisson(rate: float, from_s: float, to_s: float, chance: random.Random) -> Iterator[tuple[float, int]]:
    at = from_s + chance.expovariate(rate)
    while at < to_s:
        yield at, 1
        at += chance.expovariate(rate)


def _together(*sources: Iterator[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    return iter(sorted(one for source in sources for one in source))


def loads() -> list[Load]:
    """The traces. Limits and concurrency are those of config/fleet.yaml, an account of the fourth of five usage tiers."""
    places, limits = _tier("mini")
    nano_places, nano_limits = _tier("nano")
    small = Allowance(requests_per_minute=5_000, tokens_per_minute=2_000_000)
    return [
        # A service with customers: twenty conversations a second, each some thousand tokens and a dozen seconds.
        Load(
            name="steady",
            tier="mini",
            concurrency=places,
            allowance=limits,
            call_s=12,
            tokens=1_500,
            arrivals=lambda chance: _poisson(20, 0, HOUR_S, chance),
            work_from_s=0,
            work_to_s=HOUR_S,
            drained_from_s=HOUR_S,
            until_s=HOUR_S,
        ),
        # Somebody hands in a file of 50,000 requests, the most that vendors' batch APIs take in one, beside a trickle.
        Load(
            name="burst",
            tier="mini",
            concurrency=places,
            allowance=limits,
            call_s=12,
            tokens=1_500,
            arrivals=partial(_sized, 50_000),
            work_from_s=600,
            work_to_s=600,
            drained_from_s=600,
            until_s=HOUR_S,
        ),
        # At two in the morning everything of the day is classified; else nothing happens.
        Load(
            name="nightly batch",
            tier="nano",
            concurrency=nano_places,
            allowance=nano_limits,
            call_s=2.5,
            tokens=800,
            arrivals=lambda _: iter([(2 * HOUR_S, 100_000)]),
            work_from_s=2 * HOUR_S,
            work_to_s=2 * HOUR_S,
            drained_from_s=2 * HOUR_S,
            until_s=6 * HOUR_S,
        ),
        # A job of 30,000 on an account of the second usage tier: its tokens are the limit, 22 calls a second.
        Load(
            name="rate-limited",
            tier="mini",
            concurrency=places,
            allowance=small,
            call_s=12,
            tokens=1_500,
            arrivals=lambda _: iter([(60.0, 30_000)]),
            work_from_s=60,
            work_to_s=60,
            drained_from_s=60,
            until_s=2_400,
        ),
    ]


@dataclass(frozen=True)
class Setting:
    """What a simulation is run under, beside its load."""

    start_s: tuple[float, float] = START_S
    used: float = USED
    polling_s: float = POLLING_S
    window_s: float = WINDOW_S
    cooldown_s: float = COOLDOWN_S

    def scaled(self, load: Load) -> ScaledObject:
        return ScaledObject(
            target=math.floor(self.used * load.concurrency),
            max_replicas=MAX_PODS,
            polling_s=self.polling_s,
            cooldown_s=self.cooldown_s,
            down_window_s=self.window_s,
        )


def ours(cluster: Cluster, load: Load) -> float:
    """What `GET /admissible/TIER` answers."""
    lanes = {load.tier: replace(lanes_of(CONFIG)[load.tier], accounts=("account",))}
    return admissible(lanes, {"account": cluster.standing()}, {load.tier: cluster.survey()})[load.tier]


def whole_list(cluster: Cluster, load: Load) -> float:
    """The length of a list that all work is put into at once, as with plain Celery."""
    return cluster.backlog


def short_list(cluster: Cluster, load: Load) -> float:
    """The length of our broker's list, which has only what was released: nothing, as long as there is no worker."""
    return cluster.queued()


Metric = Callable[[Cluster, Load], float]
#: By what pods are scaled; KEDA and Kubernetes are set up alike for all of them.
SCALED: dict[str, Metric] = {
    "admissible work": ours,
    "length of a list of all work": whole_list,
    "length of our broker's list": short_list,
}


def simulate(load: Load, metric: Metric, setting: Setting, seed: int) -> Run:
    """One run under KEDA."""
    cluster = Cluster(load, seed, setting.start_s)
    scaled = setting.scaled(load)
    if metric is short_list:  # by its length a worker would never come
        scaled = replace(scaled, min_replicas=1)
        cluster.scale(1)
    scaler = Autoscaler(scaled)
    phase = random.Random(seed)

    def poll() -> None:
        scaler.poll(cluster.now, metric(cluster, load))
        cluster.scale(scaler.replicas)

    def sync() -> None:
        scaler.sync(cluster.now, metric(cluster, load), cluster.replicas)
        cluster.scale(scaler.replicas)

    cluster.every(scaled.polling_s, phase.uniform(0, scaled.polling_s), poll)
    cluster.every(SYNC_S, phase.uniform(0, SYNC_S), sync)
    return cluster.run()


def fixed(load: Load, seed: int) -> tuple[int, Run]:
    """The best fixed fleet, and its run: from more pods than the limits keep busy, down to where fewer take longer."""
    pods = min(MAX_PODS, math.ceil(load.busy_pods()) + 1)
    run = Cluster(load, seed, START_S, pods).run()
    fastest = run.drained_s
    while pods > 1 and (fewer := Cluster(load, seed, START_S, pods - 1).run()).drained_s <= SAME * fastest:
        pods, run = pods - 1, fewer
    return pods, run


def figures(all_of: dict[str, Load], setting: Setting, seeds: int) -> dict[str, float]:
    """The three figures, the worst of several seeds each."""
    limited, burst = all_of["rate-limited"], all_of["burst"]
    beyond, drain, seconds = [], [], []
    for seed in range(seeds):
        beyond.append(simulate(limited, ours, setting, seed).most_pods - math.ceil(limited.busy_pods()))
        run, (_, best) = simulate(burst, ours, setting, seed), fixed(burst, seed)
        drain.append(run.drained_s / best.drained_s)
        seconds.append(run.pod_seconds / best.pod_seconds)
    return {
        "pods_beyond_limit": max(beyond),
        "burst_drain_vs_fixed": max(drain),
        "burst_pod_seconds_vs_fixed": max(seconds),
    }


def compare(load: Load, setting: Setting) -> dict[str, Run]:
    """All ways of scaling under one load."""
    runs = {name: simulate(load, metric, setting, 0) for name, metric in SCALED.items()}
    pods, best = fixed(load, 0)
    return runs | {f"fixed fleet of {pods}": best}


def table(load: Load, runs: dict[str, Run]) -> str:
    """A line for each way of scaling."""
    head = f"{load.name} ({load.tier}; its limits keep {load.busy_pods():.1f} pods busy)"
    lines = [f"\n{head:<62}{'drained':>9}{'95% wait':>9}{'pod-s':>9}{'over':>6}{'most':>6}"]
    for name, run in runs.items():
        over = run.pod_seconds * load.concurrency / run.busy_s - 1
        drained = f"{run.drained_s:,.0f} s" if math.isfinite(run.drained_s) else "never"
        lines.append(
            f"  {name:<60}{drained:>9}{run.wait_s(0.95):>7,.0f} s{run.pod_seconds:>9,.0f}{over:>6.1f}{run.most_pods:>6}"
        )
    return "\n".join(lines)


def sensitivity(burst: Load) -> str:
    """How the figures of a burst change with what was assumed."""
    lines = ["\nburst, seed 0: drain and pod-seconds over those of the best fixed fleet"]
    _, best = fixed(burst, 0)
    for start_s in (15.0, 30.0, 60.0, 120.0):
        run = simulate(burst, ours, Setting(start_s=(start_s, start_s)), 0)
        lines.append(f"  pods start within {start_s:>4.0f} s {_over(run, best)}")
    for polling_s in (5.0, 15.0, 30.0):
        run = simulate(burst, ours, Setting(polling_s=polling_s), 0)
        lines.append(f"  KEDA polls every {polling_s:>5.0f} s {_over(run, best)}")
    for size in (10_000, 20_000, 50_000, 100_000):
        sized = replace(burst, arrivals=partial(_sized, size))
        _, its_best = fixed(sized, 0)
        lines.append(f"  a burst of {size:>13,} {_over(simulate(sized, ours, Setting(), 0), its_best)}")
    return "\n".join(lines)


def _sized(size: int, chance: random.Random) -> Iterator[tuple[float, int]]:
    return _together(_poisson(0.5, 0, HOUR_S, chance), iter([(600.0, size)]))


def _over(run: Run, best: Run) -> str:
    return f"{run.drained_s / best.drained_s:6.2f} {run.pod_seconds / best.pod_seconds:6.2f}   ({run.drained_s:,.0f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    all_of = {load.name: load for load in loads()}
    compared = {name: compare(load, Setting()) for name, load in all_of.items()}
    print(
        "drained: until the work was done · over: pod-seconds beyond what full pods would take · most: pods at a time"
    )
    for name, runs in compared.items():
        print(table(all_of[name], runs))
    print(sensitivity(all_of["burst"]))
    print()
    found = figures(all_of, Setting(), options.seeds)
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    out = ROOT / "out" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    drawn = [
        {
            "load": name,
            "busy_pods": all_of[name].busy_pods(),
            "until_s": all_of[name].until_s,
            "runs": {how: run.looks for how, run in runs.items()},
        }
        for name, runs in compared.items()
    ]
    (out / "autoscale.json").write_text(json.dumps({"figures": found, "loads": drawn}))
    subprocess.run(
        [
            str(PEERS / "python"),
            "-m",
            "benchmarks.autoscale_plot",
            str(out / "autoscale.json"),
            str(out / "autoscale.png"),
        ],
        cwd=ROOT,
        check=True,
    )
    print(f"The plot: {Path(out / 'autoscale.png')}")


if __name__ == "__main__":
    main()
