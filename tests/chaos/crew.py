"""The processes of a fleet under chaos: who they are, started again when they end, and how each of them ended.

It owns what they are forked from. Which processes die, and when, is the faults' business; a process armed with a failpoint
dies by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.store import COORDINATOR
from tests.chaos.clocks import preloaded, wrong_by
from tests.chaos.forks import Zygote

#: Where each kind of process can be made to die, and how often at most it passes there before it does: seldom enough that it
#: has got most of its work done. A fleet that dies as fast as it starts has little under way that could be lost.
FAILPOINTS = {
    "coordinator": {"gate_opened": 4, "shard_added": 4, "released": 40, "sent": 40, "claimed": 12},
    "nano": {"claimed": 24, "permitted": 24, "intended": 24, "answered": 20, "finished": 20, "begun": 20},
    "mini": {"claimed": 12, "permitted": 12, "intended": 12, "answered": 12, "finished": 12, "begun": 12},
    "flagship": {"claimed": 8, "permitted": 8, "intended": 8, "answered": 8, "finished": 8, "begun": 8, "reviewed": 4},
}
SLOTS = {"nano": 5, "mini": 4, "flagship": 3}
END_S = 60.0


@dataclass
class Incarnation:
    """One process from its fork to its end."""

    name: str
    tier: str
    pid: int
    zygote: Zygote
    #: It is armed with a failpoint.
    armed: bool
    #: It was sent SIGKILL.
    struck: bool = False
    #: It was asked to drain.
    asked: bool = False
    #: As `os.waitstatus_to_exitcode`: minus the signal, or the exit code; None while it runs.
    end: int | None = None
    #: When it ended, ms since 1970.
    ended_at: float = 0.0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def killed(self) -> bool:
        return self.end == -signal.SIGKILL

    @property
    def at_failpoint(self) -> bool:
        """Whether it died at its failpoint."""
        return self.killed and self.armed and not self.struck


class Crew:
    """Workers and coordinator of one fleet."""

    def __init__(
        self,
        folder: Path,
        config: Path,
        variables: Callable[[str], dict[str, str]],
        *,
        clocks: Mapping[str, int],
        deadly: str,
        roots: Sequence[Path],
        unreached: Collection[str],
    ) -> None:
        """`variables`: the environment of the member called so; `clocks`: by how many seconds its clock is wrong.

        `roots`: of the checkouts that members may be forked from, the one to begin with first. `unreached`: failpoints
        that nobody passes in this fleet.
        """
        self._folder = folder
        self._variables = variables
        self._unreached = unreached
        preload = preloaded() if clocks else None
        self._clocks = clocks if preload is not None else {}
        self.roots = tuple(roots)
        self._zygotes = {root: Zygote(root, config, self._on_end, {}) for root in roots}
        #: Where the next process of a kind is forked from, where that is not the first checkout.
        self._root_of: dict[str, Path] = {}
        #: For processes whose clock is wrong.
        self._clocked = None if preload is None else Zygote(roots[0], config, self._on_end, preload)
        self._early: dict[int, int] = {}
        self._of: dict[int, Incarnation] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers: dict[str, int] = {}
        #: Members that start from now on have a failpoint to die at, and some submitters.
        self.armed = False
        #: Processes forked from now on die as soon as they are to ask a model with this in the prompt; empty: none do.
        self.deadly = deadly
        #: Members that are not started again before this is set.
        self.going = asyncio.Event()
        self.going.set()
        #: Everybody there ever was, by name.
        self.history: dict[str, Incarnation] = {}
        self.members: dict[str, Incarnation] = {}

    @property
    def kills(self) -> int:
        """Everybody's, whoever did it."""
        return sum(one.killed for one in self.history.values())

    @property
    def failpoint_kills(self) -> int:
        """Of members that died at their failpoint; a client that submits a job is no member."""
        return sum(one.at_failpoint and one.tier in FAILPOINTS for one in self.history.values())

    async def start(self) -> None:
        """Start what it forks from; that warms up by itself."""
        for zygote in self._all_zygotes():
            await zygote.start()

    async def warm(self) -> None:
        """Wait until processes can be forked."""
        for zygote in self._all_zygotes():
            await zygote.warm()

    async def keep(self, seats: Mapping[str, int]) -> None:
        """Keep so many members of each tier, and a coordinator."""
        for seat in (COORDINATOR, *(f"{tier}.{number}" for tier, each in seats.items() for number in range(each))):
            await self._take_seat(seat)
            self._tasks.append(asyncio.create_task(self._keep(seat)))

    async def fork(self, kind: str, failpoints: str, **asked: Any) -> Incarnation:
        """A process of its own name; `kind` is its tier or what else it does."""
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        name = f"{kind}_{self._numbers[kind]}"
        order = {
            "name": name,
            "log": str(self._folder / f"{kind}.log"),
            "environment": self._variables(kind),
            "failpoints": failpoints,
            "deadly": self.deadly,
            **asked,
        }
        zygote = self._zygotes[self._root_of.get(kind, next(iter(self._zygotes)))]
        if self._clocked is not None and kind in self._clocks:
            order["environment"] |= wrong_by(self._clocks[kind])
            zygote = self._clocked
        pid = await zygote.fork(order)
        one = Incarnation(name, kind.partition(".")[0], pid, zygote, bool(failpoints))
        self._of[pid] = self.history[name] = one
        if pid in self._early:
            self._on_end(pid, self._early.pop(pid))
        return one

    def signal(self, one: Incarnation, number: int) -> None:
        """Send a signal, if the process still runs."""
        if one.end is None:
            one.struck = one.struck or number == signal.SIGKILL
            one.asked = one.asked or number == signal.SIGTERM
            one.zygote.signal(one.pid, number)

    async def roll(self) -> list[Incarnation]:
        """Drain every member, one after another; those that did (not those that a failpoint ended)."""
        rolled = [await self._replace(seat) for seat in list(self.members)]
        return [one for one in rolled if not one.killed]

    async def move(self, kind: str, root: Path) -> None:
        """From now on fork `kind` from another checkout; a member of that name is drained and started again there."""
        self._root_of[kind] = root
        if kind in self.members:
            await self._replace(kind)

    async def stop(self) -> None:
        """End everybody, and the zygotes."""
        for task in self._tasks:
            task.cancel()
        alive = [one for one in self.history.values() if one.end is None]
        for one in alive:
            self.signal(one, signal.SIGCONT)
            self.signal(one, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(15):
                for one in alive:
                    await one.ended.wait()
        for zygote in self._all_zygotes():
            await zygote.stop()

    async def _replace(self, seat: str) -> Incarnation:
        """Drain a member and wait until the next one has its seat; the one that left."""
        one = self.members[seat]
        self.signal(one, signal.SIGTERM)
        await asyncio.wait_for(one.ended.wait(), END_S)
        while self.members[seat] is one:
            await asyncio.sleep(0.05)
        return one

    async def _keep(self, seat: str) -> None:
        while True:
            await self.members[seat].ended.wait()
            await self.going.wait()
            await self._take_seat(seat)

    async def _take_seat(self, seat: str) -> None:
        tier = seat.partition(".")[0]
        command = (
            [COORDINATOR] if tier == COORDINATOR else ["worker", "--tier", tier, "--concurrency", str(SLOTS[tier])]
        )
        self.members[seat] = await self.fork(seat, self._failpoint(tier) if self.armed else "", command=command)

    def _failpoint(self, tier: str) -> str:
        """One place for a process of this tier to die at; every twentieth has none."""
        if random.random() < 0.05:
            return ""
        places = [place for place in FAILPOINTS[tier].items() if place[0] not in self._unreached]
        name, most = random.choice(places)
        return f"{name}={random.randint(max(1, most // 3), most)}"

    def _all_zygotes(self) -> list[Zygote]:
        return [*self._zygotes.values(), *([] if self._clocked is None else [self._clocked])]

    def _on_end(self, pid: int, status: int) -> None:
        one = self._of.pop(pid, None)
        if one is None:  # Its fork is not noted yet.
            self._early[pid] = status
            return
        one.end = status
        one.ended_at = time.time() * 1000
        one.ended.set()
