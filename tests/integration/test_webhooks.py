"""Webhooks over a real store, a real provider and a real receiver: signed, at least once under one id, for a day."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fleet.config import OutsideConfig
from fleet.control import Control
from fleet.errors import AddressRefusedError, BadInputError, ProviderError
from fleet.jobs import JobStatus
from fleet.outside import Outside
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.runtime import NAMESPACE
from fleet.webhooks import BACKOFF_S, JITTER, LONGEST_ASKED_S, TO_ONE_HOST, Deliverer
from queues.outbox import Notice
from tests.support.api import served
from tests.support.bench import Bench, bench, config
from tests.support.processes import FleetProcess
from tests.support.receiver import Received, Receiver, receiving
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

STEP = {"id": "read", "each": "items", "tier": "nano", "prompt": "Read {{ item.name }}.", "max_output_tokens": 50}
ITEMS = [{"name": "one"}, {"name": "two"}]
#: Tries that follow each other at once.
AT_ONCE = (0.0,) * len(BACKOFF_S)


class Hooks:
    """A bench whose jobs call a receiver; `other` is one of another host, at `other_url`."""

    def __init__(self, fleet: Bench, receiver: Receiver, other: Receiver, valkey: Valkey) -> None:
        self.fleet = fleet
        self.receiver = receiver
        self.other = other
        self.other_url = other.url.replace("127.0.0.1", "localhost")
        self.valkey = valkey
        self.control = Control(fleet.runtime)
        self._outsides: list[Outside] = []

    def deliverer(self, **options: Any) -> Deliverer:
        """One more coordinator's part."""
        runtime = self.fleet.runtime
        outside = Outside(runtime.config.outside.allowed)
        self._outsides.append(outside)
        return Deliverer(runtime.outbox, runtime.jobs, runtime.secrets, outside, **{"backoff_s": AT_ONCE} | options)

    async def submit(self, **spec: Any) -> str:
        given = {"name": "test", "items": ITEMS, "steps": [STEP], "webhook": self.receiver.url} | spec
        return await self.fleet.submit(**given)

    async def delivered(self) -> list[Received]:
        """What comes in one round of one coordinator."""
        before = len(self.receiver.received)
        await asyncio.gather(*await self.deliverer().begin())
        return self.receiver.received[before:]

    async def notices(self, job_id: str | None = None) -> list[Notice]:
        """The oldest first."""
        return (await self.fleet.runtime.outbox.latest(100, job_id))[::-1]

    async def secret(self, tenant: str = "default") -> str:
        return (await self.fleet.runtime.secrets.of(tenant))[0]

    def keys(self) -> set[str]:
        """What of the store is webhooks'."""
        with self.valkey.client() as client:
            names = {name.decode() for name in client.keys(f"{NAMESPACE}:*")}
        return {name for name in names if name.split(":")[1] in ("ob", "obe", "obj", "oba", "secret")}

    async def aclose(self) -> None:
        for outside in self._outsides:
            await outside.aclose()


@asynccontextmanager
async def hooks(valkey: Valkey, folder: Path, sim: RunningSim) -> AsyncIterator[Hooks]:
    async with receiving() as receiver, receiving() as other:
        allow = OutsideConfig(allow=(f"127.0.0.1:{receiver.port}", f"localhost:{other.port}"))
        async with bench(valkey, folder, config(outside=allow), sim=sim.url) as fleet:
            opened = Hooks(fleet, receiver, other, valkey)
            try:
                yield opened
            finally:
                await opened.aclose()


@pytest.fixture
def on_hooks(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> Callable[[Callable[[Hooks], Awaitable[None]]], None]:
    def on(scenario: Callable[[Hooks], Awaitable[None]]) -> None:
        async def run() -> None:
            async with hooks(valkey, tmp_path, sim) as opened:
                await scenario(opened)

        asyncio.run(run())

    return on


OnHooks = Callable[[Callable[[Hooks], Awaitable[None]]], None]


def verified(received: Received, *secrets: str) -> dict[str, Any]:
    """The body, after checking each signature as a receiver does: written from the specification, with none of our code."""
    id_, timestamp = received.headers["webhook-id"], received.headers["webhook-timestamp"]
    assert "." not in id_ + timestamp
    assert abs(time.time() - int(timestamp)) < 300
    expected = []
    for secret in secrets:
        assert secret.startswith("whsec_")
        key = base64.b64decode(secret[6:])
        assert len(key) >= 24
        signed = hmac.new(key, f"{id_}.{timestamp}.".encode() + received.body, hashlib.sha256).digest()
        expected.append("v1," + base64.b64encode(signed).decode())
    assert received.headers["webhook-signature"].split(" ") == expected
    assert (received.method, received.headers["content-type"]) == ("POST", "application/json")
    body: dict[str, Any] = json.loads(received.body)
    return body


async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
    raise ProviderError("The vendor refused it.", kind="bad_request", retryable=False)


async def wants_money(request: ModelRequest, started: Started | None = None) -> Completion:
    raise ProviderError("The quota is used up.", kind="quota", retryable=False)


def test_a_completed_job_is_told_once_signed_and_small(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        job_id = await opened.submit(name="tickets")
        assert await opened.delivered() == []
        job = await opened.fleet.run(job_id)
        (received,) = await opened.delivered()
        assert await opened.delivered() == []
        body = verified(received, await opened.secret())
        (used, _), at = await opened.fleet.money(job_id), body.pop("timestamp")
        assert used > 0
        assert body == {
            "type": "job.completed",
            "data": {
                "id": job_id,
                "name": "tickets",
                "status": "completed",
                "cost_usd": used / 1e9,
                "counts": {"done": 2, "failed": 0},
            },
        }
        assert job.finished_at is not None
        assert at.endswith("Z")
        (notice,) = await opened.notices(job_id)
        assert (notice.state, notice.tries, notice.last, notice.due) == ("delivered", 1, "200", None)
        assert abs(notice.at - job.finished_at) < 60
        assert received.headers["webhook-id"] == notice.id

    on_hooks(scenario)


def test_a_job_that_fails_is_retried_and_completes_is_told_twice(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        real, opened.fleet.provider.complete = opened.fleet.provider.complete, refuses  # type: ignore[method-assign]
        job_id = await opened.submit()
        assert (await opened.fleet.run(job_id)).status is JobStatus.FAILED
        failed = await opened.delivered()
        opened.fleet.provider.complete = real  # type: ignore[method-assign]
        await opened.control.retry_failed(job_id)
        assert (await opened.fleet.run(job_id)).status is JobStatus.COMPLETED
        completed = await opened.delivered()
        bodies = [verified(one, await opened.secret()) for one in (*failed, *completed)]
        assert [body["type"] for body in bodies] == ["job.failed", "job.completed"]
        assert bodies[0]["data"]["counts"] == {"done": 0, "failed": 2}
        assert len(set(opened.receiver.ids)) == 2

    on_hooks(scenario)


def test_what_was_not_told_yet_is_told_as_it_was_when_it_happened(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        real, opened.fleet.provider.complete = opened.fleet.provider.complete, refuses  # type: ignore[method-assign]
        job_id = await opened.submit()
        await opened.fleet.run(job_id)
        opened.fleet.provider.complete = real  # type: ignore[method-assign]
        await opened.control.retry_failed(job_id)
        await opened.fleet.run(job_id)
        bodies = [verified(one, await opened.secret()) for one in await opened.delivered()]
        told = {body["data"]["status"]: body["data"] for body in bodies}
        assert told.keys() == {"failed", "completed"}
        assert told["failed"]["cost_usd"] == 0 < told["completed"]["cost_usd"]
        assert told["failed"]["counts"]["done"] == 0

    on_hooks(scenario)


def test_a_cancelled_job_is_told_once(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        job_id = await opened.submit()
        await opened.control.cancel(job_id)
        await opened.fleet.run(job_id)
        assert await opened.fleet.runtime.jobs.end(job_id, JobStatus.CANCELLED) is False
        (received,) = await opened.delivered()
        assert verified(received, await opened.secret())["type"] == "job.cancelled"

    on_hooks(scenario)


def test_a_pause_is_told_when_somebody_has_to_act_and_not_when_somebody_did(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        real, opened.fleet.provider.complete = opened.fleet.provider.complete, wants_money  # type: ignore[method-assign]
        job_id = await opened.submit()
        assert (await opened.fleet.run(job_id)).status is JobStatus.PAUSED
        (received,) = await opened.delivered()
        assert verified(received, await opened.secret())["type"] == "job.paused"
        await opened.control.resume(job_id)
        await opened.control.pause(job_id)
        assert await opened.delivered() == []
        opened.fleet.provider.complete = real  # type: ignore[method-assign]
        await opened.control.resume(job_id)
        await opened.fleet.run(job_id)
        (received,) = await opened.delivered()
        assert verified(received, await opened.secret())["type"] == "job.completed"

    on_hooks(scenario)


def test_a_job_without_a_webhook_leaves_no_key(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        job_id = await opened.submit(webhook=None)
        await opened.fleet.run(job_id)
        assert await opened.delivered() == []
        assert opened.keys() == set()

    on_hooks(scenario)


def test_what_is_not_answered_well_is_tried_again_under_its_id(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        opened.receiver.statuses = [500, 404, 302, 429]
        job_id = await opened.submit()
        await opened.fleet.run(job_id)
        for tries, status in enumerate((500, 404, 302, 429, 200), 1):
            assert len(await opened.delivered()) == 1
            (notice,) = await opened.notices(job_id)
            assert (notice.tries, notice.last) == (tries, str(status))
        assert notice.state == "delivered"
        assert len(opened.receiver.received) == 5
        assert len(set(opened.receiver.ids)) == len({one.body for one in opened.receiver.received}) == 1
        for received in opened.receiver.received:
            verified(received, await opened.secret())

    on_hooks(scenario)


def test_after_a_day_it_is_given_up_and_kept(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        opened.receiver.statuses = [500] * 100
        await opened.fleet.run(await opened.submit())
        for _ in range(len(BACKOFF_S) + 3):
            await opened.delivered()
        (notice,) = await opened.notices()
        assert (notice.state, notice.tries, notice.last, notice.due) == ("failed", len(BACKOFF_S) + 1, "500", None)
        assert len(opened.receiver.received) == len(BACKOFF_S) + 1
        assert 0.9 * 86_400 < sum(BACKOFF_S) < 86_400

    on_hooks(scenario)


@pytest.mark.parametrize(
    ("asked", "least_s", "most_s"),
    [
        (None, 10 * (1 - JITTER), 10 * (1 + JITTER)),
        ("0", 10 * (1 - JITTER), 10 * (1 + JITTER)),
        ("400", 400, 400),
        ("99999999", LONGEST_ASKED_S, LONGEST_ASKED_S),
        ("-5", 10 * (1 - JITTER), 10 * (1 + JITTER)),
        ("soon", 10 * (1 - JITTER), 10 * (1 + JITTER)),
    ],
)
def test_the_next_try_is_later_and_a_receiver_may_ask_for_later_still(
    on_hooks: OnHooks, asked: str | None, least_s: float, most_s: float
) -> None:
    async def scenario(opened: Hooks) -> None:
        opened.receiver.statuses = [503]
        opened.receiver.headers = {} if asked is None else {"Retry-After": asked}
        await opened.fleet.run(await opened.submit())
        before = await opened.fleet.runtime.store.now()
        await asyncio.gather(*await opened.deliverer(backoff_s=(10.0,)).begin())
        after = await opened.fleet.runtime.store.now()
        (notice,) = await opened.notices()
        assert notice.due is not None
        assert before + least_s - 0.01 <= notice.due <= after + most_s + 0.01
        assert await opened.delivered() == []

    on_hooks(scenario)


def test_gone_stops_it(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        opened.receiver.statuses = [410]
        await opened.fleet.run(await opened.submit())
        assert len(await opened.delivered()) == 1
        assert await opened.delivered() == []
        (notice,) = await opened.notices()
        assert (notice.state, notice.last) == ("failed", "410")

    on_hooks(scenario)


def test_it_is_delivered_again_by_command_under_its_id(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        job_id = await opened.submit()
        await opened.fleet.run(job_id)
        await opened.delivered()
        (notice,) = await opened.notices()
        for name in (notice.id, job_id):
            assert await opened.fleet.runtime.outbox.again(name) == notice.id
            assert len(await opened.delivered()) == 1
        assert opened.receiver.ids == [notice.id] * 3
        assert await opened.fleet.runtime.outbox.again("evt_nothing") is None

    on_hooks(scenario)


def test_two_coordinators_deliver_once(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        jobs = [await opened.submit() for _ in range(6)]
        for job_id in jobs:
            await opened.fleet.run(job_id)
        running = [asyncio.create_task(opened.deliverer().run()) for _ in range(2)]

        async def all_told() -> bool:
            return all(notice.state == "delivered" for notice in await opened.notices())

        await eventually(all_told, "every webhook to be delivered")
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert set(Counter(opened.receiver.ids).values()) == {1}
        assert len(opened.receiver.received) == len(jobs)

    on_hooks(scenario)


def test_whoever_was_overtaken_records_nothing(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        await opened.fleet.run(await opened.submit())
        outbox = opened.fleet.runtime.outbox
        (slow,) = await outbox.take(1, of_one_host=1, under_way={}, lease_s=0)
        (heir,) = await outbox.take(1, of_one_host=1, under_way={}, lease_s=60)
        assert (slow.id, heir.tries) == (heir.id, 2)
        assert await outbox.given_up(slow, "500") is False
        assert await outbox.delivered(heir, "200") is True
        assert (await opened.notices())[0].state == "delivered"

    on_hooks(scenario)


def test_one_slow_host_does_not_hold_up_the_others(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        opened.receiver.held = asyncio.Event()
        slow = [await opened.submit() for _ in range(TO_ONE_HOST + 2)]
        for job_id in (*slow, await opened.submit(webhook=opened.other_url)):
            await opened.fleet.run(job_id)
        deliverer = opened.deliverer()
        begun = await deliverer.begin()
        assert len(begun) == TO_ONE_HOST + 1
        assert await deliverer.begin() == []

        async def other_told() -> bool:
            return len(opened.other.received) == 1

        await eventually(other_told, "the other host's webhook")
        opened.receiver.held.set()
        await asyncio.gather(*begun)
        await asyncio.gather(*await deliverer.begin())
        assert len(set(opened.receiver.ids)) == len(opened.receiver.received) == len(slow)

    on_hooks(scenario)


def test_each_tenant_has_a_secret_and_a_new_one_signs_beside_the_one_before(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        secrets = opened.fleet.runtime.secrets
        await opened.fleet.run(
            await opened.fleet.client.submit(
                (await opened.fleet.client.job(await opened.submit())).spec.model_copy(update={"items": tuple(ITEMS)}),
                tenant="acme",
            )
        )
        received = {one.headers["webhook-id"].split("_")[1]: one for one in await opened.delivered()}
        verified(received["acme"], await opened.secret("acme"))
        assert await opened.secret("acme") != await opened.secret()
        assert len(await secrets.of("acme")) == 1

        before = await opened.secret("acme")
        assert (await secrets.rotate("acme"))[1:] == (before,)
        now = await opened.secret("acme")
        assert now != before
        await opened.fleet.runtime.outbox.again(received["acme"].headers["webhook-id"])
        (again,) = await opened.delivered()
        verified(again, now, before)
        assert len(await secrets.rotate("acme", overlap_s=0)) == 1
        assert len(await secrets.of("acme")) == 1
        with pytest.raises(BadInputError, match="no name of a tenant"):
            await secrets.of("no tenant")

    on_hooks(scenario)


def test_an_address_inside_is_refused_when_the_job_is_submitted_and_when_it_is_called(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        for address in (
            "http://127.0.0.1:1/",
            "http://169.254.169.254/latest/",
            "ftp://example.com/",
            "http://u:p@example.com/",
        ):
            with pytest.raises(AddressRefusedError, match=r"^webhook: "):
                await opened.submit(webhook=address)
        await opened.fleet.run(await opened.submit())
        runtime = opened.fleet.runtime
        outside = Outside()  # the operator has thought better of it
        await asyncio.gather(*await Deliverer(runtime.outbox, runtime.jobs, runtime.secrets, outside).begin())
        await outside.aclose()
        (notice,) = await opened.notices()
        assert notice.state == "due"
        assert "not public" in (notice.last or "")
        assert opened.receiver.received == []

    on_hooks(scenario)


def test_the_api_refuses_such_an_address_and_shows_none(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        async with served(opened.fleet) as api:
            job = {"name": "test", "items": ITEMS, "steps": [STEP]}
            status, problem, _ = await api.ask(
                "POST", "/v1/jobs", json=job | {"webhook": "http://10.0.0.1/its-secret-path"}
            )
            assert (400 <= status < 500, problem["detail"][:9]) == (True, "webhook: ")
            assert "its-secret-path" not in json.dumps(problem)
            status, accepted, _ = await api.ask("POST", "/v1/jobs", json=job | {"webhook": opened.receiver.url})
            assert status == 202
            _, shown, _ = await api.ask("GET", f"/v1/jobs/{accepted['id']}")
            assert "its-secret-path" not in json.dumps(shown)

    on_hooks(scenario)


def test_neither_path_nor_answer_nor_secret_is_logged_or_kept(
    on_hooks: OnHooks, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(opened: Hooks) -> None:
        opened.receiver.statuses = [500]
        with caplog.at_level(logging.DEBUG):
            await opened.fleet.run(await opened.submit())
            await opened.delivered()
            await opened.delivered()
            await opened.fleet.run(await opened.submit(webhook=opened.receiver.url))
            outside = Outside()
            runtime = opened.fleet.runtime
            await asyncio.gather(*await Deliverer(runtime.outbox, runtime.jobs, runtime.secrets, outside).begin())
            await outside.aclose()
        assert "webhook delivered" in caplog.text
        for hidden in ("its-secret-path", "ITS ANSWER", (await opened.secret())[6:]):
            assert hidden not in caplog.text
        with opened.valkey.client() as client:
            kept = [client.hgetall(name) for name in client.keys(f"{NAMESPACE}:obe:*")]
        for hidden in ("its-secret-path", "ITS ANSWER"):
            assert hidden not in str(kept)

    on_hooks(scenario)


def test_notices_are_kept_for_a_week(on_hooks: OnHooks) -> None:
    async def scenario(opened: Hooks) -> None:
        await opened.fleet.run(await opened.submit())
        week_ms = 7 * 24 * 3600 * 1000
        link = opened.fleet.runtime.link
        (notice,) = await opened.notices()
        for key in (f"obe:{notice.id}", f"obj:{notice.job}"):
            assert week_ms - 600_000 < await link.execute("PTTL", f"{NAMESPACE}:{key}") <= week_ms
        # A week later: what expires by itself has, and the rest goes with the next look.
        await link.execute("DEL", f"{NAMESPACE}:obe:{notice.id}", f"{NAMESPACE}:obj:{notice.job}")
        await link.execute("ZADD", f"{NAMESPACE}:oba", 1, notice.id)
        assert await opened.delivered() == []
        assert opened.keys() == set()

    on_hooks(scenario)


def test_a_coordinator_that_dies_between_sending_and_recording_sends_again_under_the_same_id(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario() -> None:
        async with hooks(valkey, tmp_path, sim) as opened:
            job_id = await opened.submit()
            await opened.fleet.run(job_id)
            start = (valkey, tmp_path, opened.fleet.runtime.config, sim.url, "coordinator")
            first = FleetProcess(*start, FLEET_FAILPOINTS="told=1")
            second: FleetProcess | None = None
            try:
                assert await asyncio.to_thread(first.process.wait, 60) == -9
                assert len(opened.receiver.received) == 1
                (notice,) = await opened.notices()
                assert (notice.state, notice.tries) == ("due", 1)
                # The time for which it was taken is over.
                await opened.fleet.runtime.link.execute("ZADD", f"{NAMESPACE}:ob:127.0.0.1", 1, notice.id)
                await opened.fleet.runtime.link.execute("ZADD", f"{NAMESPACE}:ob", 1, "127.0.0.1")
                second = FleetProcess(*start)

                async def told() -> bool:
                    return (await opened.notices())[0].state == "delivered"

                await eventually(told, "the next coordinator to deliver it", 60)
                assert opened.receiver.ids == [notice.id] * 2
            finally:
                first.stop()
                if second is not None:
                    second.stop()

    asyncio.run(scenario())
