"""The holdout: a few accepted subtasks are asked once more, of the flagship, so that what it alone would cost is measured.

It owns which subtasks are drawn, and the stage between the accepted answer of one and its end. The subtask is handed on to the
flagship's tier, its answer in the trail, so that the call has that tier's queue, permits and budget. What the flagship says is
checked like any answer and thrown away: an entry of the ledger remains, an audit marked `holdout`. The accepted answer stands
whatever becomes of that call: it is asked once, and where budget, provider or worker fail it is left out. Models are asked
through the executor; prompts and checks are the runner's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import blake2b

from fleet.checks import Rejected
from fleet.config import FLAGSHIP
from fleet.context import Context
from fleet.drain import GiveBack
from fleet.entries import Call, Purpose
from fleet.errors import BadInputError, BudgetExceededError, ProviderError
from fleet.examiners import BrokenCheckError
from fleet.executor import JobCancelled
from fleet.jobs import Step
from fleet.outcomes import Answer, Kept, Trail
from fleet.providers.base import Completion, ModelRequest
from fleet.quality_config import HoldoutConfig
from fleet.shards import Place
from fleet.store import Job
from queues.limits import PermitError
from queues.subtasks import Charge, Claim

logger = logging.getLogger(__name__)


class Holdout:
    """Draws subtasks and asks the flagship about them, for one process."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def draws(self, job: Job, step: Step, claim: Claim, trail: Trail, answer: Answer) -> bool:
        """Whether this subtask, whose answer was just accepted, is asked of the flagship too.

        Not one that the flagship answered itself, that is asked again for a review or an audit, or whose answer somebody waits
        for at the other end of a connection.
        """
        rule = job.spec.holdout or self._context.config.holdout
        if rule is None or answer.tier == FLAGSHIP or trail.kept is not None or job.asked is not None:
            return False
        return drawn(rule, job.id, step.id, Place.of(claim.id).item, len(job.items))

    async def send(self, claim: Claim, trail: Trail, answer: Answer, charges: Sequence[Charge]) -> None:
        """Hand an accepted subtask on to the flagship's tier, its answer in the trail and its calls booked."""
        # As one whose answer is kept, too: a worker of a version that knows no holdout would ask for another, and end with that.
        kept = Kept(answer.output, answer.model, answer.tier)
        held = replace(trail, kept=kept, pending=replace(answer, look="holdout", claims=claim.claims))
        text, trail.open = held.dump(), None
        await self._context.store.hand_on(claim, FLAGSHIP, text, charges)

    async def ask(
        self,
        claim: Claim,
        job: Job,
        step: Step,
        trail: Trail,
        answer: Answer,
        request: ModelRequest,
        check: Callable[[Completion], Awaitable[None]],
    ) -> list[Charge]:
        """The entry of the flagship's answer to `request`, to be written with the subtask's end; none where there is no answer.

        `check`: raises Rejected, BrokenCheckError. A call that an earlier worker vanished under is booked and not made again.
        """
        purpose = Purpose(
            job.id,
            claim.id,
            claim,
            step.id,
            step.label,
            "audit",
            claim.tier,
            record=answer.record,
            asked=trail.asked,
            holdout=True,
        )
        try:
            if claim.claims == answer.claims + 1:
                trail.open = await self._context.executor.call(purpose, request)
                return [await _judged(trail.open, check)]
        except (BudgetExceededError, ProviderError, PermitError, BadInputError, GiveBack, JobCancelled) as error:
            logger.info("not compared with the flagship: %s", type(error).__name__, extra={"subtask": claim.id})
        # An intent of this claim, too, is left behind by a call that runs on at the vendor.
        await self._context.executor.lost.give_up(claim, trail.asked)
        return []


async def _judged(call: Call, check: Callable[[Completion], Awaitable[None]]) -> Charge:
    try:
        await check(call.completion)
    except Rejected as rejection:
        return call.charge("rejected", str(rejection), rejection.flaw)
    except BrokenCheckError as problem:
        # Nobody knows: it says nothing of the flagship.
        return call.charge("failed", f"its check could not be made: {problem}", "check_broken")
    return call.charge("ok")


def drawn(rule: HoldoutConfig, job_id: str, step_id: str, item: int | None, items: int) -> bool:
    """Whether the subtask of a step (over `items` items, or of none) is in the holdout: the same answer for the same id.

    One of each of k runs of items is drawn, all equally likely (stratified sampling), where k is `share` of the items but not
    over `at_most`; what of k is a fraction is left to chance, so that small jobs take part in proportion.
    """
    count = 1 if item is None else items
    size = int(min(rule.share * count, rule.at_most) + _chance(f"{job_id}/{step_id}"))
    if size < 1:
        return False
    at = item or 0
    run = ((at + 1) * size - 1) // count
    first, behind = run * count // size, (run + 1) * count // size
    return at == first + int(_chance(f"{job_id}/{step_id}/{run}") * (behind - first))


def _chance(text: str) -> float:
    """A number from 0 to below 1, the same for the same text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
