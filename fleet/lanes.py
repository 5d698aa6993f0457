"""By which lane a call is asked: at once, at once but later where the vendor is busy (flex), or as a line of a batch.

Pure functions of a deadline, a model and the configuration; it knows no provider and no state. Without a deadline everything is
asked at once: a lower price is taken only by who has said how long there is. Audits are no answers that anybody waits for: they
take flex wherever there is no deadline that it could miss.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from fleet.config import ModelConfig
from fleet.errors import BadInputError
from fleet.jobs import JobSpec, Step
from fleet.lane_settings import LanesConfig
from fleet.ledger import Lane

#: Seconds after which flex is asked again, by how often the vendor had no room for it; then the standard is asked.
FLEX_WAITS_S = (0.0, 1.0, 4.0)


def lane_of(left_s: float | None, model: ModelConfig, lanes: LanesConfig, *, timeout_s: float, batches: bool) -> Lane:
    """The cheapest lane that is in time for `left_s` seconds until the deadline (None: there is none).

    `timeout_s`: what a call at once may take on the tier; `batches`: whether the model's provider takes batches.
    """
    if left_s is None:
        return "standard"
    if model.batch and batches and left_s >= lanes.batch_from_s:
        return "batch"
    return "flex" if flexible(left_s, model, lanes, timeout_s) else "standard"


def audit_lane(left_s: float | None, model: ModelConfig, lanes: LanesConfig, *, timeout_s: float) -> Lane:
    """The lane of an audit with so many seconds until the deadline of its step (None: there is none)."""
    return "flex" if left_s is None or flexible(left_s, model, lanes, timeout_s) else "standard"


def flexible(left_s: float, model: ModelConfig, lanes: LanesConfig, timeout_s: float) -> bool:
    """Whether flex is in time, and the model served so.

    It may fail as late as it likes: what it gets leaves time for a call at once, and is no less than that one gets.
    """
    return "flex" in model.service_tiers and left_s >= max(lanes.flex_from_s, 2 * timeout_s)


def asked_as(lane: Lane, model: ModelConfig) -> Lane:
    """The lane of a call at once by which this model can be asked: one that takes over for another may have no flex."""
    return "flex" if lane == "flex" and "flex" in model.service_tiers else "standard"


def waits_for_flex(
    refused: int, left_s: float | None, model: ModelConfig, lanes: LanesConfig, *, timeout_s: float
) -> float | None:
    """Seconds until flex is asked again after it was refused so often for want of room; None: the standard is asked now."""
    if left_s is None or refused >= len(FLEX_WAITS_S) or not flexible(left_s, model, lanes, timeout_s):
        return None
    return FLEX_WAITS_S[refused]


def due_s(step: Step, steps: Sequence[Step], job: float | None) -> float | None:
    """The deadline of a step in seconds from its job's submission: its own, and no later than its turn in the job's.

    A job's deadline is shared out evenly along the longest way of needs that leads through the step.
    """
    turn = None
    if job is not None:
        by_id = {one.id: one for one in steps}
        before = _longest(step.id, {one.id: one.needs for one in steps})
        needed = {one.id: [other.id for other in by_id.values() if one.id in other.needs] for one in steps}
        turn = job * before / (before + _longest(step.id, needed) - 1)
    return min((given for given in (step.deadline, turn) if given is not None), default=None)


def _longest(start: str, following: Mapping[str, Sequence[str]]) -> int:
    """Steps on the longest way from `start`, with it; there are no circles."""

    @functools.cache
    def length(id_: str) -> int:
        return 1 + max((length(other) for other in following[id_]), default=0)

    return length(start)


def check_deadlines(spec: JobSpec) -> None:
    """BadInputError when a step has more time than its job."""
    for step in spec.steps:
        if spec.deadline is not None and step.deadline is not None and step.deadline > spec.deadline:
            raise BadInputError(
                f"steps.{step.id}.deadline is {step.deadline:g} s, later than the job's of {spec.deadline:g} s; both count "
                "from the job's submission."
            )


@functools.lru_cache(maxsize=2_048)
def cache_key(tenant: str, instructions: str, prompt: str) -> str:
    """What calls of a step have in common, for vendors that keep prompts with the same beginning beside each other.

    It tells nobody what the prompts say, and one tenant's calls never share another's.
    """
    digest = blake2b(digest_size=16)
    for part in (tenant, instructions, prompt):
        digest.update(f"{len(part)}\n{part}".encode("utf-8", "replace"))
    return digest.hexdigest()
