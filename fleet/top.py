"""The fleet at one moment, and how fast it moves: what `fleet top` shows, as data.

It asks the store a bounded number of things for each look, however many jobs there are. Rates are differences between looks at
counters that the store keeps for the whole fleet, so whoever asks for one look waits a second for them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from fleet.accounts import AccountLimits
from fleet.client import FleetClient
from fleet.config import Frozen
from fleet.errors import JobNotFoundError
from fleet.jobs import JobStatus
from fleet.prices import NANO_PER_USD
from fleet.progress import Progress
from fleet.runtime import NAMESPACE
from fleet.store import Job
from fleet.waits import Wait
from queues.limits import Standing
from queues.pulse import Pulse
from queues.survey import Survey
from queues.tiers import Allowance

#: Jobs shown; looked at for that: those with work under way or ready, and the newest.
MOST_JOBS, MOST_BUSY, MOST_NEW = 10, 100, 20
#: Rates are those of the last so many seconds.
RATE_S = 10.0

#: What is counted of a tier since the store is there, as the store names it; the amount is in nano-dollars.
_COUNTED = ("calls", "tokens", "amount")
#: tier -> what -> number.
Spent = Mapping[str, Mapping[str, int]]


class TopTier(Frozen):
    """One tier. Rates are None until there are two looks to take them from; `queue` where the broker does not say."""

    tier: str
    model: str | None
    #: Ready and not released; messages that no worker has taken; released and with a worker.
    backlog: int
    queue: int | None
    running: int
    capacity: int
    workers: int
    calls_per_s: float | None
    tokens_per_s: float | None
    usd_per_hour: float | None


class TopJob(Frozen):
    """One job that has not ended."""

    id: str
    name: str
    status: str
    done: int
    failed: int
    running: int
    total: int
    cost_usd: float
    budget_usd: float | None
    #: What its subtasks wait for, or why it is paused.
    waits: tuple[Wait, ...]
    note: str


class Top(Frozen):
    """The fleet now; `at`: seconds since 1970 by the store's clock."""

    at: float
    simulated: bool
    tiers: tuple[TopTier, ...]
    accounts: tuple[AccountLimits, ...]
    jobs: tuple[TopJob, ...]
    usd_per_hour: float | None
    #: Claims, messages and gates whose time is over: the reconciler should be putting them back.
    overdue: int


class Looks:
    """Looks at one fleet, one after the other."""

    def __init__(self, client: FleetClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._runtime = client.runtime
        self._pulse = Pulse(self._runtime.link, NAMESPACE, list(self._runtime.tiers))
        self._clock = clock
        #: Earlier counters, and when they were read.
        self._earlier: deque[tuple[float, Spent]] = deque()

    async def begin(self) -> None:
        """Read the counters, so that the next look has rates. Raises RedisError."""
        self._earlier.append((self._clock(), await self._pulse.spent()))

    async def look(self) -> Top:
        """The fleet now. Raises RedisError."""
        runtime = self._runtime
        queues = [tier.queue for tier in runtime.tiers.values()]
        at, survey, spent, lengths, accounts = await asyncio.gather(
            runtime.store.now(),
            runtime.surveyor.survey(),
            self._pulse.spent(),
            runtime.publisher.lengths(queues),
            self._client.limits(),
        )
        rates = self._rates(spent)
        tiers = []
        for name, its in survey.tiers.items():
            queue = lengths.get(runtime.tiers[name].queue)
            calls, tokens, nano_usd = rates.get(name, (None, None, None))
            tiers.append(
                TopTier(
                    tier=name,
                    model=runtime.config.tiers[name].model if name in runtime.config.tiers else None,
                    backlog=its.ready,
                    queue=queue,
                    running=max(0, its.out - (queue or 0)),
                    capacity=its.capacity,
                    workers=its.workers,
                    calls_per_s=calls,
                    tokens_per_s=tokens,
                    usd_per_hour=None if nano_usd is None else nano_usd * 3600 / NANO_PER_USD,
                )
            )
        known = [tier.usd_per_hour for tier in tiers if tier.usd_per_hour is not None]
        return Top(
            at=at,
            simulated=await runtime.simulation.known(),
            tiers=tuple(tiers),
            accounts=tuple(accounts),
            jobs=tuple(await self._jobs(survey)),
            usd_per_hour=sum(known) if known else None,
            overdue=survey.overdue,
        )

    def _rates(self, spent: Spent) -> dict[str, tuple[float, float, float]]:
        """By tier, calls, tokens and nano-dollars a second, between an earlier look and now."""
        now = self._clock()
        while len(self._earlier) > 1 and self._earlier[1][0] <= now - RATE_S:
            self._earlier.popleft()
        found = {}
        if self._earlier and (passed := now - self._earlier[0][0]) > 0:
            before = self._earlier[0][1]
            for tier in self._runtime.tiers:
                more = (spent.get(tier, {}).get(what, 0) - before.get(tier, {}).get(what, 0) for what in _COUNTED)
                calls, tokens, amount = (number / passed for number in more)
                found[tier] = (calls, tokens, amount)
        self._earlier.append((now, spent))
        return found

    async def _jobs(self, survey: Survey) -> list[TopJob]:
        """The jobs with the most under way, then those with the most ready, then the newest."""
        runtime = self._runtime
        busy, newest = await asyncio.gather(self._pulse.busy(MOST_BUSY), self._client.latest(MOST_NEW))
        ids = list(dict.fromkeys([*busy, *(job_id for job_id, _ in newest)]))
        counted = await asyncio.gather(*(runtime.store.counts(job_id) for job_id in ids))
        counts = dict(zip(ids, counted, strict=True))
        ids.sort(key=lambda job_id: _activity(counts[job_id]), reverse=True)
        # Some of the newest have ended.
        loaded = await asyncio.gather(*map(self._open, ids[: MOST_JOBS + MOST_NEW]))
        jobs = [job for job in loaded if job is not None][:MOST_JOBS]
        standings: dict[str, Standing] = {}

        async def look(account: str, allowance: Allowance) -> Standing:
            if account not in standings:
                standings[account] = await runtime.limiter.look(account, allowance)
            return standings[account]

        shown = []
        for job in jobs:
            progress, calls = await asyncio.gather(self._client.progress(job), self._pulse.calls(job.id))
            waits: list[Wait] = []
            if job.status is not JobStatus.PAUSED:
                waits = await self._client.waits_in(job, replace(survey, counts=counts[job.id], calls=calls), look)
            shown.append(_shown(progress, waits))
        return shown

    async def _open(self, job_id: str) -> Job | None:
        """None: it has ended, or is gone."""
        try:
            job = await self._client.job(job_id)
        except JobNotFoundError:
            return None
        return None if job.status.final else job


def _activity(counts: Mapping[str, Mapping[str, int]]) -> tuple[int, int]:
    """Subtasks under way, and ready ones."""
    under_way = sum(tier.get("running", 0) + tier.get("queued", 0) for tier in counts.values())
    return under_way, sum(tier.get("ready", 0) for tier in counts.values())


def _shown(progress: Progress, waits: list[Wait]) -> TopJob:
    tiers = progress.tiers.values()
    budget = progress.budget_nano_usd
    return TopJob(
        id=progress.job_id,
        name=progress.name,
        status=progress.status.value,
        done=sum(tier.done for tier in tiers),
        failed=sum(tier.failed for tier in tiers),
        running=sum(tier.running for tier in tiers),
        total=progress.total,
        cost_usd=progress.cost_nano_usd / NANO_PER_USD,
        budget_usd=None if budget is None else budget / NANO_PER_USD,
        waits=tuple(waits),
        note=progress.note,
    )
