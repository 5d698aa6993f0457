"""The fleet's configuration: providers, models, tiers and limits as frozen data, checked before anything starts.

It owns `config/fleet.yaml` and the `FLEET_*` / `OPENAI_*` environment; it opens no connection and knows no job.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleet.addresses import Endpoint, endpoint
from fleet.documents import nearest, parse, read_yaml
from fleet.entitlements import Budgets, TenantConfig
from fleet.errors import BadInputError
from fleet.lane_settings import LanesConfig
from fleet.loopback import is_loopback
from fleet.provider_settings import ProviderConfig as ProviderConfig  # noqa: PLC0414  part of what a configuration is made of
from fleet.quality_config import AuditConfig, CheckTargets, HoldoutConfig, KindConfig, RoutingConfig, Share
from fleet.tariffs import Price as Price  # noqa: PLC0414  part of what a configuration is made of

SIMULATED = "simulated"
AUTO = "auto"
#: The tier that plans and reviews, and that the whole is compared with.
FLAGSHIP = "flagship"
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Frozen):
    """What the vendor allows this account and model, at most; `None` is no limit."""

    #: Requests begun in any 60 s.
    requests_per_minute: Count | None = None
    #: Tokens, input and output, in any 60 s.
    tokens_per_minute: Count | None = None
    #: Calls under way at a time, over the whole fleet.
    in_flight: Count | None = None
    #: Begin slowly, and follow what the vendor tells or refuses. `limits: auto` is short for this alone.
    auto: bool = False


class ModelConfig(Frozen):
    """What a model can take, costs and may be asked."""

    #: A name among `providers`.
    provider: str = "openai"
    #: Input and output together, at most.
    context_tokens: Count
    #: Output of one call, at most.
    max_output_tokens: Count = 16_384
    #: Sent as `reasoning.effort` where set; leave out for models that do not reason.
    reasoning_effort: str | None = None
    #: Left out: none are known, and none kept.
    limits: Annotated[Limits, BeforeValidator(lambda given: {"auto": True} if given == "auto" else given)] = Limits()
    #: Left out: the bundled price list, which must know the model.
    price: Price | None = None
    #: As what the vendor serves it beside the standard; `flex`: slower, for half, and refused while there is no room for it.
    service_tiers: tuple[Literal["flex"], ...] = ()
    #: The vendor takes calls to it in batches, for half.
    batch: bool = False


class TierConfig(Frozen):
    """A named lane: queue, model, concurrency and where to escalate."""

    #: A name among `models`; what jobs ask for is the tier.
    model: str
    #: Calls in flight in one worker process.
    concurrency: Count = 100
    #: Longest a single call may take.
    timeout_s: Seconds = 120
    #: Calls that run in the background at the vendor, where another worker can collect them after a crash; `auto`:
    #: those that are expected to be long or dear.
    background: Literal["auto", "always", "never"] = "auto"
    #: The tier that answers after this one was rejected; left out: none does.
    escalate_to: str | None = None
    #: The model that takes over while the vendor of `model` has an outage, refuses the key or says that the quota is used
    #: up; it should be able to do the same work, its price is its own.
    fallback: str | None = None


class OutsideConfig(Frozen):
    """What users may have asked: webhooks, and whatever else is at an address that they name."""

    #: HOST:PORT of what may be asked although it is inside, as it stands in the URL; for every tenant.
    allow: tuple[str, ...] = ()

    @field_validator("allow")
    @classmethod
    def _endpoints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            endpoint(text)
        return value

    @property
    def allowed(self) -> frozenset[Endpoint]:
        return frozenset(endpoint(text) for text in self.allow)


class FleetConfig(Frozen):
    #: Accounts with vendors, by name; left out: one called `openai`.
    providers: dict[str, ProviderConfig] = {"openai": ProviderConfig()}
    #: By the names that the vendor has for them.
    models: dict[str, ModelConfig]
    #: By name: `nano`, `mini` and `flagship`, and whatever else.
    tiers: dict[str, TierConfig]
    #: Those that are not named here have what `TenantConfig` says.
    tenants: dict[str, TenantConfig] = {}
    #: What all tenants together may spend.
    budgets: Budgets = Budgets()
    #: A few accepted subtasks are also asked of the flagship, which costs; left out: none, but for jobs that say so.
    holdout: HoldoutConfig | None = None
    #: Addresses that users name.
    outside: OutsideConfig = OutsideConfig()
    #: How `tier: auto` finds the cheapest way to an accepted outcome.
    routing: RoutingConfig = RoutingConfig()
    #: Other names by which callers of the OpenAI-compatible API may ask a tier, or `auto`: those of the models they used before.
    aliases: dict[str, str] = {}
    #: How what has time is asked for less.
    lanes: LanesConfig = LanesConfig()
    #: Checks that jobs may name, and the callables that they stand for: `package.module:callable`, for workers to import.
    checks: CheckTargets = {}
    #: How the quality of what was accepted is found out.
    audit: AuditConfig = AuditConfig()
    #: By the kind of a step: what holds for it instead.
    kinds: dict[str, KindConfig] = {}
    #: Members of one chord; a gate over more is a tree.
    gate_width: Annotated[int, Field(ge=2, le=1000)] = 200
    #: How long a claim lives without being renewed.
    claim_s: Seconds = 30
    #: Tries of one call against a provider that is overloaded, limits or breaks.
    call_tries: Annotated[int, Field(ge=1, le=20)] = 6

    @model_validator(mode="after")
    def _names_exist(self) -> FleetConfig:
        for name, model in self.models.items():
            if model.provider not in self.providers:
                raise ValueError(
                    f'models.{name}.provider is "{model.provider}"{nearest(model.provider, self.providers)}'
                )
        for name, tier in self.tiers.items():
            if tier.model not in self.models:
                raise ValueError(f'tiers.{name}.model is "{tier.model}"{nearest(tier.model, self.models)}')
            if tier.fallback is not None and tier.fallback not in self.models:
                raise ValueError(f'tiers.{name}.fallback is "{tier.fallback}"{nearest(tier.fallback, self.models)}')
            if tier.escalate_to is not None and tier.escalate_to not in self.tiers:
                raise ValueError(
                    f'tiers.{name}.escalate_to is "{tier.escalate_to}"{nearest(tier.escalate_to, self.tiers)}'
                )
        for alias, name in self.aliases.items():
            if name not in (*self.tiers, AUTO):
                raise ValueError(f'aliases.{alias} is "{name}"{nearest(name, (*self.tiers, AUTO))}')
        for required in ("nano", "mini", "flagship"):
            if required not in self.tiers:
                raise ValueError(f'tiers has no "{required}"; jobs name the tiers nano, mini and flagship')
        for name in self.tiers:
            self.ladder(name, None)
        return self

    def ladder(self, start: str, top: str | None) -> tuple[str, ...]:
        """The tiers from `start` upwards by `escalate_to`, ending at `top` (or where the ladder ends)."""
        rungs = [start]
        while rungs[-1] != top and (following := self.tiers[rungs[-1]].escalate_to) is not None:
            if following in rungs:
                raise ValueError(f"tiers: escalate_to runs in a circle: {' -> '.join([*rungs, following])}")
            rungs.append(following)
        return tuple(rungs)

    def tier_named(self, name: str) -> str | None:
        """The tier that a name stands for: its own or `auto`, an alias, or the name of its model; None: there is none."""
        if name == AUTO or name in self.tiers:
            return name
        return self.aliases.get(name) or next((tier for tier, its in self.tiers.items() if its.model == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        """All of those names."""
        models = (tier.model for tier in self.tiers.values())
        return tuple(dict.fromkeys((*self.tiers, AUTO, *self.aliases, *models)))

    def audit_share(self, kind: str) -> Share | Literal["auto"]:
        """Share of the accepted outputs of a kind that is audited."""
        its = self.kinds.get(kind)
        return self.audit.share if its is None or its.audit_share is None else its.audit_share

    def floor(self, kind: str) -> float | None:
        """Share of the accepted outputs of a kind that has to be right."""
        its = self.kinds.get(kind)
        return self.audit.floor if its is None or its.floor is None else its.floor

    def model_of(self, tier: str) -> tuple[str, ModelConfig]:
        name = self.tiers[tier].model
        return name, self.models[name]

    def models_of(self, tier: str) -> tuple[str, ...]:
        """The names of the models a tier may ask, the better choice first."""
        named = self.tiers[tier]
        return (named.model,) if named.fallback is None else (named.model, named.fallback)

    def longest_call_s(self, tier: str) -> float:
        """The longest call of a worker of a tier; any other process (the coordinator) may ask the models of all."""
        asked = [self.tiers[tier]] if tier in self.tiers else self.tiers.values()
        return max(one.timeout_s for one in asked)


class Environment(BaseSettings):
    """The environment variables the fleet reads; an empty one counts as not set."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore")

    #: The configuration file; left out: `config/fleet.yaml` here, else the one that ships.
    fleet_config: Path | None = None
    #: The store, Valkey or Redis; left out: the fleet that runs in this folder, else an embedded one.
    fleet_redis_url: str | None = None
    #: The broker, `redis://` or `amqp://`; left out: the store.
    fleet_broker_url: str | None = None
    #: Folder of items, outputs and uploads; every process of a fleet needs the same.
    fleet_blobs: Path = Path(".fleet/blobs")
    #: Folder of an embedded fleet: its store, logs and addresses; and of what Flower keeps.
    fleet_state: Path = Path(".fleet")
    #: Base URL of the simulated provider that stands in while there is neither key nor base URL.
    fleet_sim_url: str | None = None
    #: Where the client finds a fleet's API.
    fleet_api_url: str | None = None
    #: The key that it shows there.
    fleet_api_key: SecretStr | None = None
    #: HOST:PORT where the process shows its metrics, without a key; not set, it listens nowhere. `fleet up`: on this machine.
    fleet_metrics_address: str | None = None
    #: How processes log: `text` or `json`.
    fleet_log_format: str | None = None
    #: Folder in which a process says that it lives and takes work (`fleet.health`); each needs one of its own.
    fleet_health: Path | None = None
    #: Where spans are sent (`fleet.recording`), OTLP over HTTP; not set, there are none.
    otel_exporter_otlp_endpoint: str | None = None
    #: `true`: no spans in spite of that.
    otel_sdk_disabled: str | None = None
    #: `1`: spans with prompts and outputs in them.
    fleet_trace_content: str | None = None
    #: `user:password` that whoever looks at Flower has to have.
    fleet_flower_basic_auth: SecretStr | None = None
    #: The vendor's key.
    openai_api_key: SecretStr | None = None
    #: The vendor's address; neither this nor a key: the simulated provider answers.
    openai_base_url: str | None = None

    def check(self) -> None:
        """BadInputError naming the variable whose value cannot be an address of the kind it has to be."""
        schemes = {
            "fleet_redis_url": ("redis", "rediss", "unix"),
            "fleet_broker_url": ("redis", "rediss", "amqp", "amqps"),
            "fleet_sim_url": ("http",),
            "openai_base_url": ("http", "https"),
        }
        for name, valid in schemes.items():
            value = getattr(self, name)
            try:
                parts = urlsplit(value or f"{valid[0]}://host")
                fits = parts.scheme in valid and bool(parts.hostname or parts.path) and (parts.port or 1) > 0
            except ValueError:
                fits = False
            if not fits:
                raise BadInputError(
                    f"{name.upper()} is no address that starts with {' or '.join(f'{s}://' for s in valid)}."
                )
        self.metrics_address  # noqa: B018  it raises

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of FLEET_METRICS_ADDRESS; BadInputError when it is no such thing."""
        if self.fleet_metrics_address is None:
            return None
        try:
            parts = urlsplit(f"//{self.fleet_metrics_address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not port or parts.netloc != self.fleet_metrics_address:
            raise BadInputError("FLEET_METRICS_ADDRESS is no HOST:PORT; 127.0.0.1:9464 would be one.")
        return host, port

    def check_metrics_are_here(self) -> None:
        """BadInputError when FLEET_METRICS_ADDRESS is one that others may reach: `fleet up` shows them none."""
        if self.metrics_address is not None and not is_loopback(self.metrics_address[0]):
            raise BadInputError(
                f"FLEET_METRICS_ADDRESS is {self.fleet_metrics_address}, which others may reach, and metrics are shown without "
                "a key: `fleet up` and `fleet run` take an address of this machine, such as 127.0.0.1:9464."
            )

    @property
    def traced(self) -> bool:
        """Whether spans are sent."""
        disabled = (self.otel_sdk_disabled or "").strip().lower() == "true"
        return self.otel_exporter_otlp_endpoint is not None and not disabled

    @property
    def simulated(self) -> bool:
        """Whether the simulated provider stands in: no key and no base URL were given."""
        return self.openai_api_key is None and self.openai_base_url is None


def config_path(environment: Environment) -> Path:
    """`FLEET_CONFIG`, else `config/fleet.yaml` here, else the one that ships with the package."""
    if environment.fleet_config is not None:
        return environment.fleet_config
    here = Path("config/fleet.yaml")
    if here.is_file():
        return here
    return shipped_file("fleet.yaml")


def shipped_file(name: str) -> Path:
    """A file of `config/`: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).resolve().parent
    installed = package / "shipped" / name
    return installed if installed.is_file() else package.parent / "config" / name


def load_config(path: Path) -> FleetConfig:
    """The checked configuration.

    Raises:
        BadInputError: the file, key and value that cannot be used, and the nearest valid one.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise BadInputError(f"{path} holds no mapping; see config/fleet.yaml of the project for an example.")
    return parse(FleetConfig, data, str(path))
