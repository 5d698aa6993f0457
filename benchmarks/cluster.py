"""A tier's workers as pods on a virtual clock: work arrives, waits for a pod with a free place and for its account, and runs.

It owns what the simulation takes for real: how long pods take to start and to end, how calls are let start by an account with
limits (evenly spaced, as by queues/lua/permit.lua), and what a survey and a look at the account would say at any moment. Who
decides how many pods there are is handed in. It reads no wall clock: the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from queues.limits import Standing, Took
from queues.survey import TierSurvey
from queues.tiers import Allowance

#: So far ahead of its start a subtask is let out to a worker (queues/lua/release.lua), and for so long what was not used of a
#: limit is made up for (queues/lua/_permits.lua).
AHEAD_S = BURST_S = 1.0
#: The window of a tier is so much of what its workers can run (there, too).
WINDOW = 1.125
#: Of so many calls it is remembered how long they took (queues/lua/permit_return.lua).
REMEMBERED = 200
#: How often a run is looked at for the plot, and after how many times its length one that does not come to an end is left.
LOOK_S, LONGEST = 10.0, 10


@dataclass(frozen=True)
class Load:
    """What arrives on a tier and what its calls are like."""

    name: str
    #: The tier of config/fleet.yaml whose concurrency a pod has.
    tier: str
    concurrency: int
    allowance: Allowance
    #: Seconds and tokens of a call: the mean, and the spread of a log-normal distribution.
    call_s: float
    tokens: float
    #: From an own source of chance: (moment, subtasks that arrive then), in order.
    arrivals: Callable[[random.Random], Iterator[tuple[float, int]]]
    #: What arrives within is what has to be drained; it is timed from `drained_from_s` on.
    work_from_s: float
    work_to_s: float
    drained_from_s: float
    #: The run ends then, or when all work is done.
    until_s: float
    spread: float = 0.6

    def busy_pods(self) -> float:
        """Pods whose places the account's limits can keep busy, by Little's law."""
        limits = self.allowance
        rates = [
            one / 60
            for one in (
                limits.requests_per_minute,
                limits.tokens_per_minute and limits.tokens_per_minute / self.tokens,
            )
            if one is not None
        ]
        in_flight = min([rate * self.call_s for rate in rates] + [limits.in_flight or math.inf])
        return in_flight / self.concurrency


@dataclass
class Pod:
    """A worker, from when it is asked for."""

    created_s: float
    ready_s: float
    running: int = 0
    stopped: bool = False


@dataclass
class Run:
    """What came of a load under one way of scaling."""

    drained_s: float = math.inf
    pod_seconds: float = 0.0
    #: Seconds of calls: what pods are for.
    busy_s: float = 0.0
    #: Most pods at a time, those that start or end among them.
    most_pods: int = 0
    #: Seconds that subtasks waited before their call, sorted at the end.
    waits: list[float] = field(default_factory=list)
    #: (moment, pods, work that waits or runs) every `LOOK_S`.
    looks: list[tuple[float, int, int]] = field(default_factory=list)

    def wait_s(self, share: float) -> float:
        return self.waits[min(len(self.waits) - 1, int(share * len(self.waits)))] if self.waits else 0.0


class Cluster:
    """One run; call `run`."""

    def __init__(self, load: Load, seed: int, start_s: tuple[float, float], pods: int = 0) -> None:
        """`start_s`: the least and most that a pod takes to start; `pods`: there and ready from the beginning."""
        self.now = 0.0
        self._load = load
        #: Calls start in the order of arrival, so each is the same under every way of scaling (common random numbers).
        self._calls = random.Random(f"{seed} {load.name} calls")
        self._pods = random.Random(f"{seed} {load.name} pods")
        self._starts_s = start_s
        self.pods = [Pod(0.0, 0.0) for _ in range(pods)]
        #: Those that take work.
        self._working = list(self.pods)
        self.result = Run(most_pods=pods)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = iter(range(1 << 62))
        self._arrivals = load.arrivals(random.Random(f"{seed} {load.name} arrivals"))
        #: Moments of arrival of what has not been taken yet, in order.
        self._waiting: deque[tuple[float, int]] = deque()
        self._backlog = 0
        self._timed = 0
        self._all_arrived = False
        #: The account: when the next start is due by either limit; starts of the last minute with their tokens; those to come.
        self._requests_at = self._tokens_at = self._last_s = 0.0
        self._starts: deque[tuple[float, float]] = deque()
        self._flying = 0
        self._to_come = 0
        self._took: tuple[float, float, int] = (0.0, 0.0, 0)
        self._pump_at = math.inf

    def every(self, period_s: float, first_s: float, what: Callable[[], None]) -> None:
        """Call something again and again."""

        def again() -> None:
            what()
            self._at(self.now + period_s, again)

        self._at(first_s, again)

    def run(self) -> Run:
        """To the end of the load, or of its work, whichever is later."""
        self._arrive_next()
        self.every(LOOK_S, 0.0, self._look)
        while self.now < self._load.until_s or (self._open() and self.now < LONGEST * self._load.until_s):
            self.now, _, what = heapq.heappop(self._events)
            what()
        for pod in self.pods:
            self._gone(pod)
        self.result.waits.sort()
        return self.result

    def scale(self, replicas: int) -> None:
        """As a Deployment: ask for more pods, or tell some to stop, first those that are not ready, then the newest."""
        there = [pod for pod in self.pods if not pod.stopped]
        for _ in range(replicas - len(there)):
            pod = Pod(self.now, self.now + self._pods.uniform(*self._starts_s))
            self.pods.append(pod)
            self._at(pod.ready_s, partial(self._come, pod))
        self.result.most_pods = max(self.result.most_pods, len(self.pods))
        order = sorted(there, key=lambda pod: (pod.ready_s <= self.now, -pod.created_s))
        for pod in order[: max(0, len(there) - replicas)]:
            pod.stopped = True  # it takes nothing more, and ends with its last call
            if pod in self._working:
                self._working.remove(pod)
            self._end_if_done(pod)

    @property
    def replicas(self) -> int:
        """Pods that are there and were not told to stop."""
        return sum(not pod.stopped for pod in self.pods)

    def survey(self) -> TierSurvey:
        """As a survey of the store would find the tier."""
        workers, queued = len(self._working), self.queued()
        held = self._backlog - queued
        return TierSurvey(held, self._flying + queued, workers, workers * self._load.concurrency, affordable=held)

    def queued(self) -> int:
        """Released and not taken by a worker yet: what is in the broker's list."""
        window = len(self._working) * math.ceil(WINDOW * self._load.concurrency)
        return 0 if self._blocked() else max(0, min(self._backlog, window - self._flying))

    @property
    def backlog(self) -> int:
        """What no worker has taken."""
        return self._backlog

    def standing(self) -> Standing:
        """As a look at the account would find it."""
        limits = self._load.allowance
        while self._starts and self._starts[0][0] < self.now - 60:
            self._starts.popleft()
        begun = [tokens for at, tokens in self._starts if at <= self.now]
        mean_s, mean_tokens, seen = self._took
        return Standing(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            in_flight=limits.in_flight,
            requests=len(begun),
            tokens=round(sum(begun)),
            calls=self._flying,
            next_s=self._next_s - self.now,
            paused_s=0.0,
            outage_s=None,
            waiting=self._to_come,
            took={self._load.tier: Took(mean_s, math.ceil(mean_tokens))} if seen else {},
        )

    def _open(self) -> bool:
        return bool(self._backlog or self._flying or not self._all_arrived)

    def _come(self, pod: Pod) -> None:
        if not pod.stopped:
            self._working.append(pod)
            self._pump()

    @property
    def _next_s(self) -> float:
        """When the next call may start."""
        return max(self.now, self._requests_at, self._tokens_at, self._last_s)

    def _blocked(self) -> bool:
        """Whether it is the account that keeps the next from starting."""
        limits = self._load.allowance
        return self._next_s > self.now + AHEAD_S or self._flying >= (limits.in_flight or math.inf)

    def _arrive_next(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is None:
            self._all_arrived = True
            return
        at, number = arrival

        def arrive() -> None:
            self._waiting.append((at, number))
            self._backlog += number
            if self._load.work_from_s <= at <= self._load.work_to_s:
                self._timed += number
            self._arrive_next()
            self._pump()

        self._at(at, arrive)

    def _pump(self) -> None:
        """Let start what may, on the pod that has the most room."""
        while self._backlog and self._working:
            pod = min(self._working, key=_running)
            if pod.running >= self._load.concurrency:
                return
            if self._blocked():
                if self._next_s > self.now + AHEAD_S:
                    self._pump_later(self._next_s - AHEAD_S)
                return
            self._start(pod)

    def _pump_later(self, at: float) -> None:
        if at >= self._pump_at:
            return
        self._pump_at = at

        def pump() -> None:
            self._pump_at = math.inf
            self._pump()

        self._at(at, pump)

    def _start(self, pod: Pod) -> None:
        arrived, number = self._waiting[0]
        if number == 1:
            self._waiting.popleft()
        else:
            self._waiting[0] = (arrived, number - 1)
        self._backlog -= 1
        tokens = self._draw(self._load.tokens)
        start = self._last_s = self._next_s
        limits = self._load.allowance
        if limits.requests_per_minute is not None:
            self._requests_at = max(self.now - BURST_S, self._requests_at) + 60 / limits.requests_per_minute
        if limits.tokens_per_minute is not None:
            self._tokens_at = max(self.now - BURST_S, self._tokens_at) + 60 * tokens / limits.tokens_per_minute
        self._starts.append((start, tokens))
        pod.running += 1
        self._flying += 1
        self.result.waits.append(start - arrived)
        took = self._draw(self._load.call_s)
        if start > self.now:
            self._to_come += 1
            self._at(start, self._begun)
        self._at(start + took, partial(self._end, pod, arrived, took, tokens))

    def _begun(self) -> None:
        self._to_come -= 1

    def _end(self, pod: Pod, arrived: float, took: float, tokens: float) -> None:
        pod.running -= 1
        self._flying -= 1
        self.result.busy_s += took
        mean_s, mean_tokens, n = self._took
        n = min(n + 1, REMEMBERED)
        self._took = (mean_s + (took - mean_s) / n, mean_tokens + (tokens - mean_tokens) / n, n)
        if self._load.work_from_s <= arrived <= self._load.work_to_s:
            self._timed -= 1
            if self._timed == 0 and self.now >= self._load.work_to_s:
                self.result.drained_s = self.now - self._load.drained_from_s
        self._end_if_done(pod)
        self._pump()

    def _end_if_done(self, pod: Pod) -> None:
        if pod.stopped and pod.running == 0:
            self.pods.remove(pod)
            self._gone(pod)

    def _gone(self, pod: Pod) -> None:
        self.result.pod_seconds += self.now - pod.created_s

    def _look(self) -> None:
        self.result.looks.append((self.now, len(self.pods), self._backlog + self._flying))

    def _draw(self, mean: float) -> float:
        """Log-normal with this mean; its median lies below."""
        spread = self._load.spread
        return self._calls.lognormvariate(math.log(mean) - spread**2 / 2, spread)

    def _at(self, at: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), what))


def _running(pod: Pod) -> int:
    return pod.running
