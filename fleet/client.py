"""What may be asked of a running fleet from outside: submit a job, follow it, read its outcomes, ledger and receipt.

It talks to the store only; it calls no model and sends no message.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from fleet.acceptance import Submission, within
from fleet.accounts import AccountLimits, account_limits, accounts_of
from fleet.addresses import check_address
from fleet.caps import caps_of
from fleet.choices import paces
from fleet.config import FleetConfig
from fleet.entitlements import TenantConfig
from fleet.errors import AddressRefusedError, BadInputError, NotAcceptedError, TenantLimitError
from fleet.feasible import check_feasible
from fleet.items import NO_ITEMS, ItemIndex, ItemReader, pack_items
from fleet.jobs import Items, JobSpec, JobStatus, Outcome
from fleet.lanes import check_deadlines
from fleet.ledger import LedgerEntry
from fleet.lines import batched
from fleet.packing import label_of
from fleet.progress import Progress, TierProgress
from fleet.quality import JUDGED, Judged
from fleet.receipt import Budget, Receipt, Tally
from fleet.recipes import recipe
from fleet.rounds import phase_id
from fleet.router import start_tier
from fleet.runtime import Runtime
from fleet.sources import check_source
from fleet.store import COORDINATOR, Job
from fleet.stored import read_json
from fleet.tenants import DEFAULT, check_tenant, new_job_id
from fleet.uploads import Upload
from fleet.waits import Quota, Wait, waits
from queues.admission import Once
from queues.failpoints import failpoint
from queues.limits import Standing
from queues.link import LinkError
from queues.subtasks import State
from queues.survey import Survey
from queues.tiers import Allowance

POLL_S = 0.25
#: How long the store may be away while a job is followed.
AWAY_S = 60.0
#: Fields of an item that do not name it: its text, and where its picture is kept.
_NOT_SHOWN = ("text", "image")
#: For how long a key stands for a job.
PROMISED_S = 7 * 24 * 3600.0


class FleetClient:
    """Asks one fleet."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def submit(
        self,
        spec: JobSpec,
        *,
        tenant: str = DEFAULT,
        once: str | None = None,
        job_id: str | None = None,
        as_given: bool = False,
    ) -> str:
        """Accept a job and return its id.

        `once`: a key of the tenant's choice under which this job is accepted one time only, for a week. `job_id`: the id it gets,
        one of `new_job_id`, for who has written it down before. `as_given`: refusals and cut-off replies are passed on.

        Raises:
            BadInputError: a tier, recipe or item source cannot be used; nothing was accepted.
            KeyReusedError: `once` stands for another job.
            TenantLimitError: the tenant has under way, has sent or has spent all that it may.
            LinkError: the store does not answer.
        """
        check(spec, self.runtime.config)
        job_id = job_id or new_job_id(check_tenant(tenant))
        promise = None if once is None else _promise(tenant, once, spec)
        try:
            accepted = await self._create(job_id, spec, tenant, promise, as_given)
        except (BadInputError, NotAcceptedError, TenantLimitError):
            await asyncio.to_thread(self.runtime.blobs.remove_folder, job_id)
            raise
        if accepted != job_id:
            await asyncio.to_thread(self.runtime.blobs.remove_folder, job_id)
        failpoint("accepted")
        return accepted

    async def _create(self, job_id: str, spec: JobSpec, tenant: str, once: Once | None, as_given: bool) -> str:
        items: ItemIndex = NO_ITEMS
        source: Items | tuple[Any, ...] | Upload = spec.items
        if isinstance(source, Items) and source.file is not None:
            files = self.runtime.files
            source = files.upload(await files.get(tenant, source.file))
        if source != ():
            items = await asyncio.to_thread(pack_items, source, self.runtime.blobs, f"{job_id}/items.jsonl")
            if not isinstance(source, Items):
                # They are in their blob: whoever works on the job reads the rest of it often.
                spec = spec.model_copy(update={"items": ()})
        simulated = await self.runtime.simulation.known()
        its = self.runtime.config.tenants.get(tenant, TenantConfig())
        sent = self.runtime.blobs.size(items.blob) if items is not NO_ITEMS else 0
        may = within(self.runtime.config, tenant, sent)
        new = Submission(job_id, spec, tenant, its.weight, simulated, may, once, as_given)
        return await self.runtime.acceptance.create(new, items)

    async def latest(
        self, most: int, *, tenant: str | None = None, before: tuple[str, float] | None = None
    ) -> list[tuple[str, float]]:
        """Ids of the newest jobs, and when they were accepted, newest first: of one tenant, and from before one of them."""
        return await self.runtime.jobs.latest(most, tenant=tenant, before=before)

    async def job(self, job_id: str) -> Job:
        """The job now; JobNotFoundError when there is none."""
        return await self.runtime.jobs.load(job_id)

    async def progress(self, job: Job) -> Progress:
        """Where a job stands, as it was loaded just now."""
        store, job_id = self.runtime.store, job.id
        counts, tally, (cap, used, _) = await asyncio.gather(
            store.counts(job_id), store.tally(job_id), store.quota(job_id)
        )
        unopened = self._unopened(job, counts)
        names = [*self.runtime.config.tiers, *(tier for tier in counts if tier != COORDINATOR)]
        return Progress(
            job_id=job_id,
            name=job.spec.name,
            status=job.status,
            tiers={
                tier: _tier_progress(counts.get(tier, {}), unopened.get(tier, 0))
                for tier in dict.fromkeys(names)
                if tier in counts or tier in unopened
            },
            tokens=tally.get("tokens", 0),
            cost_nano_usd=used,
            budget_nano_usd=cap,
            started_at=job.created_at,
            simulated=job.simulated,
            note=job.error or "",
        )

    def _unopened(self, job: Job, counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
        """By the tier they will start on, the subtasks of shards that are not in the store yet."""
        planned: dict[str, int] = {}
        for step in job.steps:
            tier = start_tier(step, self.runtime.config)
            planned[tier] = planned.get(tier, 0) + (len(job.items) if step.each else 1)
        seen = {
            tier: sum(by_state.get(state, 0) for state in State)
            for tier, by_state in counts.items()
            if tier != COORDINATOR
        }
        left = sum(planned.values()) - sum(seen.values())
        # Some have moved to other tiers: those that have seen fewer than were planned share what is left.
        missing = {tier: max(0, number - seen.get(tier, 0)) for tier, number in planned.items()}
        unopened = {}
        while left > 0:
            tier, number = max(missing.items(), key=lambda one: one[1])
            unopened[tier] = -(-left * number // sum(missing.values()))
            left, missing = left - unopened[tier], missing | {tier: 0}
        return unopened

    async def limits(self) -> list[AccountLimits]:
        """Every account of the configuration, with its limits and their use."""
        limiter = self.runtime.limiter
        return [
            account_limits(account, tiers, await limiter.look(account, allowance))
            for account, (allowance, tiers) in accounts_of(self.runtime.config).items()
        ]

    async def waits(self, job_id: str) -> list[Wait]:
        """What the subtasks of a job wait for; nothing is said of one that is paused or has ended."""
        job = await self.runtime.jobs.load(job_id)
        if job.status.final or job.status is JobStatus.PAUSED:
            return []
        return await self.waits_in(job, await self.runtime.surveyor.survey(job_id), self.runtime.limiter.look)

    async def waits_in(
        self, job: Job, survey: Survey, look: Callable[[str, Allowance], Awaitable[Standing]]
    ) -> list[Wait]:
        """What the subtasks of a job that runs wait for, by a survey that has its counts; `look`: at an account."""
        quota, later, shared, lines = await asyncio.gather(
            self.runtime.store.quota(job.id),
            self._later(job),
            self._shared(job.tenant),
            batched(self.runtime.lots, self.runtime.config, job),
        )
        counts = dict(survey.counts)
        planning = counts.pop(COORDINATOR, {}).get("running", 0) if job.status is JobStatus.PLANNING else 0
        if planning:  # its calls are the flagship's
            counts["flagship"] = {"running": planning}
        found: list[Wait] = []
        for tier, pace in paces(self.runtime.config).items():
            if tier in counts or tier in later:
                standing = await look(pace.account, pace.allowance)
                about = (tier, counts.get(tier, {}), survey.tiers[tier], pace.account, standing, quota)
                found += waits(
                    *about,
                    calls=survey.calls,
                    later=later.get(tier, 0),
                    shared=shared,
                    batched=lines.get(tier, 0),
                )
        return found

    async def _shared(self, tenant: str) -> list[Quota]:
        """How what a tenant's jobs share with others stands, where it is capped."""
        caps = {(cap.whom, cap.per): cap.most for cap in caps_of(self.runtime.config, tenant)}
        found = await self.runtime.quotas.shared(tenant) if caps else []
        return [(caps.get((one.whom, one.per)), one.used, one.held) for one in found]

    async def _later(self, job: Job) -> dict[str, int]:
        """By the tier they will start on, the subtasks of phases that are not open yet."""
        later: dict[str, int] = {}
        if job.round > 1:
            return later
        for phase in job.phases[1:]:
            (state,) = await self.runtime.store.fields(phase_id(job.id, phase.number), "state")
            if state not in (None, State.FINAL):
                for step in (step for ahead in job.phases[phase.number :] for step in (*ahead.each, *ahead.single)):
                    tier = start_tier(step, self.runtime.config)
                    later[tier] = later.get(tier, 0) + (len(job.items) if step.each else 1)
                break
        return later

    async def follow(self, job_id: str) -> AsyncIterator[Progress]:
        """The job's progress, again and again, until its status is final; the final one is the last."""
        away_since: float | None = None
        while True:
            try:
                progress = await self.progress(await self.job(job_id))
            except LinkError:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > AWAY_S:
                    raise
                await asyncio.sleep(POLL_S)
                continue
            away_since = None
            yield progress
            if progress.status.final or progress.status is JobStatus.PAUSED:
                return
            await asyncio.sleep(POLL_S)

    async def outcomes(self, job: Job) -> AsyncIterator[Outcome]:
        """One outcome per subtask, item by item."""
        reader = ItemReader(self.runtime.blobs)
        async for place, outcome in self.runtime.archive.outcomes(job):
            item = None
            if place.item is not None:
                item = _shown(reader.read(job.items, place.item), place.item)
            yield outcome.model_copy(update={"item": item})

    def ledger(self, job: Job) -> AsyncIterator[LedgerEntry]:
        """One entry per provider call of a job, shard by shard."""
        return self.runtime.archive.ledger(job)

    async def verdicts(self, job: Job) -> list[Judged]:
        """What people said of the outputs of a job."""
        kept = await self.runtime.store.memos(job.id, JUDGED)
        return [read_json(Judged, body) for _, body in sorted(kept.items())]

    async def receipt(self, job: Job) -> Receipt:
        """The receipt of a job as it stands."""
        tally = Tally(self.runtime.config)
        async for entry in self.ledger(job):
            tally.add(entry)
        async for _, outcome in self.runtime.archive.outcomes(job):
            tally.count(outcome)
        for said in await self.verdicts(job):
            tally.judge(said)
        cap, _, held = await self.runtime.store.quota(job.id)
        return tally.receipt(
            job_id=job.id,
            name=job.spec.name,
            status=job.status,
            simulated=job.simulated,
            wall_s=(job.finished_at or time.time()) - job.created_at,
            skipped_items=job.items.skipped_count,
            gaps=len((job.result or {}).get("gaps", [])),
            budget=None if cap is None else Budget(cap_nano_usd=cap, reserved_nano_usd=held),
        )


def _promise(tenant: str, key: str, spec: JobSpec) -> Once:
    asked = spec.model_dump_json(exclude_defaults=True)  # a later version, which knows more, writes the same
    digests = [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in (key, asked)]
    return Once(f"once:{tenant}:{digests[0]}", digests[1], PROMISED_S)


def _tier_progress(by_state: Mapping[str, int], unopened: int) -> TierProgress:
    return TierProgress(
        waiting=sum(by_state.get(state, 0) for state in ("waiting", "ready", "queued")) + unopened,
        running=by_state.get("running", 0),
        done=by_state.get("ok", 0) + by_state.get("skipped", 0),
        failed=by_state.get("failed", 0),
    )


def check(spec: JobSpec, config: FleetConfig) -> None:
    """BadInputError when a job that is well-formed cannot run on a fleet of this configuration."""
    check_feasible(spec, config)
    check_deadlines(spec)
    if spec.recipe is not None:
        recipe(spec.recipe)
    if spec.items == () and any(step.each for step in spec.steps):
        raise BadInputError('A step has "each: items" but the job has no items; give items: [...] or a source.')
    if isinstance(spec.items, Items) and spec.items.file is None:
        check_source(spec.items)
    if spec.webhook is not None:
        try:
            check_address(spec.webhook, config.outside.allowed)
        except AddressRefusedError as error:
            raise AddressRefusedError(f"webhook: {error}") from None


def _shown(item: Any, position: int) -> Any:
    """An item as a result line shows it: what names it, without its text."""
    if isinstance(item, dict):
        small = {key: value for key, value in item.items() if key not in _NOT_SHOWN and len(str(value)) <= 200}
        return small or label_of(item, position)
    return label_of(item, position)
