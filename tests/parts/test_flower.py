"""Flower in a real browser during a job: every tier's tasks, no content, and names and kinds that somebody hostile chose.

Needs Debian's `chromium` and playwright.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from fleet.sim.settings import SimSettings
from tests.support.cli import Folder
from tests.support.processes import FleetProcess
from tests.support.sim import MODELS, fleet_config, running_sim
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

TIERS = ("nano", "mini", "flagship")
USER, PASSWORD = "ops", "a password of some length"
WORD = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
#: In items, prompts and instructions; and the store's own password, which pages about the broker could show.
ITEM, PROMPT, RULE = "item-canary-7f3a", "prompt-canary-91bc", "rule-canary-55de"
ATTACK = '<img src=x onerror="window.owned=1">"><script>window.owned=1</script>\u202e\x1b]0;owned\x07'
ITEMS = 12


def job() -> str:
    steps = [
        {
            "id": "sort",
            "each": "items",
            "tier": "nano",
            "kind": ATTACK,
            "instructions": RULE,
            "prompt": PROMPT + " {{ item.text }}",
        },
        {"id": "sum_up", "each": "items", "tier": "mini", "needs": ["sort"], "prompt": PROMPT + " {{ sort }}"},
    ]
    items = [{"id": f"{ATTACK}{i}", "text": f"{ITEM} {ATTACK} number {i}"} for i in range(ITEMS)]
    spec = {"name": ATTACK, "items": items, "steps": steps, "review": {"prompt": PROMPT, "rounds": 0}}
    return json.dumps(spec)  # JSON is YAML


@dataclass
class Flower:
    """A running fleet with Flower behind a password."""

    url: str
    folder: Folder
    processes: dict[str, FleetProcess]
    port: int

    def api(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": WORD})
        with urllib.request.urlopen(request, timeout=30) as reply:
            text = reply.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def names(self) -> set[str]:
        return {str(task["name"]) for task in self.api("/api/tasks").values()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "this needs the Debian package chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def flower_of(flower: Flower, valkey: Valkey) -> Iterator[FleetProcess]:
    """The process of Flower, on the same port and folder each time."""
    settings = {"FLEET_STATE": str(flower.folder.path / "state"), "FLEET_FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}"}
    started = FleetProcess(
        valkey,
        flower.folder.path,
        fleet_config(),
        "http://127.0.0.1:9/v1",
        "flower",
        "--port",
        str(flower.port),
        **settings,
    )
    try:
        until(lambda: flower.port in started.listens_on(), "Flower to listen", started, timeout=90)
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory, store: Valkey) -> Iterator[Flower]:
    """A fleet without Flower's process; the tests start that."""
    path = tmp_path_factory.mktemp("fleet")
    config, port = fleet_config(), free_port()
    processes: dict[str, FleetProcess] = {}
    settings = SimSettings(speed=20, invalid_output=dict.fromkeys(MODELS, 0.0))
    with running_sim(path / "sim", settings, config) as sim:
        folder = Folder(
            path,
            {"FLEET_CONFIG": str(path / "fleet.yaml"), "FLEET_REDIS_URL": store.url}
            | {"FLEET_BLOBS": str(path / "blobs"), "FLEET_SIM_URL": sim.url},
        )
        folder.write("job.yaml", job())
        try:
            for words in (("coordinator",), *(("worker", "--tier", tier) for tier in TIERS)):
                processes[words[-1]] = FleetProcess(store, path, config, sim.url, *words).ready(store, words[-1])
            yield Flower(f"http://127.0.0.1:{port}", folder, processes, port)
        finally:
            for process in processes.values():
                process.stop()


def opened(browser: Browser, flower: Flower, path: str) -> Page:
    """A page of Flower's, watched for what an attack would do."""
    context = browser.new_context(http_credentials={"username": USER, "password": PASSWORD})
    page = context.new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    page.goto(f"{flower.url}{path}")
    return page


def test_a_job_is_seen_on_every_tier_while_it_runs_and_nothing_of_its_content(
    browser: Browser, flower: Flower, store: Valkey
) -> None:
    with flower_of(flower, store):
        until(lambda: len(flower.api("/workers?json=1")["data"]) == 4, "the workers to be seen")
        page = opened(browser, flower, "/tasks")
        submitted = flower.folder.fleet("submit", "job.yaml")
        assert submitted.code == 0, submitted.err
        job_id = submitted.out.strip()
        # Live: tasks are seen before the job has ended.
        until(lambda: any(task["state"] == "STARTED" for task in flower.api("/api/tasks").values()), "a running task")
        watched = flower.folder.fleet("jobs", "watch", job_id)
        assert watched.code == 0, watched.out + watched.err
        until(lambda: {"flagship.review", "coordinator.plan"} <= flower.names(), "the review to be seen")
        until(
            lambda: all(task["state"] == "SUCCESS" for task in flower.api("/api/tasks").values()), "all to have ended"
        )
        names = flower.names()
        assert "mini.sum_up" in names
        (nano,) = {name for name in names if name.startswith("nano.")}
        assert nano == "nano.img-src-x-onerror-window-owned-1-script"
        tasks = flower.api("/api/tasks")
        assert sum(task["name"] == nano for task in tasks.values()) == ITEMS
        envelope = json.loads(next(task["result"] for task in tasks.values() if task["name"] == nano))
        assert (envelope["tier"], envelope["status"]) == ("nano", "ok")
        assert envelope["tokens"] > 0 < envelope["cost_usd"]

        # The pages, as a browser shows them.
        page.reload()
        page.wait_for_selector("#tasks-table tbody tr")
        page.fill("input[type=search]", "name:mini.sum_up")
        page.wait_for_function("document.querySelectorAll('#tasks-table tbody tr').length >= 12")
        assert "ok on mini," in page.inner_text("#tasks-table")
        texts = {"/tasks": page.content()}
        subtask = next(id_ for id_, task in tasks.items() if task["name"] == nano)
        workers = sorted(worker["hostname"] for worker in flower.api("/workers?json=1")["data"])
        assert [name.split(".")[0] for name in workers] == ["coordinator", "flagship", "mini", "nano"]
        for path in ("/", f"/task/{subtask}", "/broker", *(f"/worker/{name}" for name in workers)):
            shown = opened(browser, flower, path)
            shown.wait_for_load_state("networkidle") if path != "/" else shown.wait_for_selector(
                "#workers-table tbody tr"
            )
            assert shown.evaluate("window.owned") is None, path
            texts[path] = shown.content()
            shown.context.close()
        assert page.evaluate("window.owned") is None
        assert all(tier in texts["/broker"] for tier in TIERS), "the depth of every tier's queue"
        assert "ok on nano," in texts[f"/task/{subtask}"]
        for path in ("/api/tasks", "/metrics", f"/api/task/info/{subtask}", "/workers?json=1"):
            texts[path] = json.dumps(flower.api(path))
        results = flower.folder.fleet("jobs", "results", job_id).out.splitlines()
        outputs = [json.loads(line)["output"] for line in results]
        assert len(outputs) == 2 * ITEMS
        for path, text in texts.items():
            for canary in (
                ITEM,
                PROMPT,
                RULE,
                "<img src=x",
                "onerror=",
                "\u202e",
                *(str(output)[:60] for output in outputs),
            ):
                assert canary not in text, f"{path} shows {canary!r}"
        assert f'task="{nano}"' in flower.api("/metrics")


def test_without_the_password_the_browser_gets_nothing(browser: Browser, flower: Flower, store: Valkey) -> None:
    with flower_of(flower, store):
        for path in ("/", "/tasks", "/metrics", "/static/js/flower.js"):
            page = browser.new_page()  # the error that is shown is a navigation of its own
            with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
                page.goto(f"{flower.url}{path}")
            page.close()
        page = browser.new_page()
        reply = page.goto(f"{flower.url}/healthcheck")
        assert reply is not None
        assert (reply.status, page.inner_text("body")) == (200, "OK")


def test_what_was_seen_outlives_a_restart(flower: Flower, store: Valkey) -> None:
    with flower_of(flower, store) as process:
        if not flower.names():
            assert flower.folder.fleet("run", "job.yaml").code == 0
        until(lambda: bool(flower.names()), "tasks")
        before = flower.api("/api/tasks")
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(20) == 0
    with flower_of(flower, store):
        after = flower.api("/api/tasks")
        assert {id_: task["state"] for id_, task in before.items()} == {id_: after[id_]["state"] for id_ in before}
        assert next(iter(after.values()))["worker"].split(".")[0] in ("coordinator", *TIERS)
