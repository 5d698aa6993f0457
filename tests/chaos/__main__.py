"""`python -m tests.chaos [--kills N]`: rounds of storms over real fleets until N kills at failpoints, then the figures.

A round is a fleet of its own: storm, rolling restart in the quiet, the end of all jobs, the books. Rounds take turns
between a fleet without calls in the background and one where every call is one.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from redis.exceptions import RedisError

from fleet.store import COORDINATOR
from tests.chaos.arena import SEATS, Arena, arena
from tests.chaos.clocks import WRONG, preloaded
from tests.chaos.control import resume_all
from tests.chaos.faults import Storm, cancelled
from tests.chaos.history import Recovery
from tests.chaos.poison import poisoned
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.verdict import failures, missed

OPEN_JOBS = 8
SETTLE_S = 90.0
#: Figures of which the rounds' highest counts; the others are added up.
HIGHEST = ("paid_twice_per_kill", "paid_twice_per_kill_background", "in_flight_per_process")
MODES = ("never", "always")
#: A second coordinator beside the one that every fleet has: while one is dead or stands still, the other puts things right.
STORM_SEATS = {**SEATS, COORDINATOR: 1}
#: Most kills of one round: a store's log that is much longer takes long to judge.
SHARE = 150


class Run:
    """All rounds, and what they came to."""

    def __init__(self, folder: Path, kills: int, storm_s: float) -> None:
        self._folder = folder
        self._kills = kills
        self._storm_s = storm_s
        self._began = time.monotonic()
        #: Of members, at their failpoints.
        self.kills = 0
        #: Everybody's, also from outside, and the store's.
        self.kills_in_all = 0
        self.figures: dict[str, float] = defaultdict(float)
        self.recoveries: list[tuple[float, Recovery]] = []
        self.complaints: list[str] = []
        self.strikes: Counter[str] = Counter()

    async def rounds(self) -> None:
        number = 0
        share = min(-(-self._kills // len(MODES)), SHARE)
        most = 2 * max(len(MODES), -(-self._kills // max(1, share)))
        while number < len(MODES) or (self.kills < self._kills and number < most):
            await self._round(number, share)
            number += 1

    async def _round(self, number: int, share: int) -> None:
        mode = MODES[number % len(MODES)]
        async with arena(self._folder / f"{number}-{mode}", mode, clocks=WRONG, seats=STORM_SEATS, armed=True) as fleet:
            telling = asyncio.create_task(self._tell(fleet, f"round {number + 1} ({mode})"))
            try:
                storm = Storm(fleet)
                await self._storm(fleet, storm, share)
                fleet.crew.armed = False
                await resume_all(fleet)
                self._say("rolling restart")
                for _ in range(2):
                    await fleet.load.top_up(OPEN_JOBS)
                    await fleet.crew.roll()
                self._say("waiting for all jobs to end")
                await fleet.load.settled(SETTLE_S)
            finally:
                telling.cancel()
            self.strikes += storm.strikes
            books = await fleet.books()
            self.kills += fleet.crew.failpoint_kills
            self.kills_in_all += fleet.crew.kills + fleet.store_kills
            figures = books.figures()
            # With calls in the background: what lies between their acceptance and the journalled handle.
            figures["paid_twice_per_kill_background"] = figures["paid_twice_per_kill"] if mode == "always" else 0
            for name, value in figures.items():
                self.figures[name] = max(self.figures[name], value) if name in HIGHEST else self.figures[name] + value
            self.recoveries += books.recoveries(fleet.outages)
            self.complaints += books.complaints
        self._say(f"round {number + 1} ended; {self.kills} kills so far, {len(books.complaints)} complaints")
        for complaint in books.complaints[:20]:
            self._say(f"  {complaint}")

    async def aftermath(self) -> None:
        """The scenarios, and a subtask that is poison, each in a fleet of its own."""
        for name, scenario in SCENARIOS.items():
            self._say(name)
            self.complaints += (found := await scenario(self._folder / name))
            self.figures["scenarios_failed"] += bool(found)
            for complaint in found:
                self._say(f"  {complaint}")
        self._say("poison")
        found, kept = await poisoned(self._folder / "poison")
        self.complaints += found
        self.figures["scenarios_failed"] += bool(found)
        self.figures["poison_throughput_kept"] = kept
        for complaint in found:
            self._say(f"  {complaint}")

    async def _storm(self, fleet: Arena, storm: Storm, kills: int) -> None:
        async def feed() -> None:
            while not cancelled():
                await fleet.load.top_up(OPEN_JOBS)
                await asyncio.sleep(0.5)

        tasks = [asyncio.create_task(storm.rage()), asyncio.create_task(feed())]
        began = time.monotonic()
        while time.monotonic() - began < self._storm_s and fleet.crew.failpoint_kills < kills:
            done, _ = await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if fleet.valkey.process.poll() is not None:
            await asyncio.to_thread(fleet.valkey.start)

    async def _tell(self, fleet: Arena, where: str) -> None:
        while True:
            await asyncio.sleep(5)
            kills = self.kills + fleet.crew.failpoint_kills
            try:
                known, unfinished = len(await fleet.load.accepted()), len(await fleet.load.unfinished())
            except (RedisError, OSError):
                self._say(f"{where}: {kills} kills; the store is away")
            else:
                self._say(f"{where}: {kills} kills, {known - unfinished} of {known} jobs ended")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f}s] {text}", flush=True)

    def summary(self) -> dict[str, float]:
        """All figures, in order."""
        figures: dict[str, float] = dict(self.figures)
        figures["kills"] = self.kills
        figures["kills_in_all"] = self.kills_in_all
        figures["recoveries_measured"] = len(self.recoveries)
        figures["recovery_p99_over_lease_s"] = _p99([seconds for seconds, _ in self.recoveries])
        return figures


def _p99(values: list[float]) -> float:
    return round(max(0.0, sorted(values)[int(len(values) * 0.99)]), 2) if values else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at failpoints")
    parser.add_argument("--storm-s", type=float, default=100, help="longest storm of one round")
    parser.add_argument("--folder", type=Path, help="kept; left out: a temporary one, removed if all is well")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    run = Run(folder, given.kills, given.storm_s)
    asyncio.run(run.rounds())
    asyncio.run(run.aftermath())
    figures = run.summary()
    for seconds, one in sorted(run.recoveries, key=lambda found: -found[0])[:5]:
        print(
            f"slowly recovered: {one.subtask} of {one.owner}, {seconds:.1f} s after its lease ended at {one.expired_at:.0f}"
        )
    if preloaded() is None:
        print("left out: workers with a wrong clock (no libfaketime that works here)")
    print("faults:", ", ".join(f"{name} {count}" for name, count in sorted(run.strikes.items())))
    for name, value in figures.items():
        print(f"{name}: {value:g}")
    for aim in missed(figures):
        print(f"missed: {aim}", file=sys.stderr)
    if bad := failures(figures, asked=given.kills, wrong_clocks=preloaded() is not None):
        print(f"Not as it must be: {'; '.join(bad)}. What happened is in {folder}.", file=sys.stderr)
        return 1
    if given.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
