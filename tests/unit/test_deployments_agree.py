"""What several places say of a fleet they say alike: fleet.yaml, fleet/config.py, docker-compose.yml, config/valkey.*, k8s/.

It reads the files as they are; what kustomize makes of k8s/ is looked at beside the real thing (tests/parts).
"""

from __future__ import annotations

import inspect
import math
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from benchmarks import autoscale
from benchmarks.hpa import ScaledObject
from fleet import processes
from fleet.config import Environment, TierConfig, load_config
from fleet.runtime import NAMESPACE
from fleet.store import COORDINATOR
from tests.support.guarded import passwords

ROOT = Path(__file__).resolve().parents[2]
CONFIG = load_config(ROOT / "config/fleet.yaml")
TIERS = sorted(CONFIG.tiers)
#: Seconds that a process gets beyond its longest call: what it has to write down, and the way to it.
MARGIN_S = 30
#: Of what one worker can run, how much it is given before there is another.
UTILISATION = 0.95
#: Variables of ours; what else an image is told is its own business.
OURS = re.compile(r"(FLEET|OPENAI|OTEL)_\w+")
KNOWN = {name.upper() for name in Environment.model_fields}


def documents(path: str) -> list[Any]:
    return [one for one in yaml.safe_load_all((ROOT / path).read_text()) if one]


def everything_in_k8s() -> list[Any]:
    """All that is written there, patches too."""
    paths = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "k8s").rglob("*.yaml"))]
    found = [one for path in paths for one in documents(path)]
    inline = [patch["patch"] for one in found for patch in one.get("patches", ()) if "patch" in patch]
    return found + [yaml.safe_load(patch) for patch in inline]


def within(found: Any, key: str) -> Iterator[Any]:
    """Every value that stands under a key, at any depth."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name == key:
                yield value
            yield from within(value, key)
    elif isinstance(found, list):
        for one in found:
            yield from within(one, key)


def deployment(name: str) -> Any:
    return next(one for one in everything_in_k8s() if one["kind"] == "Deployment" and one["metadata"]["name"] == name)


def overlay(tier: str) -> Any:
    """What an overlay makes of a worker."""
    kustomization = documents(f"k8s/overlays/{tier}/kustomization.yaml")[0]
    assert kustomization["nameSuffix"] == f"-{tier}"
    assert kustomization["labels"] == [{"pairs": {"tierfleet/tier": tier}, "includeSelectors": True}]
    return yaml.safe_load(kustomization["patches"][0]["patch"])["spec"]["template"]["spec"]


def services() -> dict[str, Any]:
    found: dict[str, Any] = documents("docker-compose.yml")[0]["services"]
    return found


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


@pytest.fixture(scope="module")
def secrets() -> dict[str, dict[str, str]]:
    """What k8s/secrets.sh prints, by the names of the Secrets."""
    done = subprocess.run(
        ["sh", str(ROOT / "k8s/secrets.sh")], env={"PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "sk-made_up"},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(done.stdout) if one}


# Tiers and queues


def test_every_tier_has_a_worker_everywhere() -> None:
    assert sorted(path.name for path in (ROOT / "k8s/overlays").iterdir()) == TIERS
    assert sorted(name.removeprefix("worker-") for name in services() if name.startswith("worker-")) == TIERS
    applied = documents("k8s/kustomization.yaml")[0]["resources"]
    assert sorted(one.removeprefix("overlays/") for one in applied if one.startswith("overlays/")) == TIERS


@pytest.mark.parametrize("tier", TIERS)
def test_a_worker_is_started_alike(tier: str) -> None:
    command = ["fleet", "worker", "--tier", tier]
    assert overlay(tier)["containers"][0]["args"] == command
    assert services()[f"worker-{tier}"]["command"] == command


@pytest.mark.parametrize("tier", TIERS)
def test_a_worker_may_end_its_longest_call(tier: str) -> None:
    longest_s = CONFIG.tiers[tier].timeout_s
    assert overlay(tier)["terminationGracePeriodSeconds"] >= longest_s + MARGIN_S
    assert seconds(services()[f"worker-{tier}"]["stop_grace_period"]) >= longest_s


def test_the_coordinator_may_end_its_longest_call() -> None:
    """It plans and reviews with the flagship's model, or whichever tier is asked for that."""
    grace_s = deployment("coordinator")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= max(tier.timeout_s for tier in CONFIG.tiers.values()) + MARGIN_S


def test_the_users_of_the_store_may_reach_the_queue_of_every_tier() -> None:
    users = (ROOT / "config/valkey.acl").read_text().split("\nuser ")
    for role in ("fleet-worker", "fleet-coordinator", "fleet-flower", "fleet-operator"):
        (rules,) = (user.split() for user in users if user.startswith(f"{role} "))
        keys = {rule.removeprefix("%R").removeprefix("~") for rule in rules if "~" in rule}
        assert {*TIERS, COORDINATOR} <= keys, role


# Scaling


@pytest.mark.parametrize("component", ["keda", "keda-redis"])
def test_every_tier_is_scaled(component: str) -> None:
    scaled = [one for one in documents(f"k8s/components/{component}/tiers.yaml") if one["kind"] == "ScaledObject"]
    assert sorted(one["metadata"]["name"] for one in scaled) == [f"worker-{tier}" for tier in TIERS]
    assert [one["spec"]["scaleTargetRef"]["name"] for one in scaled] == [one["metadata"]["name"] for one in scaled]


def test_the_simulation_tries_what_is_applied() -> None:
    """`make bench-autoscale` replays loads against a model of KEDA; its figures are worth something for these parameters only."""
    (spec,) = within(documents("k8s/components/keda/pace.yaml"), "spec")
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert spec["pollingInterval"] == autoscale.POLLING_S
    assert spec["cooldownPeriod"] == autoscale.COOLDOWN_S
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == autoscale.WINDOW_S
    assert autoscale.USED == UTILISATION
    model = ScaledObject(target=1)
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == model.up_window_s
    for side, policies in (("scaleUp", model.up), ("scaleDown", model.down)):
        given = {(one["type"], one["value"], one["periodSeconds"]) for one in behavior[side]["policies"]}
        assert given == {(one.kind, one.value, one.period_s) for one in policies}


def target_of(tier: TierConfig) -> int:
    return int(UTILISATION * tier.concurrency)


@pytest.mark.parametrize("component", ["keda", "keda-redis"])
@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_is_scaled_by_what_one_worker_runs_up_to_its_models_limit(component: str, tier: str) -> None:
    spec = next(
        one["spec"]
        for one in documents(f"k8s/components/{component}/tiers.yaml")
        if one["metadata"]["name"] == f"worker-{tier}"
    )
    target = target_of(CONFIG.tiers[tier])
    given = [*within(spec, "targetValue"), *within(spec, "target"), *within(spec, "listLength")]
    assert set(given) == {str(target)}
    in_flight = CONFIG.models[CONFIG.tiers[tier].model].limits.in_flight
    assert in_flight is not None
    assert spec["maxReplicaCount"] == math.ceil(in_flight / CONFIG.tiers[tier].concurrency) + 1


@pytest.mark.parametrize("tier", TIERS)
def test_admissible_work_is_asked_of_the_coordinator(tier: str) -> None:
    (trigger,) = next(
        one["spec"]["triggers"]
        for one in documents("k8s/components/keda/tiers.yaml")
        if one["metadata"]["name"] == f"worker-{tier}"
    )
    assert trigger["type"] == "metrics-api"
    url, service = (
        urlsplit(trigger["metadata"]["url"]),
        next(one for one in documents("k8s/base/coordinator.yaml") if one["kind"] == "Service"),
    )
    assert url.hostname == f"{service['metadata']['name']}.tierfleet.svc"
    assert url.port == service["spec"]["ports"][0]["port"]
    assert url.path == f"/admissible/{tier}"
    assert trigger["metadata"]["valueLocation"] == "admissible"


@pytest.mark.parametrize("tier", TIERS)
def test_the_fallback_counts_keys_of_the_fleet(tier: str) -> None:
    """What these keys hold, and who may count it, is looked at in a real store (tests/integration)."""
    spec = next(
        one["spec"]
        for one in documents("k8s/components/keda-redis/tiers.yaml")
        if one["metadata"]["name"] == f"worker-{tier}"
    )
    keys = {trigger["name"]: trigger["metadata"]["listName"] for trigger in spec["triggers"]}
    assert keys == {"released": f"{NAMESPACE}:out:{tier}", "backlog": f"{NAMESPACE}:b:{tier}"}
    (formula,) = within(documents("k8s/components/keda-redis/pace.yaml"), "formula")
    assert set(re.findall(r"[a-z]+", formula)) == set(keys)


def test_both_ways_of_scaling_keep_the_same_pace_and_none_is_never_guessed() -> None:
    (by_work,), (by_keys,) = (documents(f"k8s/components/{one}/pace.yaml") for one in ("keda", "keda-redis"))
    by_keys["spec"]["advanced"].pop("scalingModifiers")
    assert by_work == by_keys
    assert by_work["spec"]["minReplicaCount"] == 0
    assert by_work["spec"]["fallback"]["replicas"] > 0, "KEDA scales to none on an error otherwise"


# Variables and ports


def test_every_variable_is_one_that_the_fleet_reads() -> None:
    in_k8s = {one["name"] for found in within(everything_in_k8s(), "env") for one in found}
    literals = {text.partition("=")[0] for found in within(everything_in_k8s(), "literals") for text in found}
    in_compose = {name for service in services().values() for name in service.get("environment", {})}
    of_the_store = {name for name in in_compose if name.startswith("FLEET_STORE_PASSWORD_")}
    named = {name for name in (in_k8s | literals | in_compose) - of_the_store if OURS.fullmatch(name)}
    assert {"FLEET_REDIS_URL", "FLEET_METRICS_ADDRESS", "OPENAI_API_KEY"} <= named
    assert named <= KNOWN


def test_processes_listen_where_services_and_probes_look() -> None:
    def default(command: Any) -> int:
        port: int = inspect.signature(command).parameters["port"].default
        return port

    wanted = {"api": default(processes.api), "flower": default(processes.flower), "sim": default(processes.sim)}
    for name, port in wanted.items():
        (container,) = deployment(name)["spec"]["template"]["spec"]["containers"]
        assert {"name": "http", "containerPort": port} in container["ports"]
    published = {name: services()[name]["ports"] for name in ("api", "flower")}
    assert published == {name: [f"127.0.0.1:{wanted[name]}:{wanted[name]}"] for name in published}
    (variables,), (ports,) = (within(documents("k8s/process/member.yaml"), key) for key in ("env", "ports"))
    metered = next(one["value"] for one in variables if one["name"] == "FLEET_METRICS_ADDRESS")
    assert metered == f"0.0.0.0:{ports[0]['containerPort']}"
    assert services()["api"]["environment"]["FLEET_METRICS_ADDRESS"] == metered


def test_servers_are_the_same() -> None:
    for name in ("valkey", "rabbitmq"):
        (image,) = within(documents(f"k8s/components/{name}/{name}.yaml"), "image")
        assert services()[name]["image"] == image


def test_the_image_is_that_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (image,) = within(documents("k8s/process/pod.yaml"), "image")
    assert image == f"tierfleet:{version}"
    assert documents("k8s/kustomization.yaml")[0]["images"][0]["newTag"] == version


# Metrics


def test_the_alerts_are_those_of_the_configuration() -> None:
    made = subprocess.run(
        ["sh", str(ROOT / "k8s/rules.sh")], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert (ROOT / "k8s/components/monitoring/rules.yaml").read_text() == made, "sh k8s/rules.sh makes it"
    assert yaml.safe_load(made)["spec"] == documents("config/alerts.yml")[0]


def test_a_target_is_called_what_the_alerts_call_it() -> None:
    relabeling, _ = next(within(documents("k8s/components/monitoring/scrape.yaml"), "relabelings"))
    assert relabeling["targetLabel"] == "component"
    assert len(relabeling["sourceLabels"]) == 2

    def called(component: str, tier: str) -> str:
        found = re.fullmatch(relabeling["regex"], relabeling["separator"].join((component, tier)))
        assert found is not None
        return str(found[1])

    assert called("coordinator", "") == "coordinator"
    assert [called("worker", tier) for tier in TIERS] == [f"worker-{tier}" for tier in TIERS]
    alerts = (ROOT / "config/alerts.yml").read_text()
    assert set(re.findall(r'component="([^"]+)"', alerts)) <= {
        "coordinator",
        "api",
        *(f"worker-{tier}" for tier in TIERS),
    }


# Secrets


def test_every_secret_that_is_referred_to_is_made(secrets: dict[str, dict[str, str]]) -> None:
    references = [(one["name"], one["key"]) for one in within(everything_in_k8s(), "secretKeyRef")]
    references += [
        (one["name"], one["key"]) for found in within(everything_in_k8s(), "secretTargetRef") for one in found
    ]
    assert set(references) == {("tierfleet", key) for key in secrets["tierfleet"]}
    whole = [
        one["secretRef"]["name"]
        for found in within(everything_in_k8s(), "envFrom")
        for one in found
        if "secretRef" in one
    ]
    assert whole == ["tierfleet-valkey"]
    assert set(secrets["tierfleet-valkey"]) == set(passwords())


def test_each_process_comes_to_the_store_as_its_own_user(secrets: dict[str, dict[str, str]]) -> None:
    for key, url in secrets["tierfleet"].items():
        if key.startswith("store-url-"):
            role = key.removeprefix("store-url-")
            parts = urlsplit(url)
            assert parts.username == f"fleet-{role}"
            assert parts.password == secrets["tierfleet-valkey"][f"FLEET_STORE_PASSWORD_{role.upper()}"]
            assert parts.hostname == "valkey.tierfleet.svc"
    for name in ("api", "coordinator", "flower"):
        (reference,) = (
            one["key"] for one in within(deployment(name), "secretKeyRef") if one["key"].startswith("store-")
        )
        assert reference == f"store-url-{name}"
        assert f"//fleet-{name}:" in services()[name]["environment"]["FLEET_REDIS_URL"]


def test_no_two_secrets_are_alike_and_none_comes_twice(secrets: dict[str, dict[str, str]]) -> None:
    again = subprocess.run(["sh", str(ROOT / "k8s/secrets.sh")], capture_output=True, text=True, timeout=30, check=True)
    assert "OPENAI_API_KEY is not set" in again.stderr
    words = list(secrets["tierfleet-valkey"].values())
    assert len(set(words)) == len(words)
    assert not any(word in again.stdout for word in words)
    assert "openai-api-key" not in again.stdout


# Monitoring


def test_what_is_scraped_of_the_fleet_is_one_job_everywhere_and_alerts_look_at_no_other() -> None:
    for name in ("prometheus.yml", "prometheus-local.yml"):
        (scraped,) = documents(f"config/{name}")
        assert {one["job_name"] for one in scraped["scrape_configs"]} == {"tierfleet"}, name
    (monitor,) = documents("k8s/components/monitoring/scrape.yaml")
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert {"targetLabel": "job", "replacement": "tierfleet"} in endpoint["relabelings"]
    expressions = [str(one) for one in within(documents("config/alerts.yml"), "expr")]
    looked = [one for text in expressions for one in re.findall(r"\bup\{[^}]*\}", text)]
    assert len(looked) == 2
    assert all('job="tierfleet"' in one for one in looked)
