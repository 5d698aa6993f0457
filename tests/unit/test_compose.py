"""docker-compose.yml, the Dockerfile and what they share with configuration and code: names, ports, times, and what is shut."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from fleet.config import Environment, load_config
from fleet.embedded import DRAIN_S, MARGIN_S
from fleet.store import COORDINATOR
from tests.support.guarded import ROLES, ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONFIG = load_config(ROOT / "config" / "fleet.yaml")
WORKERS = {f"worker-{tier}": tier for tier in CONFIG.tiers}
OURS = {name: service for name, service in SERVICES.items() if "tierfleet" in service["image"]}
#: Read by the libraries of ours, or of others.
FOREIGN = {"OTEL_EXPORTER_OTLP_ENDPOINT", "HOME"}
#: Read from the environment by pieces that have no settings of their own.
ELSEWHERE = {"FLEET_LOG_FORMAT", "FLEET_TRACE_CONTENT", "FLEET_HEALTH", "FLEET_FLOWER_BASIC_AUTH"}


def seconds(text: str) -> float:
    assert re.fullmatch(r"\d+s", text), text
    return float(text[:-1])


def test_a_worker_for_every_tier_and_what_stands_around_them() -> None:
    assert {name for name in OURS if name.startswith("worker-")} == set(WORKERS)
    for name, tier in WORKERS.items():
        assert SERVICES[name]["command"] == ["fleet", "worker", "--tier", tier]
    assert set(SERVICES) - set(WORKERS) == {
        "valkey", "rabbitmq", "sim", "api", "coordinator", "flower", "prometheus", "grafana", "cli",
    }  # fmt: skip
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "rabbitmq": ["rabbitmq"],
        "cli": ["cli"],
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_nothing_that_it_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    for volume in service.get("volumes", ()):
        source, _, rest = volume.partition(":")
        assert source in COMPOSE["volumes"] or (source.startswith("./config/") and rest.endswith(":ro")), volume
    assert "healthcheck" in service


def test_ports_are_published_on_loopback_alone_and_the_store_s_is_not() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "api": ["127.0.0.1:8080:8080"],
        "flower": ["127.0.0.1:5555:5555"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_only_the_fleet_reaches_the_store_and_the_simulated_provider_reaches_nobody() -> None:
    on = {
        net: {name for name, service in SERVICES.items() if net in service["networks"]} for net in COMPOSE["networks"]
    }
    assert on["store"] == {"valkey", "rabbitmq", "api", "coordinator", "flower", "cli", *WORKERS}
    assert on["provider"] == {"sim", "coordinator", "cli", *WORKERS}
    assert {name for name, net in COMPOSE["networks"].items() if net.get("internal")} == {
        "store",
        "provider",
        "metrics",
    }
    assert SERVICES["valkey"]["networks"] == ["store"]
    assert SERVICES["sim"]["networks"] == ["provider"]


def test_a_worker_may_take_as_long_to_end_as_its_longest_call() -> None:
    for name, tier in (WORKERS | {COORDINATOR: COORDINATOR}).items():
        assert seconds(SERVICES[name]["stop_grace_period"]) >= max(DRAIN_S, CONFIG.longest_call_s(tier) + MARGIN_S), (
            name
        )
    assert CONFIG.longest_call_s("nano") == CONFIG.tiers["nano"].timeout_s
    assert CONFIG.longest_call_s(COORDINATOR) == max(tier.timeout_s for tier in CONFIG.tiers.values()), "it plans"


def test_every_process_with_metrics_is_scraped_where_it_shows_them() -> None:
    scraped = yaml.safe_load((ROOT / "config" / "prometheus.yml").read_text())["scrape_configs"]
    (names,) = (found["names"] for config in scraped for found in config["dns_sd_configs"])
    assert {config["job_name"] for config in scraped} == {"tierfleet"}, "what alerts go by"
    shows = {name for name, service in OURS.items() if service.get("environment", {}).get("FLEET_METRICS_ADDRESS")}
    assert set(names) == shows == {"api", "coordinator", "flower", *WORKERS}
    assert all("metrics" in SERVICES[name]["networks"] for name in names)


def test_every_variable_is_one_that_is_read() -> None:
    known = {name.upper() for name in Environment.model_fields} | FOREIGN | ELSEWHERE
    for name, service in OURS.items():
        assert set(service.get("environment", ())) <= known, name
    image = (ROOT / "k8s" / "Dockerfile").read_text()
    assert set(re.findall(r"\b(FLEET_\w+)=", image)) <= known


def test_each_process_has_the_user_of_its_role() -> None:
    roles = {"api": "api", "coordinator": "coordinator", "flower": "flower", "cli": "operator"} | dict.fromkeys(
        WORKERS, "worker"
    )
    for name, service in OURS.items():
        url = service.get("environment", {}).get("FLEET_REDIS_URL")
        if name == "sim":
            assert url is None
        else:
            role = roles[name]
            password = f"${{FLEET_STORE_PASSWORD_{role.upper()}:?run make compose-secrets}}"
            assert url == f"redis://fleet-{role}:{password}@valkey:6379/0"


def test_no_secret_stands_in_the_file_and_each_comes_from_the_script_that_makes_them() -> None:
    secret = re.compile(r"PASSWORD|_PASS\b|KEY|AUTH")
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if secret.search(variable):
                assert re.fullmatch(r"\$\{\w+(:\?run make compose-secrets|:-|:\+given to the workers)\}", value), (
                    name,
                    variable,
                )
    made = (ROOT / "config" / "compose-secrets.sh").read_text()
    wanted = set(re.findall(r"\$\{(\w+):\?run make compose-secrets\}", TEXT))
    for variable in wanted:
        role = variable.removeprefix("FLEET_STORE_PASSWORD_")
        assert (role.lower() in ROLES and f" {role}" in made) if role != variable else f"missing {variable} " in made, (
            variable
        )
    assert {f"FLEET_STORE_PASSWORD_{role.upper()}" for role in ROLES} <= wanted
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_who_asks_no_model_has_no_key() -> None:
    for name, service in SERVICES.items():
        with_key = service.get("environment", {}).get("OPENAI_API_KEY") == "${OPENAI_API_KEY:-}"
        assert with_key == (name in {*WORKERS, "coordinator", "cli"}), name


def test_the_image_takes_in_what_it_is_made_of_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if line and line[0] not in "!#"] == ["*", "**/__pycache__", "**/*.pyc"]
    image = (ROOT / "k8s" / "Dockerfile").read_text()
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", image, re.M):
        for path in copied.split():
            assert any(line[1:] == path or line[1:].startswith(f"{path}/") for line in lines if line.startswith("!")), (
                path
            )
    assert "USER 10001:10001" in image
    assert image.count("--require-hashes") == 2


def test_what_makes_our_wheel_is_pinned_as_it_is_for_developers() -> None:
    pin = re.compile(r"^(\S+==\S+)", re.M)
    build, dev = ((ROOT / "requirements" / name).read_text() for name in ("build.txt", "dev.txt"))
    assert "hatchling" in build
    assert set(pin.findall(build)) <= set(pin.findall(dev))
    assert build.count("--hash=sha256:") >= 2 * len(pin.findall(build))
