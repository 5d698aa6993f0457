"""What answers whoever comes without a key: every port of the fleet that is bound beyond loopback, and every route."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flower.urls import handlers

from tests.support.cli import Folder
from tests.support.processes import FleetProcess
from tests.support.sim import fleet_config
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

#: No model is asked here.
NO_MODEL = "http://127.0.0.1:9/v1"
EVERYWHERE = "0.0.0.0"  # noqa: S104  what is tested is that this is safe
PASSWORD = "ops:a password of some length"
HEALTH = {"/healthz", "/readyz", "/healthcheck"}
REFUSED = {401, 403, 404, 405}
JOB_ID = "j0199c2f4a11d03be7"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


@contextmanager
def process(valkey: Valkey, folder: Path, *command: str, **more: str) -> Iterator[tuple[FleetProcess, int]]:
    """A process that listens on all addresses, and its port."""
    port = free_port()
    variables = {"FLEET_STATE": str(folder / "state")} | more
    started = FleetProcess(
        valkey, folder, fleet_config(), NO_MODEL, *command, "--host", EVERYWHERE, "--port", str(port), **variables
    )
    try:
        until(lambda: port in started.listens_on(), f"{command[0]} to listen", started, timeout=90)
        yield started, port
    finally:
        started.stop()


def answer(port: int, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        caller.request(method, path, headers=headers)
        reply = caller.getresponse()
        return reply.status, reply.read()
    finally:
        caller.close()


def scan(port: int, paths: set[str]) -> dict[tuple[str, str], int]:
    """What answers anything but a refusal, whatever the method: (method, path) -> status."""
    found = {}
    for path in paths:
        for method in METHODS:
            status, body = answer(port, method, path)
            if status not in REFUSED:
                found[method, path] = status
            elif path not in HEALTH and path != "/":  # where the form stands that takes a key
                assert len(body) < 1_000, f"{method} {path} says much for a refusal: {body[:200]!r}"
    return found


def test_flower_beyond_loopback_answers_its_health_and_nothing_else(valkey: Valkey, tmp_path: Path) -> None:
    with process(valkey, tmp_path, "flower", FLEET_FLOWER_BASIC_AUTH=PASSWORD, FLOWER_UNAUTHENTICATED_API="true") as (
        flower,
        port,
    ):
        assert flower.listens_on() == {port}
        routes = {getattr(handler, "regex", None) or handler[0] for handler in handlers}
        patterns = {str(getattr(route, "pattern", route)) for route in routes}
        paths = {re.sub(r"\(\.[+*]\)", "x", pattern).replace("/?", "").removesuffix("$") for pattern in patterns}
        paths = {path for path in paths if path.startswith("/")} | {
            "/static/js/flower.js",
            "/metrics",
            "/nothing",
            "//metrics",
        }
        assert len(paths) > 25, "every page, every route of its API"
        found = scan(port, paths)
        assert found == {("GET", "/healthcheck"): 200}
        assert answer(port, "GET", "/healthcheck")[1] == b"OK"
        # The scan would see what is open: with the password the same answers.
        word = {"Authorization": "Basic " + base64.b64encode(PASSWORD.encode()).decode()}
        assert answer(port, "GET", "/metrics", **word)[0] == 200
        assert answer(port, "GET", "/static/js/flower.js", **word)[0] == 200
        assert answer(port, "GET", "/api/workers", **word)[0] == 200
        # And nobody changes anything, with the password or without.
        for path in paths:
            if path.startswith("/api/") and answer(port, "POST", path, **word)[0] != 405:
                assert answer(port, "POST", path, **word)[0] in (403, 404), path
    assert flower.process.returncode == 0
    assert "a password" not in flower.log.read_text()


def test_flower_with_oauth_answers_with_the_way_to_the_provider(valkey: Valkey, tmp_path: Path) -> None:
    oauth = {
        "FLOWER_AUTH": ".*@example.com",
        "FLOWER_AUTH_PROVIDER": "github",
        "FLOWER_OAUTH2_KEY": "key-of-ours",
        "FLOWER_OAUTH2_SECRET": "secret-canary",
        "FLOWER_OAUTH2_REDIRECT_URI": "https://flower.example.com/login",
    }
    with process(valkey, tmp_path, "flower", **oauth) as (_, port):
        found = scan(
            port, {"/", "/tasks", "/metrics", "/healthcheck", "/login", "/logout", "/api/tasks", "/static/js/flower.js"}
        )
        assert found == {("GET", "/healthcheck"): 200, ("GET", "/login"): 302}
        assert answer(port, "GET", "/tasks", Cookie="user=ops@example.com")[0] == 401


def test_the_api_beyond_loopback_answers_its_health_and_nothing_else(valkey: Valkey, tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url, "FLEET_BLOBS": str(tmp_path / "blobs")})
    assert folder.fleet("keys", "create").code == 0
    with process(valkey, tmp_path, "api") as (api, port):
        assert api.listens_on() == {port}
        paths = _documented(folder, valkey) | {"/metrics", "/openapi.json", "/docs", "/redoc", "/", "/nothing"}
        assert len(paths) > 15
        found = scan(port, paths)
        assert {path for _, path in found} <= HEALTH
        assert found["GET", "/healthz"] == 200
        # The pages for people: a form that takes a key, which no other site may send, and nothing else.
        pages = {"/jobs", f"/jobs/{JOB_ID}", f"/jobs/{JOB_ID}/live", f"/jobs/{JOB_ID}/result.md", "/signin", "/page.js"}
        for path in pages | {"/assets/page.js", "/page.css"}:
            status, body = answer(port, "GET", path)
            assert status == (401 if path in pages else 404), path
            assert (b'<form class="sign-in"' in body) == (path in pages), path


def _documented(folder: Folder, valkey: Valkey) -> set[str]:
    """The routes of the API's own description, each with something in the place of its parameters."""
    from fleet.api.server import build  # noqa: PLC0415
    from fleet.config import Environment  # noqa: PLC0415
    from fleet.runtime import Runtime  # noqa: PLC0415

    environment = Environment(fleet_redis_url=valkey.url, fleet_config=folder.path / "fleet.yaml")
    schema = build(Runtime.from_environment(environment), loopback=False).openapi()
    return {re.sub(r"\{[^}]*\}", JOB_ID, path) for path in schema["paths"]}


@pytest.mark.parametrize("host", [EVERYWHERE, "::"])
def test_neither_opens_beyond_loopback_without_a_key(valkey: Valkey, tmp_path: Path, host: str) -> None:
    folder = Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url, "FLEET_BLOBS": str(tmp_path / "blobs")})
    port = free_port()
    for name, what in (("flower", "FLEET_FLOWER_BASIC_AUTH"), ("api", "fleet keys create")):
        ran = folder.fleet(name, "--host", host, "--port", str(port))
        assert ran.code == 2, ran.err
        assert what in ran.err
        with socket.socket() as caller:
            assert caller.connect_ex(("127.0.0.1", port)) != 0


def test_flower_on_loopback_is_for_this_machine_alone(valkey: Valkey, tmp_path: Path) -> None:
    port = free_port()
    flower = FleetProcess(
        valkey, tmp_path, fleet_config(), NO_MODEL, "flower", "--port", str(port), FLEET_STATE=str(tmp_path / "state")
    )
    try:
        until(lambda: port in flower.listens_on(), "Flower to listen", flower, timeout=90)
        assert answer(port, "GET", "/tasks")[0] == 200
        for headers in (
            {"Host": "rebound.example.com"},
            {"X-Forwarded-For": "203.0.113.7"},
            {"Origin": "http://evil.example"},
        ):
            status, body = answer(port, "GET", "/tasks", **headers)
            assert (status, body) == (403, b""), headers
        assert answer(port, "GET", "/api/tasks")[0] == 401, "its API wants a password even here"
    finally:
        flower.stop()
    assert json.dumps(flower.log.read_text()).count("Traceback") == 0
