"""A fleet of processes through success and every kind of failure, and what its operators see of it: ids, and nobody's words.

Words that stand for content and secrets go in everywhere; then every place that an operator, or a tool of theirs, looks at is
searched for them: logs, Celery's messages and events, Flower, metrics, traces, receipts and audit notes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import signal
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fleet.keys import Keys
from fleet.runtime import NAMESPACE
from fleet.signing import Secrets
from fleet.traces import root_of
from queues.link import Link
from tests.support.bench import config
from tests.support.canaries import BREAK, FAIL, REFUSE, Canaries, Vendor, overheard, plain, serving
from tests.support.cli import Folder
from tests.support.collector import Collector, check_tree, collecting
from tests.support.envelopes import enveloped, raw_message
from tests.support.processes import FleetProcess
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

TIERS = ("nano", "mini", "flagship")
NO_SIM = "http://127.0.0.1:9/v1"
#: Longest that a process may take to be there: six of them begin at the same time.
START_S = 240
pytestmark = pytest.mark.timeout(600)
CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
#: Keys and channels of Celery's and kombu's in the store: its queues, what is unacknowledged, events, chords.
CELERY = re.compile(
    r"(?i)(\"|\b)(PUBLISH|celery|_kombu|fleet\.(unacked|events|control)|[LR]PUSH \"?(nano|mini|flagship|coordinator)\b)"
)


@dataclass
class Story:
    """What happened, and all that could be seen of it."""

    canaries: Canaries
    vendor: Vendor
    collector: Collector
    job: str
    crashed: str
    results: str
    sinks: dict[str, str]
    logs: dict[str, str]

    def lines(self) -> list[dict[str, Any]]:
        """All lines of all logs."""
        return [json.loads(line) for text in self.logs.values() for line in text.splitlines()]


class Teller:
    """Has it all happen."""

    def __init__(self, valkey: Valkey, folder: Path, canaries: Canaries, vendor: Vendor, collector: Collector) -> None:
        self.valkey = valkey
        self.folder = folder
        self.canaries = canaries
        self.vendor = vendor
        self.collector = collector
        self.store = f"redis://fleet:{canaries.store_password}@127.0.0.1:{valkey.port}"
        self.config = config(outside={"allow": [vendor.endpoint, "127.0.0.1:9"]}, call_tries=2)
        self.port, self.flower_port, self.metrics_port = free_port(), free_port(), free_port()
        self.processes: dict[str, FleetProcess] = {}
        self.key = ""

    def variables(self, name: str) -> dict[str, str]:
        return {
            "FLEET_REDIS_URL": self.store,
            "FLEET_LOG_FORMAT": "json",
            "FLEET_HEALTH": str(self.folder / "health" / name),
            "FLEET_METRICS_ADDRESS": f"127.0.0.1:{self.metrics_port if name == 'coordinator' else free_port()}",
            "OPENAI_BASE_URL": self.vendor.url,
            "OPENAI_API_KEY": self.canaries.vendor_key,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={self.canaries.collector_key}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "FLEET_FLOWER_BASIC_AUTH": f"ops:{self.canaries.flower_password}",
        }

    def start(self) -> None:
        """All side by side: each takes its time to import what it needs."""
        (self.folder / "fleet.yaml").write_text(self.config.model_dump_json())
        ports = {"api": self.port, "flower": self.flower_port}
        words = [("coordinator",), *(("worker", "--tier", tier) for tier in TIERS)]
        words += [(name, "--port", str(port)) for name, port in ports.items()]
        self.processes = {one[-1] if "--tier" in one else one[0]: self.process(*one) for one in words}
        with self.valkey.client() as store:
            for name in ("coordinator", *TIERS):
                ready = partial(store.zcard, f"{NAMESPACE}:w:{name}")
                until(ready, f"the {name} to register", self.processes[name], START_S)
        for name, port in ports.items():
            process = self.processes[name]
            until(lambda: port in process.listens_on(), f"the {name} to listen", process, START_S)  # noqa: B023
        self.key = self.canaries.known["api_key"] = asyncio.run(self.secret(_key))

    def process(self, *words: str) -> FleetProcess:
        variables = self.variables(words[0])
        return FleetProcess(self.valkey, self.folder, self.config, NO_SIM, *words, **variables)

    async def secret(self, make: Any) -> str:
        link = Link.from_url(self.store)
        try:
            return str(await make(link))
        finally:
            await link.aclose()

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **headers: str
    ) -> tuple[int, str]:
        """(status, body)."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {key or self.key}", "Content-Type": "application/json"} | headers
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def job(self, *items: str, **fields: Any) -> dict[str, Any]:
        step = {
            "id": "topic",
            "each": "items",
            "tier": "nano",
            "instructions": self.canaries.instructions,
            "prompt": f"{self.canaries.prompt} {{{{ item }}}}",
            "output": {"type": "object", "required": ["topic"], "properties": {"topic": {"type": "string"}}},
        }
        return {"name": self.canaries.name, "goal": self.canaries.goal, "items": list(items), "steps": [step]} | fields

    def submit(self, job: dict[str, Any], **headers: str) -> str:
        status, body = self.ask("POST", "/v1/jobs", job, **headers)
        assert status == 202, body
        return str(json.loads(body)["id"])

    def status(self, job: str) -> str:
        status, body = self.ask("GET", f"/v1/jobs/{job}")
        return str(json.loads(body)["status"]) if status == 200 else ""

    def main_job(self) -> str:
        """Answers that are accepted, that break their schema up to the last tier, none, and none that can be read."""
        item = self.canaries.item
        job = self.job(
            item,
            *(f"{item} {how}" for how in (FAIL, REFUSE, BREAK)),
            review={"prompt": self.canaries.review_prompt},
            webhook=f"http://{self.vendor.endpoint}/hook/{self.canaries.hook_path}",
        )
        id_ = self.submit(job, traceparent=f"00-{CALLER[0]}-{CALLER[1]}-01")
        ended = ("completed", "failed", "paused")
        until(lambda: self.status(id_) in ended, "the job", self.processes["coordinator"], START_S)
        assert self.status(id_) == "completed", json.loads(self.ask("GET", f"/v1/jobs/{id_}")[1])["error"]
        until(
            lambda: any("/hook/" in heard for heard in self.vendor.heard), "the webhook", self.processes["coordinator"]
        )
        return id_

    def crash(self) -> str:
        """A job whose plan in the store nobody can read: runner, duties, webhooks and API fail, each in its own way."""
        nano = self.processes["nano"]
        nano.process.send_signal(signal.SIGSTOP)
        try:
            id_ = self.submit(self.job(self.canaries.item, webhook=f"http://127.0.0.1:9/{self.canaries.hook_path}"))
            until(lambda: self.status(id_) == "running", "the plan", self.processes["coordinator"])
            unreadable = [{"id": "topic", "prompt": {"text": self.canaries.stored}, "output": self.canaries.stored}]
            with self.valkey.client() as store:
                store.hset(f"{NAMESPACE}:job:{id_}", "plan", json.dumps(unreadable))
        finally:
            nano.process.send_signal(signal.SIGCONT)
        until(lambda: "cannot be read" in nano.log.read_text(), "the runner to fail", nano)
        coordinator = self.processes["coordinator"]
        until(
            lambda: "a duty failed on an error of our own" in coordinator.log.read_text(), "a duty to fail", coordinator
        )
        again = "left to be delivered again"
        until(lambda: again in coordinator.log.read_text(), "its webhook to fail", coordinator)
        assert self.ask("GET", f"/v1/jobs/{id_}")[0] == 500
        return id_

    def calls(self) -> None:
        """OpenAI's calls: answered, streamed, refused by the vendor, refused by us."""
        word = self.canaries.conversation
        for text, fields, expected in (
            (word, {}, 200),
            (word, {"stream": True}, 200),
            (f"{word} {REFUSE}", {}, 400),
            (f"{word} {BREAK}", {}, 502),
            (word, {"temperature": word}, 400),
        ):
            asked = {"model": "nano", "messages": [{"role": "user", "content": text}]} | fields
            status, body = self.ask("POST", "/v1/chat/completions", asked)
            assert status == expected, body

    def refusals(self) -> None:
        """What callers do wrong, with something of theirs in each."""
        body = self.canaries.refused_body
        assert self.ask("POST", "/v1/jobs", self.job(), key=self.canaries.wrong_key)[0] == 401
        assert self.ask("POST", "/v1/jobs", f'{{"name": "{body}'.encode())[0] == 400
        assert self.ask("POST", "/v1/jobs", {"name": body, "steps": body})[0] == 422
        assert self.ask("POST", "/v1/jobs", self.job(priority=body))[0] == 422
        again = {"Idempotency-Key": self.canaries.idempotency_key}
        self.submit(self.job(self.canaries.item), **again)
        assert self.ask("POST", "/v1/jobs", self.job(body), **again)[0] == 409
        assert self.ask("GET", f"/{self.canaries.path}?q={self.canaries.path}")[0] == 404

    def messages(self) -> None:
        """Messages that are no work: of an unknown task, and a job that nobody signed."""
        nano, coordinator = self.processes["nano"], self.processes["coordinator"]
        word = self.canaries.message
        with self.valkey.client() as store:
            store.lpush("nano", raw_message({"job": word}, task="fleet.unknown.v1"))
            forged = enveloped("key_x", "flk_x", self.job(word))
            store.lpush("coordinator", raw_message(forged, argsrepr=word, kwargsrepr=word))
        until(lambda: "unregistered task" in nano.log.read_text(), "the unknown task", nano)
        until(lambda: "is refused" in coordinator.log.read_text(), "the refusal", coordinator)

    def sinks(self, job: str) -> dict[str, str]:
        """All that can be read of it while the processes run."""
        api, flower = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.flower_port}"
        login = f"ops:{self.canaries.flower_password}"
        found = {
            "metrics of the coordinator": _page(f"http://127.0.0.1:{self.metrics_port}/metrics"),
            "metrics of the API": _page(f"{api}/metrics", self.admin_key()),
            "Flower": _page(f"{flower}/", login=login),
            "Flower's tasks": _page(f"{flower}/api/tasks?limit=1000", login=login),
        }
        tasks = json.loads(found["Flower's tasks"])
        assert len(tasks) > 8, "it has seen them"
        for id_ in list(tasks)[:20]:
            found[f"Flower's {id_}"] = _page(f"{flower}/task/{urllib.parse.quote(id_, safe='')}", login=login)
        audit = self.folder_of_commands().fleet("keys", "audit", "--tenant", "default", "-o", "json")
        assert audit.code == 0, audit.err
        found["audit notes"] = audit.out
        receipt = json.loads(self.ask("GET", f"/v1/jobs/{job}/cost")[1])
        assert receipt.pop("name") == self.canaries.name
        return found | {"receipt": json.dumps(receipt)}

    def admin_key(self) -> str:
        key = self.canaries.known["admin_key"] = asyncio.run(self.secret(lambda link: _key(link, "admin")))
        return key

    def folder_of_commands(self) -> Folder:
        return Folder(self.folder, {"FLEET_REDIS_URL": self.store, "FLEET_BLOBS": str(self.folder / "blobs")})

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.stop()


async def _key(link: Link, *scopes: Any) -> str:
    return (await Keys(link, NAMESPACE).create("default", scopes or ("submit", "read"), "test", 0.0))[1]


async def _webhook_secret(link: Link) -> str:
    return (await Secrets(link, NAMESPACE).of("default"))[0].removeprefix("whsec_")


def _page(url: str, key: str = "none", *, login: str | None = None) -> str:
    shown = f"Bearer {key}" if login is None else f"Basic {base64.b64encode(login.encode()).decode()}"
    request = urllib.request.Request(url, headers={"Authorization": shown})
    with urllib.request.urlopen(request, timeout=30) as page:
        return str(page.read().decode())


@pytest.fixture(scope="module")
def story(valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    valkey_server.flush()
    canaries, folder = Canaries(), tmp_path_factory.mktemp("observed")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(valkey_server.client())
        store.execute_command("ACL", "SETUSER", "fleet", "on", f">{canaries.store_password}", "~*", "&*", "+@all")
        stack.callback(store.execute_command, "ACL", "DELUSER", "fleet")
        vendor = stack.enter_context(serving(canaries))
        collector = stack.enter_context(collecting())
        teller = Teller(valkey_server, folder, canaries, vendor, collector)
        stack.callback(teller.stop)
        teller.start()
        with overheard(valkey_server.client(), CELERY) as messages:
            job = teller.main_job()
            results = teller.ask("GET", f"/v1/jobs/{job}/results")[1]
            teller.calls()
            teller.refusals()
            crashed = teller.crash()
        heard = plain("\n".join(messages))
        for what in ("PUSH", "fleet.run_subtask.v1", "task-succeeded", "unacked"):
            assert what in heard, f"the broker was overheard: {what}"
        teller.messages()
        canaries.known["webhook_secret"] = asyncio.run(teller.secret(_webhook_secret))
        sinks = teller.sinks(job) | {"Celery's messages and events": "\n".join(messages)}
        teller.stop()
        logs = {name: process.log.read_text() for name, process in teller.processes.items()}
        yield Story(canaries, vendor, collector, job, crashed, results, sinks, logs)


def test_content_and_secrets_went_everywhere(story: Story) -> None:
    """Or finding none of them would mean nothing."""
    heard = story.canaries.found_in("\n".join(story.vendor.heard))
    assert heard >= {"item", "prompt", "instructions", "output", "goal", "review_prompt", "conversation", "hook_path"}
    assert "output" in story.canaries.found_in(story.results)
    assert {"vendor", "vendor_key", "store_password", "api_key", "wrong_key"} <= set(story.canaries.known)
    assert {"refused_body", "stored", "message", "webhook_secret", "collector_key"} <= set(story.canaries.known)


def test_no_operator_sees_content_or_secrets(story: Story) -> None:
    sinks = story.sinks | {f"log of {name}": text for name, text in story.logs.items()}
    sinks["traces"] = "\n".join(span.text for span in story.collector.spans)
    assert all(sinks.values()), "nothing is empty"
    leaks = {sink: found for sink, text in sinks.items() if (found := story.canaries.found_in(text))}
    assert not leaks


def test_every_line_of_every_process_is_json_and_says_what_it_is_about(story: Story) -> None:
    del story.logs["flower"]  # Flower's own
    lines = story.lines()
    assert {"time", "level", "logger", "process", "message"} <= set.intersection(*(set(line) for line in lines))
    (unreadable,) = [line for line in lines if "cannot be read" in line["message"]]
    assert (unreadable["job"], unreadable["subtask"]) == (story.crashed, f"{story.crashed}/topic/0")
    assert unreadable["errors"][0] == "ValidationError"
    assert any(frame.startswith("fleet.stored:") for frame in unreadable["at"])
    duties = [line for line in lines if "a duty failed" in line["message"]]
    assert duties
    assert {line["job"] for line in duties} == {story.crashed}
    failed = [line for line in lines if line["message"] == "a request failed on an error of our own"]
    assert failed
    assert {line["job"] for line in failed} == {story.crashed}
    hooks = [line for line in lines if line["logger"] == "fleet.webhooks"]
    assert {line["job"] for line in hooks} == {story.job, story.crashed}


def test_a_job_is_one_tree_from_its_request_to_its_webhook(story: Story) -> None:
    spans = story.collector.of(root_of(story.job)[0])
    root = check_tree(spans)
    assert (root.name, root.service, root.links) == ("POST /v1/jobs", "tierfleet-api", (CALLER,))
    names = [span.name for span in spans]
    assert set(names) >= {"plan", "subtask", "check", "shard", "review", "webhook"}
    assert {span.service for span in spans} == {
        "tierfleet-api",
        "tierfleet-coordinator",
        *(f"tierfleet-worker-{tier}" for tier in TIERS),
    }
    by_id = {span.id: span for span in spans}
    calls = [span for span in spans if span.name.startswith("chat ")]
    assert {by_id[call.parent].name for call in calls} == {"subtask", "review"}
    assert {call.attributes.get("error.type") for call in calls} == {None, "bad_request", "malformed"}
    failed = [span for span in spans if span.name == "subtask" and span.failed]
    assert {span.attributes["tierfleet.subtask"] for span in failed} == {f"{story.job}/topic/{i}" for i in (1, 2, 3)}


def test_every_trace_of_the_fleet_is_a_tree(story: Story) -> None:
    of_callers = {int(CALLER[0], 16)}
    for trace in {int(span.trace, 16) for span in story.collector.spans} - of_callers:
        check_tree(story.collector.of(trace))
