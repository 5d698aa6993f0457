"""A worker and a coordinator whose processes are killed (SIGKILL) at failpoints and started again, until a job has ended.

    python -m tests.support.dying VALKEY_URL FOLDER SIM_URL CONFIG JOB WORKER_FAILPOINTS COORDINATOR_FAILPOINTS

They are forks of this process, which has imported everything and opened nothing; each does one thing at a time, so that a death
is of one subtask only. Prints how often each died.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fleet.config import FleetConfig
from fleet.store import COORDINATOR
from queues import failpoints
from queues.claims import ClaimLost
from tests.support.bench import Bench, bench

MOST_S = 100.0


async def _work(fleet: Bench, tiers: list[str], job_id: str) -> None:
    """Do what is due on these tiers, until the job has ended and nothing of it is at the vendor."""
    store = fleet.runtime.store
    while True:
        for tier in tiers:
            released = await store.release(tier, 200)
            await store.sent([one.id for one in released])
            for one in released:
                with contextlib.suppress(ClaimLost):
                    await fleet.perform(one, tier)
        if COORDINATOR in tiers:
            await store.reconcile()
            job = await fleet.runtime.jobs.load(job_id)
            if job.status.final and not await fleet.context.lines.lots.unended(job_id):
                return
        await asyncio.sleep(0.02)


async def _process(valkey_url: str, folder: Path, sim: str, config: FleetConfig, tiers: list[str], job_id: str) -> None:
    valkey = cast("Any", SimpleNamespace(url=valkey_url))
    async with bench(valkey, folder, config, sim=sim) as fleet:
        keeping = asyncio.create_task(fleet.context.claims.keep())
        try:
            await _work(fleet, tiers, job_id)
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping


def _fork(armed: str, *what: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        failpoints._EVERY = failpoints._armed(armed)
        failpoints._passed = dict.fromkeys(failpoints._EVERY, 0)
        asyncio.run(_process(*what))
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    valkey, folder, sim, config_file, job_id, *armed = sys.argv[1:]
    config = FleetConfig.model_validate_json(Path(config_file).read_text())
    about = (valkey, Path(folder), sim, config)
    roles = [([*config.tiers], armed[0]), ([COORDINATOR], armed[1])]
    deadline = time.monotonic() + MOST_S
    pids = [_fork(points, *about, tiers, job_id) for tiers, points in roles]
    deaths = [0, 0]
    while True:
        for at, (tiers, points) in enumerate(roles):
            pid, status = os.waitpid(pids[at], os.WNOHANG)
            if not pid:
                continue
            if not os.WIFSIGNALED(status):
                os.kill(pids[1 - at], signal.SIGKILL)
                os.waitpid(pids[1 - at], 0)
                sys.stdout.write(json.dumps({"worker": deaths[0], "coordinator": deaths[1]}))
                raise SystemExit(os.waitstatus_to_exitcode(status))
            deaths[at] += 1
            pids[at] = _fork(points, *about, tiers, job_id)
        if time.monotonic() > deadline:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            raise SystemExit("the job did not end in time")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
