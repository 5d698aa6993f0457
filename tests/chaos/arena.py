"""One fleet to be ill-treated: Valkey with its append-only file, simulated provider, proxies, crew and load.

Every second member of a tier reaches store and provider through proxies. It owns what runs and its folder; what is done to
it is the faults' business, what came of it the books'.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from redis.asyncio import Redis

from fleet.client import FleetClient
from fleet.config import Environment, FleetConfig
from fleet.prices import NANO_PER_USD
from fleet.runtime import NAMESPACE, Runtime
from fleet.sim.settings import Faults, SimSettings
from tests.chaos.books import Books, JobEnd, TenantEnd, read_charges
from tests.chaos.crew import Crew
from tests.chaos.history import History
from tests.chaos.load import Load, specs
from tests.support.processes import ROOT
from tests.support.proxy import Proxy
from tests.support.sim import MODELS, RunningSim, running_sim
from tests.support.valkey import Valkey

LEASE_S = 2.0
#: Each kind of job has a tenant of its name; dollars that one of them may spend in a day: a few of its jobs, and it is short.
TENANTS = tuple(str(spec["name"]) for spec in specs())
CAPS_USD = {"gather": 0.008}
#: Workers of each tier.
SEATS = {"nano": 2, "mini": 2, "flagship": 2}
#: Like the embedded fleet's, but never rewritten: it is the witness.
VALKEY = ("--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
#: A provider that has a bad day.
FAULTS = Faults(error_5xx=0.06, reset=0.02, reset_in_body=0.01, reset_after_body=0.01, malformed_json=0.02)


def config(background: str, in_flight: int | None, caps_usd: Mapping[str, float]) -> FleetConfig:
    """Short claims and time limits; `in_flight`: a limit of the cheapest model, for the provider only; caps of tenants by day."""
    limits = {MODELS[0]: {} if in_flight is None else {"in_flight": in_flight}}
    return FleetConfig.model_validate(
        {
            "models": {name: {"context_tokens": 400_000, "limits": limits.get(name, {})} for name in MODELS},
            "tiers": {
                "nano": {"model": MODELS[0], "escalate_to": "mini", "timeout_s": 6, "background": background},
                "mini": {"model": MODELS[1], "escalate_to": "flagship", "timeout_s": 8, "background": background},
                "flagship": {"model": MODELS[2], "timeout_s": 12, "background": background},
            },
            # Those of the other tenants are never reached, but held and counted.
            "tenants": {name: {"usd_per_day": caps_usd.get(name, 1_000)} for name in TENANTS},
            "claim_s": LEASE_S,
            "gate_width": 20,
        }
    )


def bad_day(background: str) -> SimSettings:
    """A provider with a little of every fault."""
    return SimSettings(
        speed=3,
        # A call that hangs in the background cannot be collected, which would look like one that was not.
        faults=FAULTS.model_copy(update={"hang": 0.003 if background == "never" else 0.0}),
        rework=0.3,
        invalid_output={MODELS[0]: 0.06, MODELS[1]: 0.02, MODELS[2]: 0.0},
    )


@dataclass
class Arena:
    """What faults are done to."""

    folder: Path
    valkey: Valkey
    client: Redis
    crew: Crew
    load: Load
    sim: RunningSim
    store_proxy: Proxy
    provider_proxy: Proxy
    environment: Environment
    config: FleetConfig
    #: What the provider's faults are for now; see `SimSettings.faults_file`.
    faults_file: Path
    #: SIGKILLs of Valkey.
    store_kills: int = 0
    #: When the store was away: ms since 1970.
    outages: list[tuple[float, float]] = field(default_factory=list)
    #: Jobs that somebody paused, or tried to.
    paused: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """For the block the store is away."""
        began = time.time() * 1000
        try:
            yield
        finally:
            self.outages.append((began, time.time() * 1000))

    async def books(self) -> Books:
        """Read what the store has, end everything, and judge. The arena is over after this."""
        jobs = await self._ends()
        shared = await self._shared()
        await self.crew.stop()
        await self.client.aclose()
        self.valkey.stop()
        history = History.read(self.valkey.folder, round(LEASE_S * 1000))
        return Books(history, read_charges(self.sim.charges_path), jobs, self.crew.history, shared)

    @contextlib.asynccontextmanager
    async def runtime(self) -> AsyncIterator[Runtime]:
        """What a user of the fleet acts through."""
        runtime = Runtime(self.environment, self.config, self.valkey.url)
        try:
            yield runtime
        finally:
            await runtime.aclose()

    async def _shared(self) -> dict[str, TenantEnd]:
        """What each tenant has used and holds, all days together; without what only an earlier version has left held."""
        async with self.runtime() as runtime:
            if len(set(self.crew.roots)) > 1:
                await runtime.quotas.free_lost()
        found = {}
        for name in TENANTS:
            used, held = [await self.client.hvals(f"{NAMESPACE}:day:{what}:{name}") for what in ("used", "held")]
            cap = int((self.config.tenants[name].usd_per_day or 0) * NANO_PER_USD) * max(1, len(used))
            found[name] = TenantEnd(cap, sum(map(int, used)), sum(map(int, held)))
        return found

    async def _ends(self) -> dict[str, JobEnd]:
        ends = {}
        async with self.runtime() as runtime:
            client = FleetClient(runtime)
            winding = set(await runtime.store.winding())
            for id_ in sorted(await self.load.accepted()):
                if not await self.client.exists(f"{NAMESPACE}:job:{id_}"):
                    ends[id_] = JobEnd(None, "", None, 0, 0, (), winding=False)
                    continue
                job = await client.job(id_)
                cap, used, held = await runtime.store.quota(id_)
                members = tuple(
                    place.id_in(id_)
                    for phase in job.phases
                    for number in range(phase.shards)
                    for place in phase.places(number)
                )
                at_cap = id_ in await self.load.at_cap()
                money = (cap, used, held)
                ends[id_] = JobEnd(job.status.value, job.error or "", *money, members, id_ in winding, at_cap)
        return ends


@contextlib.asynccontextmanager
async def arena(
    folder: Path,
    background: str,
    *,
    provider: SimSettings | None = None,
    seats: Mapping[str, int] = SEATS,
    clocks: Mapping[str, int] = MappingProxyType({}),
    deadly: str = "",
    armed: bool = False,
    roots: Sequence[Path] = (ROOT,),
) -> AsyncIterator[Arena]:
    """A fleet in `folder`, ready to work; `clocks`, `deadly`, `armed` and `roots`: see `Crew`.

    `provider`: instead of one that has a bad day and too few places in flight.
    """
    folder.mkdir(parents=True)
    # The version before this one refuses what comes in over a tenant's cap, and holds nothing against it.
    caps = CAPS_USD if len(roots) == 1 else {}
    told, granted = config(background, None, caps), config(background, 9 if provider is None else None, caps)
    path = folder / "fleet.yaml"
    # JSON is YAML. What is left at its default is left out: another version need not know such a key.
    path.write_text(told.model_dump_json(exclude_defaults=True))
    settings = (provider or bad_day(background)).model_copy(update={"faults_file": folder / "faults.json"})
    with contextlib.ExitStack() as stack:
        (folder / "valkey").mkdir()
        valkey = Valkey(folder / "valkey", *VALKEY)
        stack.callback(valkey.stop)
        crew = Crew(
            folder, path, lambda seat: variables(seat), clocks=clocks, deadly=deadly, roots=roots,  # noqa: PLW0108
            unreached=("begun",) if background == "never" else (),
        )  # fmt: skip
        await crew.start()
        sim = stack.enter_context(running_sim(folder / "sim", settings, granted, folder / "sim.log"))
        store_proxy, provider_proxy = Proxy(valkey.port), Proxy(int(sim.url.rpartition(":")[2].partition("/")[0]))
        store_port, provider_port = await store_proxy.start(), await provider_proxy.start()

        def variables(seat: str) -> dict[str, str]:
            proxied = seat.endswith(".1")
            return {
                "FLEET_CONFIG": str(path),
                "FLEET_REDIS_URL": f"redis://127.0.0.1:{store_port if proxied else valkey.port}",
                "FLEET_BLOBS": str(folder / "blobs"),
                "FLEET_SIM_URL": f"http://127.0.0.1:{provider_port}/v1" if proxied else sim.url,
                "OPENAI_API_KEY": "",
                "OPENAI_BASE_URL": "",
            }

        client = Redis(host="127.0.0.1", port=valkey.port, protocol=2, socket_timeout=10)
        environment = Environment(
            fleet_redis_url=valkey.url, fleet_blobs=folder / "blobs", fleet_config=path, openai_api_key=None,
            openai_base_url=None, fleet_sim_url=sim.url,
        )  # fmt: skip
        load = Load(crew, client, folder)
        try:
            await crew.warm()
            crew.armed = armed
            await crew.keep(seats)
            yield Arena(
                folder, valkey, client, crew, load, sim, store_proxy, provider_proxy, environment, told,
                folder / "faults.json",
            )  # fmt: skip
        finally:
            await crew.stop()
            await store_proxy.aclose()
            await provider_proxy.aclose()
            await client.aclose()
            await asyncio.sleep(0)
