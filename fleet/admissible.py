"""`GET /admissible/TIER`: the admissible work of a tier, for KEDA, which scales workers by it.

It owns the asking (a survey of the store, and how every account stands) and the form of the answer; what the numbers mean is
`fleet.scaling`'s, and what Prometheus sees of them `fleet.lookout`'s. It keeps nothing, so all coordinators answer alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web
from redis.exceptions import RedisError

from fleet.accounts import accounts_of
from fleet.config import FleetConfig
from fleet.scaling import admissible, lanes_of
from queues.limits import Limiter
from queues.survey import Surveyor

#: Longest that an answer waits for the store: KEDA gives up after 3 s (its KEDA_HTTP_DEFAULT_TIMEOUT).
PATIENCE_S = 2.5


class AdmissibleWork:
    """The admissible work of the tiers that a surveyor surveys."""

    def __init__(self, surveyor: Surveyor, limiter: Limiter, config: FleetConfig) -> None:
        self._surveyor = surveyor
        self._limiter = limiter
        self._accounts = {account: allowance for account, (allowance, _) in accounts_of(config).items()}
        self._lanes = lanes_of(config)
        #: Those who ask at the same time take turns, so however many there are the store is looked at once at a time.
        self._turn = asyncio.Lock()

    async def look(self) -> Mapping[str, int]:
        """By tier, the subtasks that could run now if there were workers. Raises RedisError."""
        looks = (self._limiter.look(account, allowance) for account, allowance in self._accounts.items())
        survey, standings = await asyncio.gather(self._surveyor.survey(), asyncio.gather(*looks))
        return admissible(self._lanes, dict(zip(self._accounts, standings, strict=True)), survey.tiers)

    def routes(self) -> list[web.RouteDef]:
        """What is served to KEDA's `metrics-api` scaler, which takes every answer but a 200 as none."""
        return [web.get("/admissible/{tier}", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(PATIENCE_S), self._turn:
                by_tier = await self.look()
        except (RedisError, TimeoutError) as error:
            return web.Response(status=503, text=f"The store does not answer ({type(error).__name__}).\n")
        tier = request.match_info["tier"]
        if tier not in by_tier:
            return web.Response(status=404, text=f"There is no such tier; there are: {', '.join(by_tier)}.\n")
        return web.json_response({"tier": tier, "admissible": by_tier[tier]})
