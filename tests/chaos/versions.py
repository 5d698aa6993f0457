"""Two versions of the code in one fleet: what a rolling upgrade does to jobs under way, a step back included.

The fleet begins as the previous version. Of each tier one worker, then the coordinator, are rolled to this one; both versions
work on the same jobs, are killed, and take over from each other; one worker and the coordinator are rolled back; then all are
rolled to this version, and last those who submit (see `fleet.stored`). The jobs must end and the books be clean, as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from fleet.store import COORDINATOR
from tests.chaos.arena import Arena, arena
from tests.chaos.books import Books
from tests.chaos.checkout import lay_out
from tests.chaos.crew import Incarnation
from tests.support.processes import ROOT

#: The version that the next one is rolled out over; a release moves it to the one that was released before.
PREVIOUS = "5885f5c5e5cc89d92bbe2983ccf87a5d59e94703"
OPEN_JOBS = 6
#: Seconds in which one version works alone, or both beside each other, and between two kills.
WORKS_S, KILL_EVERY_S = 3.0, 0.5
SETTLE_S = 45.0
#: What a process logs when it met what it had not expected; a fleet that is upgraded gives no cause for it.
SURPRISES = ("on an error of our own", "raised unexpected", "Received unregistered task")


async def two_versions(folder: Path) -> list[str]:
    """A fleet rolled from the previous version to this one under load."""
    with tempfile.TemporaryDirectory(prefix="previous-") as name:
        previous = Path(name)
        if not lay_out(PREVIOUS, previous):
            print(f"  left out: this clone does not have the previous version ({PREVIOUS[:7]})", flush=True)
            return []
        # In the background, so that what one version journals is what the other asks the provider for.
        async with arena(folder, "always", roots=(previous, ROOT)) as fleet:
            async with _fed(fleet):
                await _upgraded(fleet, previous)
            await fleet.load.settled(SETTLE_S)
            books = await fleet.books()
        restarts = books.figures()["restart_paid_twice"]
        restarted = [f"paid twice by a restart: {restarts:g} calls"] if restarts else []
        return books.complaints + restarted + _beside(books, fleet.crew.history) + _surprises(fleet)


async def _upgraded(fleet: Arena, previous: Path) -> None:
    crew, tiers = fleet.crew, list(fleet.config.tiers)
    await asyncio.sleep(WORKS_S)
    for seat in (*(f"{tier}.1" for tier in tiers), COORDINATOR):
        await crew.move(seat, ROOT)
    await asyncio.sleep(WORKS_S)
    for seat in [seat for seat in crew.members if seat != COORDINATOR]:
        crew.signal(crew.members[seat], signal.SIGKILL)
        await asyncio.sleep(KILL_EVERY_S)
    for seat in (f"{tiers[0]}.1", COORDINATOR):
        await crew.move(seat, previous)
    await asyncio.sleep(WORKS_S)
    for seat in (f"{tiers[0]}.1", *(f"{tier}.0" for tier in tiers), COORDINATOR, "submit"):
        await crew.move(seat, ROOT)
    await fleet.load.top_up(OPEN_JOBS + 2)


@contextlib.asynccontextmanager
async def _fed(fleet: Arena) -> AsyncIterator[None]:
    """Jobs enough for the block; none is being submitted any more after it."""
    enough = asyncio.Event()

    async def feed() -> None:
        while not enough.is_set():
            await fleet.load.top_up(OPEN_JOBS)
            await asyncio.sleep(0.3)

    feeding = asyncio.create_task(feed())
    try:
        yield
    finally:
        enough.set()
        await feeding


def _beside(books: Books, crew: Mapping[str, Incarnation]) -> list[str]:
    """Whether the versions did work on the same jobs, and on the same subtasks after each other."""
    jobs: dict[str, set[Path]] = {}
    passed_on = 0
    for subtask, names in books.claimants().items():
        roots = {crew[name].zygote.root for name in names if name in crew}
        jobs.setdefault(subtask.partition("/")[0], set()).update(roots)
        passed_on += len(roots) > 1
    shared = sum(len(roots) > 1 for roots in jobs.values())
    print(f"  {shared} of {len(jobs)} jobs were worked on by both versions, {passed_on} subtasks passed on", flush=True)
    return [] if shared and passed_on else ["the versions did not work beside each other"]


def _surprises(fleet: Arena) -> list[str]:
    """What no book shows: processes that ended by themselves, and errors that were caught and logged."""
    # One that is asked to end before it has come up dies of that.
    expected = (0, -signal.SIGKILL, -signal.SIGTERM)
    ended = [
        f"{name} ended by itself with {one.end}, see {one.tier}*.log"
        for name, one in fleet.crew.history.items()
        if one.end not in expected
    ]
    logged: Counter[str] = Counter()
    for log in sorted(fleet.folder.glob("*.log")):
        text = log.read_text(errors="replace")
        logged.update({f"{log.name}: {surprise}": text.count(surprise) for surprise in SURPRISES})
    return ended + [f"{what}, {count} times" for what, count in logged.items() if count]
