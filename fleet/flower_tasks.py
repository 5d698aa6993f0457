"""What Flower is let know of tasks, and how it shows them: whatever arrives as an event is checked, cut and counted first.

It owns the form of what may be on Flower's pages, in its memory and in its metrics' labels: ids, names, envelopes, numbers. An
event that is not in that form loses what does not fit, or is dropped. It knows events as dicts; no broker, no Flower.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from fleet.task_events import OTHER, Envelope

#: Names of tasks that one Flower tells apart, kinds of all tiers together: each is a label of some twenty time series for every
#: worker, and whoever submits jobs may make up kinds. What comes later goes by `TIER.other` until Flower starts anew.
MOST_NAMES = 100
TASK_TYPES = frozenset(
    f"task-{what}" for what in ("received", "started", "succeeded", "failed", "retried", "revoked", "rejected")
)
WORKER_TYPES = frozenset(f"worker-{what}" for what in ("online", "heartbeat", "offline"))
HIDDEN = "(not shown)"

#: Of a subtask, of a message, and of a worker: `default.j01/classify/7~2`, `nano.4711@host`.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~/:-]{0,199}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,199}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,3}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_, -]{0,63}")
#: Fields of events that are numbers or missing.
_NUMBERS = (
    "timestamp",
    "local_received",
    "clock",
    "utcoffset",
    "pid",
    "runtime",
    "retries",
    "freq",
    "active",
    "processed",
)


class Names:
    """The names that are told apart: of the tiers there are, and as many kinds as there is room for."""

    def __init__(self, tiers: Collection[str]) -> None:
        self._tiers = frozenset(tiers)
        self._known: set[str] = set()

    def known(self, name: object) -> str:
        """`name`, or what it goes by."""
        if not isinstance(name, str):
            return OTHER
        if name in self._known:
            return name
        if not _NAME.fullmatch(name):
            return OTHER
        if len(self._known) < MOST_NAMES:
            self._known.add(name)
            return name
        tier = name.partition(".")[0]
        return f"{tier}.{OTHER}" if tier in self._tiers else OTHER


def checked(event: Mapping[str, Any], names: Names) -> dict[str, Any] | None:
    """An event as Flower may have it, None where there is nothing to make of it.

    The start of a task stands for its arrival too: Flower sorts by that, and a worker tells only of what it has begun.
    """
    type_ = event.get("type")
    if not (isinstance(type_, str) and _fits(_HOST, event.get("hostname"))):
        return None
    kept = {field: event[field] for field in _NUMBERS if _is_number(event.get(field))}
    if "timestamp" not in kept or "local_received" not in kept or "clock" not in kept:
        return None
    kept |= {"type": type_, "hostname": event["hostname"]}
    if type_ in WORKER_TYPES:
        load = event.get("loadavg")
        if isinstance(load, list) and all(map(_is_number, load)):
            kept["loadavg"] = load[:3]
        return kept | {
            field: event[field] for field in ("sw_ident", "sw_ver", "sw_sys") if _fits(_WORD, event.get(field))
        }
    if type_ not in TASK_TYPES or not _fits(_ID, event.get("uuid")):
        return None
    kept["uuid"] = event["uuid"]
    if "name" in event:
        kept["name"] = names.known(event["name"])
    # What Flower searches in: the id of a subtask, whichever claim on it this is.
    kept["args"] = event["uuid"].partition("~")[0]
    if "result" in event:
        envelope = Envelope.read(event["result"])
        kept["result"] = HIDDEN if envelope is None else envelope.model_dump_json()
    if "exception" in event:
        kept["exception"] = event["exception"] if _fits(_WORD, event["exception"]) else HIDDEN
    if type_ == "task-started":
        kept["received"] = kept["timestamp"]
    return kept


def format_task(task: Any) -> Any:
    """Flower's hook for a task that it is about to show: what came of it as a sentence instead of an envelope."""
    envelope = Envelope.read(task.result)
    if envelope is not None:
        task.result = f"{envelope.status} on {envelope.tier}, {envelope.tokens:,} tokens, ${envelope.cost_usd:.6f}"
    task.kwargs = ""
    return task


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _fits(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None
