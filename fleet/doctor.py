"""`fleet doctor`: is everything there that a fleet needs, and what to do where it is not. It changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import aiohttp
import redis.asyncio
from redis.exceptions import RedisError

from fleet.config import Environment, Frozen, config_path
from fleet.errors import FleetError
from fleet.providers import address_of, connect, key_of
from fleet.runtime import Runtime, checked_config
from fleet.store import COORDINATOR

PATIENCE_S = 5.0


class Finding(Frozen):
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "warning", "failed"]
    #: What was found; where it is not ok, what to do.
    text: str


async def examine(environment: Environment) -> AsyncIterator[Finding]:
    """Findings, in the order in which things depend on each other."""
    path = config_path(environment)
    try:
        config = checked_config(environment)
    except FleetError as error:
        yield Finding(what="configuration", state="failed", text=str(error))
        return
    yield Finding(what="configuration", state="ok", text=f"{path}: {', '.join(config.tiers)}")
    for name, provider in config.providers.items():
        if environment.simulated and environment.fleet_sim_url is None:
            text = "no key and no base URL: the simulated provider stands in; set OPENAI_API_KEY for the real one"
            yield Finding(what=f"provider {name}", state="warning", text=text)
            continue
        try:
            opened = connect(name, provider, environment, simulated_url=environment.fleet_sim_url)
        except FleetError as error:
            yield Finding(what=f"provider {name}", state="failed", text=str(error))
            continue
        await opened.aclose()
        key, address = key_of(provider, environment), address_of(provider, environment, environment.fleet_sim_url)
        yield await _reached(name, address, key, simulated=environment.simulated)
    if environment.fleet_redis_url is None:
        text = "FLEET_REDIS_URL is not set: `fleet run` and `fleet up` start an embedded one"
        yield Finding(what="store", state="ok", text=text)
        return
    async for finding in _store(environment):
        yield finding


async def _reached(name: str, address: str, key: str | None, *, simulated: bool) -> Finding:
    """Whether a provider answers at its address and takes the key; listing its models costs nothing."""
    what = f"provider {name}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session:
            status = (await session.get(f"{address.rstrip('/')}/models", headers=headers)).status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        text = f"{address} does not answer ({type(error).__name__}); check OPENAI_BASE_URL and that the server runs"
        return Finding(what=what, state="failed", text=text)
    if status in (401, 403):
        return Finding(what=what, state="failed", text=f"{address} refuses the key (HTTP {status}); set another one")
    if simulated:
        return Finding(what=what, state="warning", text=f"{address}: simulated; set OPENAI_API_KEY for the real one")
    return Finding(what=what, state="ok", text=f"{address} answers (HTTP {status})")


async def _store(environment: Environment) -> AsyncIterator[Finding]:
    url = environment.fleet_redis_url or ""
    client = redis.asyncio.Redis.from_url(url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)
    try:
        server = await client.info("server")
        memory = await client.info("memory")
        persistence = await client.info("persistence")
    except (RedisError, OSError) as error:
        text = f"the store does not answer ({type(error).__name__}); check FLEET_REDIS_URL and that it runs"
        yield Finding(what="store", state="failed", text=text)
        return
    finally:
        await client.aclose()
    yield Finding(
        what="store", state="ok", text=f"answers, version {server.get('valkey_version') or server['redis_version']}"
    )
    if memory.get("maxmemory_policy") != "noeviction":
        text = f"maxmemory-policy is {memory.get('maxmemory_policy')}: keys can vanish; set it to noeviction"
        yield Finding(what="store memory", state="failed", text=text)
    if not persistence.get("aof_enabled"):
        text = "appendonly is off: a restart of the store loses jobs; set appendonly yes"
        yield Finding(what="store durability", state="warning", text=text)
    runtime = Runtime.from_environment(environment)
    if environment.fleet_broker_url is not None:
        for seen in await asyncio.to_thread(runtime.look_at_broker, PATIENCE_S):
            yield Finding(what="broker", state="ok" if seen.ok else "failed", text=seen.text)
    try:
        for tier in (COORDINATOR, *runtime.config.tiers):
            capacity = await asyncio.wait_for(runtime.store.capacity(tier), PATIENCE_S)
            command = "fleet coordinator" if tier == COORDINATOR else f"fleet worker --tier {tier}"
            yield (
                Finding(what=f"workers {tier}", state="ok", text=f"room for {capacity} subtasks at once")
                if capacity
                else Finding(what=f"workers {tier}", state="failed", text=f"none is alive; start one with `{command}`")
            )
    finally:
        await runtime.aclose()
