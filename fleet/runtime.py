"""The composition root: from environment and configuration to the objects that one process works with.

Everything is made here and handed down; nothing below reads the environment. Nothing connects before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from celery import Celery

from fleet import choices, providers
from fleet.acceptance import Acceptance
from fleet.admissible import AdmissibleWork
from fleet.archive import Archive
from fleet.blobs import Blobs
from fleet.config import Environment, FleetConfig, config_path, load_config
from fleet.context import Context
from fleet.errors import BadInputError
from fleet.examiners import Examiners
from fleet.executor import Executor
from fleet.files import Files
from fleet.lines import Lines
from fleet.lookout import Lookout
from fleet.measured import MeasuredLimiter, MeasuredProvider, MeasuredStore
from fleet.meter import Meter
from fleet.price_list import STANDARD
from fleet.prices import tariff
from fleet.providers.base import Provider
from fleet.providers.traced import Traced
from fleet.rounds import Rounds
from fleet.routes import Routes
from fleet.shelf import Shelf
from fleet.signing import Secrets
from fleet.simulation import Simulation
from fleet.store import COORDINATOR, JobStore
from queues import broker
from queues.app import QueueSettings, build_app
from queues.claims import Claims
from queues.dispatcher import Dispatcher
from queues.gate import Gates
from queues.lessons import Lessons
from queues.limits import Limiter
from queues.link import Link
from queues.lots import Lots
from queues.messages import Publisher
from queues.outbox import Outbox
from queues.quotas import Quotas
from queues.store import Store
from queues.survey import Surveyor
from queues.tiers import Tier

NAMESPACE = "fleet"
COORDINATOR_CONCURRENCY = 20


@dataclass
class Runtime:
    """What a process of the fleet is made of."""

    environment: Environment
    config: FleetConfig
    redis_url: str
    providers: dict[str, Provider] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environment: Environment) -> Runtime:
        """A runtime on the fleet at `FLEET_REDIS_URL`.

        Raises:
            BadInputError: there is no such variable, or the configuration cannot be used.
        """
        if environment.fleet_redis_url is None:
            raise BadInputError(
                "FLEET_REDIS_URL is not set, so there is no fleet to join; start one with `fleet up`, "
                "or set it to the URL of a running one (redis://HOST:PORT/0)."
            )
        return cls(environment, checked_config(environment), environment.fleet_redis_url)

    @cached_property
    def tiers(self) -> dict[str, Tier]:
        """The tiers of the configuration and the coordinator, by name; a queue is named after its tier."""
        paces = choices.paces(self.config)
        tiers = [
            Tier(name=name, queue=name, concurrency=tier.concurrency, pace=paces[name])
            for name, tier in self.config.tiers.items()
        ]
        coordinator = Tier(name=COORDINATOR, queue=COORDINATOR, concurrency=COORDINATOR_CONCURRENCY)
        return {tier.name: tier for tier in (*tiers, coordinator)}

    @cached_property
    def app(self) -> Celery:
        settings = QueueSettings(
            broker_url=self.environment.fleet_broker_url or self.redis_url,
            store_url=self.redis_url,
            namespace=NAMESPACE,
        )
        return build_app(settings, self.tiers.values())

    @cached_property
    def link(self) -> Link:
        return Link.from_url(self.redis_url)

    @cached_property
    def meter(self) -> Meter:
        return Meter(self.config, self.tiers)

    @cached_property
    def store(self) -> Store:
        return MeasuredStore(self.link, NAMESPACE, self.meter, lease_ms=round(self.config.claim_s * 1000))

    @cached_property
    def limiter(self) -> Limiter:
        models = {choices.account_of(name, model): name for name, model in self.config.models.items()}
        return MeasuredLimiter(self.link, NAMESPACE, self.meter, models)

    @cached_property
    def lots(self) -> Lots:
        return Lots(self.store)

    @cached_property
    def surveyor(self) -> Surveyor:
        return Surveyor(self.link, NAMESPACE, list(self.tiers))

    @cached_property
    def admissible(self) -> AdmissibleWork:
        return AdmissibleWork(self.surveyor, self.limiter, self.config)

    @cached_property
    def lookout(self) -> Lookout:
        return Lookout(self.config, self.surveyor, self.limiter)

    @cached_property
    def quotas(self) -> Quotas:
        return Quotas(self.link, NAMESPACE)

    @cached_property
    def simulation(self) -> Simulation:
        accounts = self.config.providers.values()
        own = all(providers.stands_in(account, self.environment) for account in accounts)
        return Simulation(self.link, NAMESPACE, own=own)

    @cached_property
    def jobs(self) -> JobStore:
        return JobStore(self.store)

    @cached_property
    def acceptance(self) -> Acceptance:
        return Acceptance(self.store)

    @cached_property
    def outbox(self) -> Outbox:
        return Outbox(self.link, NAMESPACE)

    @cached_property
    def secrets(self) -> Secrets:
        return Secrets(self.link, NAMESPACE)

    @cached_property
    def blobs(self) -> Blobs:
        return Blobs(self.environment.fleet_blobs)

    @cached_property
    def files(self) -> Files:
        return Files(Shelf(self.link, NAMESPACE, "files"), self.blobs, self.acceptance.admission)

    @cached_property
    def gates(self) -> Gates:
        return Gates(self.app, self.store, gather_tier=COORDINATOR)

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(self.app)

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.publisher, self.store, self.gates, self.tiers.values())

    @cached_property
    def rounds(self) -> Rounds:
        return Rounds(self.routes, self.store, self.gates, self.blobs)

    @cached_property
    def routes(self) -> Routes:
        return Routes(self.config, self.lessons)

    @cached_property
    def lessons(self) -> Lessons:
        return Lessons(self.link, NAMESPACE)

    @cached_property
    def examiners(self) -> Examiners:
        return Examiners()

    @cached_property
    def archive(self) -> Archive:
        return Archive(self.store, self.rounds, self.blobs)

    def context(self, claims: Claims) -> Context:
        """What runner and duties of a worker share; connects the providers."""
        for name, provider in self.config.providers.items():
            simulated = self.environment.fleet_sim_url
            inner = providers.connect(name, provider, self.environment, simulated_url=simulated)
            address = providers.address_of(provider, self.environment, simulated)
            self.providers[name] = MeasuredProvider(Traced(inner, provider, name, address), self.meter)
        executor = Executor(self.config, self.providers, self.store, self.limiter)
        lines = Lines(self.config, executor, self.lots, self.blobs)
        shared = (self.config, self.store, self.jobs, self.blobs, self.rounds, self.archive, self.routes)
        return Context(*shared, executor, claims, lines, self.examiners)

    def claims(self, tiers: list[str], capacity: Callable[[], int]) -> Claims:
        return Claims(self.store, tiers, capacity)

    def look_at_broker(self, timeout_s: float) -> list[broker.Seen]:
        """What is to be said of the broker; blocks."""
        return broker.look(self.app, list(self.tiers), timeout_s)

    async def aclose(self) -> None:
        """Close what was connected."""
        for provider in self.providers.values():
            await provider.aclose()
        if "examiners" in self.__dict__:
            self.examiners.close()
        if "publisher" in self.__dict__:
            await self.publisher.aclose()
        await self.link.aclose()


def checked_config(environment: Environment) -> FleetConfig:
    """The configuration, with a price known for every model in use, in every lane that it is said to have.

    Raises:
        BadInputError: file, key, bad value, nearest valid one.
    """
    environment.check()
    path = config_path(environment)
    config = load_config(path)
    for name in dict.fromkeys(name for tier in config.tiers for name in config.models_of(tier)):
        model = config.models[name]
        for lane in (STANDARD, *model.service_tiers, *(("batch",) if model.batch else ())):
            try:
                tariff(name, model, lane)
            except BadInputError as error:
                key = "batch" if lane == "batch" else "service_tiers"
                without = "" if lane == STANDARD else f" Or leave the lane out (models.{name}.{key})."
                raise BadInputError(f"{path}: {error}{without}") from error
    return config
