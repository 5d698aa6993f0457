"""The lookout: one look at the whole fleet, for the metrics that a coordinator shows.

It knows where to look (the survey, the accounts of the models in use, the open jobs of the tenants) and asks all at once, a
script for each. It keeps nothing.
"""

from __future__ import annotations

import asyncio

from prometheus_client.registry import Collector

from fleet.caps import caps_of
from fleet.choices import account_of, allowance_of
from fleet.config import FleetConfig
from fleet.metrics import AccountMetrics, AdmissibleMetrics, Metrics, OpenJobMetrics
from fleet.scaling import admissible, lanes_of
from fleet.tenants import DEFAULT
from queues.limits import Limiter, Standing
from queues.shared import EVERYBODY
from queues.survey import MOST_TENANTS, Surveyor


class Lookout:
    """Looks at one fleet."""

    def __init__(self, config: FleetConfig, surveyor: Surveyor, limiter: Limiter) -> None:
        self._config = config
        self._surveyor = surveyor
        self._limiter = limiter
        self._lanes = lanes_of(config)

    async def look(self) -> list[Collector]:
        """What there is to see now. Raises RedisError when the store does not answer."""
        survey, standings, jobs = await asyncio.gather(self._surveyor.survey(), self._accounts(), self._jobs())
        accounts = {account_of(name, self._config.models[name]): one for name, one in standings.items()}
        work = admissible(self._lanes, accounts, survey.tiers)
        return [Metrics(survey), AdmissibleMetrics(work), AccountMetrics(standings), jobs]

    async def _accounts(self) -> dict[str, Standing]:
        names = dict.fromkeys(name for tier in self._config.tiers for name in self._config.models_of(tier))
        models = [(name, self._config.models[name]) for name in names]
        looks = (self._limiter.look(account_of(name, model), allowance_of(model)) for name, model in models)
        return dict(zip(names, await asyncio.gather(*looks), strict=True))

    async def _jobs(self) -> OpenJobMetrics:
        tenants = list(dict.fromkeys((EVERYBODY, DEFAULT, *self._config.tenants)))[:MOST_TENANTS]
        jobs = await self._surveyor.open_jobs(tenants)
        caps = {cap for tenant in tenants[1:] for cap in caps_of(self._config, tenant)}
        return OpenJobMetrics(jobs, caps)
