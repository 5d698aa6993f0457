"""What the store is told and tells, as frozen data: subtasks and their states, claims, intents, charges, results.

It owns the table of states; how they change is the store's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Status = Literal["ok", "failed", "skipped"]


class State(StrEnum):
    """Where a subtask stands, and who moves it on.

    | state | moved on by |
    |---|---|
    | waiting | `finish` of its last need or lot, or its `dismiss` -> ready; a gate's body -> queued (its chord delivers it) |
    | ready | `release` by the dispatcher -> queued; `claim` by an earlier message -> running |
    | queued | `claim` by a worker -> running; no worker in time, or put by until now: `reconcile` -> ready |
    | running | `finish` -> final; `hand_on`, claim expired: `reconcile` -> ready; `join` a lot -> waiting; `snooze` -> queued |
    | final | nobody; `forget` drops it |
    """

    WAITING = "waiting"
    READY = "ready"
    QUEUED = "queued"
    RUNNING = "running"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class NewSubtask:
    """A subtask to add. Its `id` is `JOB/...`; adding the same id again changes nothing."""

    id: str
    #: Wire name of the Celery task that runs it.
    task: str
    tier: str
    payload: str
    #: Ids it waits for; it may be added before them.
    needs: tuple[str, ...] = ()
    #: Share of capacity it takes, in the unit that fairness is counted in.
    cost: int = 1
    #: The body of the gate that gathers it, and its place there.
    gate: str | None = None
    gate_index: int | None = None
    #: For the body of a gate: how many members it waits for.
    members: int | None = None
    #: What an earlier round left behind; opaque.
    trail: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A fenced, expiring right to work on one subtask."""

    id: str
    tier: str
    fence: int
    payload: str
    #: What earlier attempts left behind; opaque.
    trail: str
    #: How many workers died holding it.
    kills: int
    #: How many claims on it there have been, with this one.
    claims: int
    #: For how long it was ready, or on its way, before this claim; None where that is not known, or another claim ran out.
    waited_ms: int | None = None

    @property
    def guard(self) -> tuple[str, str, str]:
        """The guard of a script that holds until the claim is lost."""
        return f"s:{self.id}", "fence", str(self.fence)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no claim: another worker holds it, it is final (with its status), on another tier, or unknown."""

    why: Literal["busy", "final", "elsewhere", "gone"]
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned from something that happened: added to the discounted sums of a book (`queues.lessons`)."""

    #: Whose books these are; of too many on a shelf the one that was not written for longest is dropped.
    shelf: str
    book: str
    #: Lessons of the book after which one counts half; for each a clock and sums of its own.
    half_lives: tuple[float, ...]
    #: For each half-life what is added to which sum; nothing: its clock goes on alone.
    sums: tuple[Mapping[str, float], ...]


@dataclass(frozen=True, slots=True)
class Charge:
    """An entry written once by id, and what it means for a quota: `amount` is used and the `hold` is free again."""

    record: str
    id: str
    body: str
    quota: str
    hold: str
    amount: int
    #: Counters kept beside the quota, and what this entry adds to each.
    tally: Mapping[str, int] = field(default_factory=dict)
    #: Under what the counters of the whole store count it: a tier's name; None: nowhere.
    lane: str | None = None
    #: A guess about something whose end nobody saw; a true entry under the same id takes its place.
    provisional: bool = False
    #: What is learned from it, once, when it is written and no guess.
    lessons: tuple[Lesson, ...] | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be used: journalled under its hold before it is, settled by the charge with the same `id`."""

    quota: str
    #: A subtask or a part of one; one intent at a time.
    hold: str
    id: str
    #: The most it can use.
    amount: int
    #: What to do about it should nobody see its end; opaque.
    note: str
    #: The subtask under whose claim it is made, and the fence of that claim.
    claimed: str = ""
    fence: int = 0
    #: Caps that it has to fit under beside its quota's (`queues.shared.words`).
    caps: str = ""

    def arguments(self) -> tuple[str | int, ...]:
        """As the scripts take it."""
        return (self.quota, self.hold, self.amount, self.id, self.note, self.claimed, self.fence, self.caps)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an intent was not journalled.

    A quota is short, an earlier intent was never settled, the job was stopped, or the claim was lost (stale).
    """

    why: Literal["short", "unsettled", "paused", "cancelled", "stale"]
    #: Of what is short: its cap, what is used, and what others hold and may still free.
    cap: int = 0
    used: int = 0
    others: int = 0
    #: Whose shared quota it is, by `day` or `month`, and the number of that; '': the intent's own quota.
    whom: str = ""
    per: str = ""
    number: int = 0
    #: The note of the earlier intent.
    note: str = ""

    @classmethod
    def of(cls, reply: Any) -> Refused | None:
        """What the scripts say of an intent; None: it is journalled."""
        match reply[0]:
            case 1:
                return None
            case 0:
                _, cap, used, others, whom, per, number = reply
                return cls("short", cap, used, others, whom.decode(), per.decode(), number)
            case 2:
                return cls("unsettled", note=reply[1].decode())
            case 4:
                return cls("stale")
            case _:
                return cls("cancelled" if reply[1] == b"cancelled" else "paused")


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of a subtask; `status` and `output` once it is final."""

    id: str
    state: State
    tier: str
    status: Status | None
    output: str | None


@dataclass(frozen=True, slots=True)
class Released:
    """A subtask whose wake-up message is to be sent."""

    id: str
    task: str
    gate: str | None
    gate_index: int | None


def document(data: Charge | NewSubtask) -> dict[str, Any]:
    """The fields of what the store is told, without those that are None.

    `asdict`, which copies what is in them too, takes ten times as long.
    """
    values = ((name, getattr(data, name)) for name in data.__slots__)
    told = {name: value for name, value in values if value is not None}
    if "lessons" in told:
        told["lessons"] = described(told["lessons"])
    return told


def described(lessons: Sequence[Lesson]) -> list[dict[str, Any]]:
    """Lessons as the scripts take them."""
    return [{"shelf": one.shelf, "book": one.book, "half_lives": one.half_lives, "sums": one.sums} for one in lessons]


def result_of(id_: str, reply: Sequence[bytes | None]) -> Result | None:
    """What the fields state, tier, status and output say of a subtask; None where there is none."""
    state, tier, status, output = [None if value is None else value.decode() for value in reply]
    if state is None or tier is None:
        return None
    return Result(id=id_, state=State(state), tier=tier, status=status, output=output)  # type: ignore[arg-type]


def by_tier(flat: Sequence[bytes]) -> dict[str, dict[str, int]]:
    """Counters named `tier:what`, as the store gives a hash: tier -> what -> number."""
    counts: dict[str, dict[str, int]] = {}
    for name, number in zip(flat[::2], flat[1::2], strict=True):
        tier, _, what = name.decode().rpartition(":")
        counts.setdefault(tier, {})[what] = int(number)
    return counts
