"""Tells webhooks what became of jobs: takes notices from the outbox, sends each signed, tries again for a day.

Any number of coordinators may do it: who sends is decided by the outbox. It is sent at least once, under an id that stays. What a
receiver answers is not read; its status alone is kept. The address may be a secret and is never told in whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from redis.exceptions import RedisError

from fleet import traces
from fleet.errors import AddressRefusedError, JobNotFoundError, OutsideError
from fleet.outside import TOTAL_S, Answer, Outside
from fleet.signing import Secrets, headers
from fleet.store import COORDINATOR, JobStore
from fleet.subject import about
from fleet.tenants import tenant_of
from queues.failpoints import failpoint
from queues.outbox import Notice, Outbox

logger = logging.getLogger(__name__)

#: Seconds before each further try, after the example of Standard Webhooks; all of them together are a day.
BACKOFF_S = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 21_600.0)
#: Each is up to so much of itself longer or shorter, so that what failed together is not tried together again.
JITTER = 0.1
#: Longest that a receiver may ask for by Retry-After.
LONGEST_ASKED_S = 3_600.0
#: Sent at once by one coordinator: in all, and to one host, so that a slow one does not hold up the others.
AT_ONCE, TO_ONE_HOST = 64, 4
#: Seconds between looks at the outbox, and after which somebody else may send what was taken.
LOOK_S, LEASE_S = 1.0, 3 * TOTAL_S


class Deliverer:
    """Delivers what is in the outbox."""

    def __init__(
        self,
        outbox: Outbox,
        jobs: JobStore,
        secrets: Secrets,
        outside: Outside,
        *,
        backoff_s: Sequence[float] = BACKOFF_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._outbox = outbox
        self._jobs = jobs
        self._secrets = secrets
        self._outside = outside
        self._backoff_s = backoff_s
        self._lease_s = lease_s
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Deliver until cancelled; what is being sent then is sent again by the next one."""
        try:
            while True:
                self._room.clear()
                try:
                    await self.begin()
                except RedisError as error:
                    logger.warning("webhooks are held up, the store failed: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), LOOK_S)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            await self._outside.aclose()

    async def begin(self) -> list[asyncio.Task[None]]:
        """Begin to deliver what is due, as far as there is room."""
        hosts = Counter(self._under_way.values())
        notices: list[Notice] = []
        if room := AT_ONCE - len(self._under_way):
            notices = await self._outbox.take(room, of_one_host=TO_ONE_HOST, under_way=hosts, lease_s=self._lease_s)
        begun = []
        for notice in notices:
            task = asyncio.create_task(self._deliver(notice), name=f"webhook {notice.id}")
            self._under_way[task] = notice.host
            task.add_done_callback(self._ended)
            begun.append(task)
        return begun

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._room.set()

    async def _deliver(self, notice: Notice) -> None:
        with about(job=notice.job):
            try:
                await self._tried(notice)
            except RedisError as error:
                logger.warning("left to be delivered again: webhook=%s: %s", notice.id, error)
            except Exception:  # one that cannot be sent keeps no other from it
                logger.exception("left to be delivered again on an error of our own: webhook=%s", notice.id)

    async def _tried(self, notice: Notice) -> None:
        try:
            job = await self._jobs.load(notice.job)
        except JobNotFoundError:
            await self._outbox.given_up(notice, "the job is gone")
            return
        body = payload(notice, job.spec.name)
        signed = headers(await self._secrets.of(tenant_of(job.id)), notice.id, int(time.time()), body)
        answer: Answer | None = None
        with traces.under(notice.job, "webhook", kind="client") as span:
            span.note(webhook=notice.id, host=notice.host, tries=notice.tries)
            try:
                answer = await self._outside.post(job.spec.webhook or "", body, signed)
            except (AddressRefusedError, OutsideError) as error:
                told = str(error)
                span.end_as("failed")
            else:
                told = str(answer.status)
                span.note(answer=answer.status)
        failpoint("told")
        if answer is not None and 200 <= answer.status < 300:
            await self._outbox.delivered(notice, told)
            logger.info("webhook delivered: %s to %s: %s", notice.id, notice.host, told)
        elif (delay_s := self._delay(notice, answer)) is not None:
            await self._outbox.later(notice, told, delay_s)
            logger.info("webhook not delivered: %s to %s: %s; again in %.0f s", notice.id, notice.host, told, delay_s)
        else:
            await self._outbox.given_up(notice, told)
            logger.warning("webhook given up: %s to %s: %s", notice.id, notice.host, told)

    def _delay(self, notice: Notice, answer: Answer | None) -> float | None:
        """Seconds until the next try; None: there is none."""
        if (answer is not None and answer.status == 410) or notice.tries > len(self._backoff_s):
            return None
        delay_s = self._backoff_s[notice.tries - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
        return max(delay_s, 0.0 if answer is None else asked_s(answer))


def payload(notice: Notice, name: str) -> bytes:
    """What is sent of a notice, the same at each try. No output, no prompt and no error text is in it.

    `{"type": "job.STATUS", "timestamp": when it happened, "data": {"id", "name", "status", "cost_usd", "counts": {"done",
    "failed"}}}`; cost and counts are of that moment.
    """
    tiers = [counts for tier, counts in notice.counts.items() if tier != COORDINATOR]
    at = datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data = {
        "id": notice.job,
        "name": name,
        "status": notice.kind,
        "cost_usd": notice.used / 1_000_000_000,
        "counts": {
            "done": sum(counts.get("ok", 0) + counts.get("skipped", 0) for counts in tiers),
            "failed": sum(counts.get("failed", 0) for counts in tiers),
        },
    }
    return json.dumps({"type": f"job.{notice.kind}", "timestamp": at, "data": data}, separators=(",", ":")).encode()


def asked_s(answer: Answer) -> float:
    """The seconds for which a receiver asks to be left alone, as far as it is heeded."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), LONGEST_ASKED_S) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
