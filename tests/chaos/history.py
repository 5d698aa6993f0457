"""What the store went through, read from its append-only file: the witness that no code under test can talk to.

Every script's writes stand there in order, one transaction per script. It knows the store's keys (queues/lua/_common.lua)
and tells what happened to subtasks: claims with their owner and fence, intents, ledger entries, ends. It judges nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.runtime import NAMESPACE


@dataclass
class Life:
    """A subtask (a duty and a gate's body are some, too) from its first record to the last."""

    id: str
    task: str = ""
    state: str = ""
    fence: int = 0
    members: int | None = None
    #: When the reconciler is to look, in ms.
    watched: float = 0.0
    owner: str = ""
    #: Fence -> who claimed under it.
    owners: dict[int, str] = field(default_factory=dict)
    #: Times at which it became final.
    ends: int = 0
    #: A claim that expired, at this time (ms), of this owner, until the next claim.
    expired: tuple[float, str] | None = None
    #: Whether its last end brought an accepted answer that was paid for.
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Recovery:
    """A claim that expired, and the next one on the same subtask; times in ms since 1970."""

    subtask: str
    owner: str
    expired_at: float
    claimed_at: float


@dataclass
class History:
    """All of it."""

    lives: dict[str, Life] = field(default_factory=dict)
    #: How long a claim lives without being renewed.
    lease_ms: int = 0
    #: Call id -> its ledger entry as it stood last.
    ledger: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Calls whose vendor's handle was journalled.
    handles: set[str] = field(default_factory=set)
    #: Calls whose intent was journalled.
    intents: set[str] = field(default_factory=set)
    recoveries: list[Recovery] = field(default_factory=list)
    #: Answers accepted although their entry was made under another fence, and not by collecting a background call.
    stale_writes: list[str] = field(default_factory=list)
    #: Intents journalled under another fence than the current one.
    stale_intents: list[str] = field(default_factory=list)
    #: Intents for a subtask whose answer was accepted already.
    needless: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, lease_ms: int) -> History:
        """From the files of a store that has ended."""
        history = cls(lease_ms=lease_ms)
        for path in sorted((folder / "appendonlydir").glob("*.incr.aof"), key=_number):
            for group in _groups(_commands(path.read_bytes())):
                history._apply(group)
        return history

    def _apply(self, group: list[list[bytes]]) -> None:
        written: list[dict[str, Any]] = []
        before: dict[str, str] = {}
        touched: list[tuple[Life, dict[str, str]]] = []
        for raw in group:
            name = raw[0].upper()
            if name not in (b"HSET", b"HSETNX", b"HINCRBY", b"ZADD") or not raw[1].startswith(_PREFIX):
                continue
            kind, _, rest = raw[1][len(_PREFIX) :].decode().partition(":")
            if kind == "s" and rest:
                life = self.lives.setdefault(rest, Life(rest))
                before.setdefault(rest, life.state)
                if name == b"HINCRBY":
                    self._count(life, raw)
                elif name == b"HSET":
                    fields = {raw[i].decode(): raw[i + 1].decode() for i in range(2, len(raw), 2)}
                    self._set(life, fields)
                    touched.append((life, fields))
            elif kind == "watch" and name == b"ZADD":
                self._watch(raw)
            elif kind == "r" and name in (b"HSET", b"HSETNX"):
                entry = json.loads(raw[3])
                self.ledger[raw[2].decode()] = entry
                written.append(entry)
            elif kind == "i" and name == b"HSET":
                self._intend(raw[2].decode(), raw[3].decode())
        for life, fields in touched:
            if "status" in fields and life.state == "final":
                self._ended(life, [entry for entry in written if entry["subtask"] == life.id])
        for id_, state in before.items():
            life = self.lives[id_]
            if state == "running" and life.state in ("ready", "running") and life.owners.get(life.fence) is None:
                life.expired = (life.watched, life.owners.get(life.fence - 1, ""))

    def _count(self, life: Life, raw: list[bytes]) -> None:
        if raw[2] == b"fence":
            life.fence += int(raw[3])
            if life.owner:
                life.owners[life.fence], life.owner = life.owner, ""

    def _set(self, life: Life, fields: dict[str, str]) -> None:
        life.task = fields.get("task", life.task)
        life.fence = int(fields.get("fence", life.fence))
        life.owner = fields.get("owner", life.owner).partition("~")[0]
        if "owner" in fields and "fence" in fields:
            life.owners[life.fence], life.owner = life.owner, ""
        if "members" in fields:
            life.members = int(fields["members"])
        state = fields.get("state", life.state)
        if fields.get("state") == "running" and life.state == "running":  # taken over at the moment of the claim
            life.expired = (life.watched, life.owners.get(life.fence, ""))
        if state == "final" and life.state != "final":
            life.ends += 1
        elif state != "final":
            life.accepted = False
        life.state = state

    def _watch(self, raw: list[bytes]) -> None:
        life = self.lives.setdefault(raw[-1].decode(), Life(raw[-1].decode()))
        life.watched = float(raw[-2])
        if life.state == "running" and life.expired is not None:
            at, owner = life.expired
            self.recoveries.append(Recovery(life.id, owner, at, life.watched - self.lease_ms))
            life.expired = None

    def _intend(self, hold: str, body: str) -> None:
        call_id, _, note = body.partition("\n")
        if json.loads(note)["handle"] is not None:
            self.handles.add(call_id)
        if call_id in self.intents:
            return
        self.intents.add(call_id)
        life = self.lives.get(hold)
        if life is not None:
            if life.fence != int(call_id.removeprefix(f"{hold}.").split(".")[0]):
                self.stale_intents.append(call_id)
            if life.accepted:
                self.needless.append(call_id)

    def _ended(self, life: Life, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if entry["status"] == "ok":
                life.accepted = True
                if entry["fence"] != life.fence and entry["call_id"] not in self.handles:
                    self.stale_writes.append(entry["call_id"])


_PREFIX = f"{NAMESPACE}:".encode()


def _number(path: Path) -> int:
    found = re.search(r"\.(\d+)\.incr", path.name)
    return int(found[1]) if found else 0


def _commands(data: bytes) -> Iterator[list[bytes]]:
    """The commands of an append-only file; a last one that is torn is left out."""
    at = 0
    while at < len(data):
        end = data.find(b"\r\n", at)
        if end < 0:
            return
        if data[at : at + 1] == b"#":
            at = end + 2
            continue
        count, at = int(data[at + 1 : end]), end + 2
        words = []
        for _ in range(count):
            end = data.find(b"\r\n", at)
            if end < 0:
                return
            length = int(data[at + 1 : end])
            words.append(data[end + 2 : end + 2 + length])
            at = end + 4 + length
            if at > len(data):
                return
        yield words


def _groups(commands: Iterable[list[bytes]]) -> Iterator[list[list[bytes]]]:
    """Transactions; a command outside of one is one of its own."""
    group: list[list[bytes]] | None = None
    for command in commands:
        match command[0].upper():
            case b"MULTI":
                group = []
            case b"EXEC":
                yield group or []
                group = None
            case _ if group is not None:
                group.append(command)
            case _:
                yield [command]
