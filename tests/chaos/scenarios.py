"""What no storm can do: the rare ends of a store (memory full, disk full, the last second lost with the power), and two
versions of the code. Each gives its complaints.

After power is lost the jobs that were accepted must all end; what was called in the lost second is not known to anybody but
the provider, so the books of that fleet are not held against the charge log.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

from redis.exceptions import RedisError

from fleet.client import FleetClient
from fleet.config import Environment
from fleet.errors import FleetError
from fleet.jobs import JobSpec
from fleet.runtime import NAMESPACE, Runtime
from tests.chaos.arena import CAPS_USD, Arena, arena, config
from tests.chaos.load import jobs_in, specs
from tests.chaos.versions import two_versions
from tests.support.valkey import Valkey

SETTLE_S = 45.0
JOBS = 4


async def memory_full(folder: Path) -> list[str]:
    """`maxmemory` is reached in the middle of jobs: a submit is refused, and later all goes on."""
    async with arena(folder, "never") as fleet:
        await fleet.load.top_up(JOBS)
        await asyncio.sleep(1)
        await fleet.client.config_set("maxmemory", "1")
        complaints = await _refused(fleet)
        await asyncio.sleep(3)
        await fleet.client.config_set("maxmemory", "0")
        return complaints + await _judged(fleet, money=True)


async def last_second_lost(folder: Path) -> list[str]:
    """Power is lost: of the append-only file only what was synced survives, and a torn command behind it."""
    async with arena(folder, "never") as fleet:
        await fleet.load.top_up(JOBS)
        for _ in range(2):
            await asyncio.sleep(random.uniform(1, 2))
            log = max((fleet.valkey.folder / "appendonlydir").glob("*.incr.aof"))
            size = log.stat().st_size
            await fleet.client.set("chaos:mark", "1")
            await fleet.client.execute_command("WAITAOF", 1, 0, 5_000)
            await asyncio.sleep(random.uniform(0.2, 0.9))
            fleet.valkey.kill()
            os.truncate(log, random.randint(size, min(log.stat().st_size, size + 2_000)))
            await asyncio.to_thread(fleet.valkey.start)
        return await _judged(fleet, money=False)


async def disk_full(folder: Path) -> list[str]:
    """The disk of the store is full: a submit is refused with a sentence, and accepted once there is room."""
    folder.mkdir(parents=True)
    mount = folder / "disk"
    mount.mkdir()
    if shutil.which("unshare") is None or os.geteuid() != 0:
        print("  skipped: a small disk needs unshare and root", flush=True)
        return []
    valkey = _SmallDisk(mount)
    environment = Environment(
        fleet_redis_url=valkey.url, fleet_blobs=folder / "blobs", openai_api_key=None, openai_base_url=None
    )
    runtime = Runtime(environment, config("never", None, CAPS_USD), valkey.url)
    complaints = []
    try:
        with valkey.client() as client:
            for number in range(200):
                try:
                    client.set(f"ballast:{number}", b"x" * 100_000)
                except RedisError:
                    break
            before = set(client.keys("*"))
            complaints += await _submit_refused(runtime)
            complaints += [f"half-written: {key!r}" for key in set(client.keys("*")) - before]
        valkey.make_room()
        await asyncio.sleep(2)
        await FleetClient(runtime).submit(JobSpec.model_validate(specs()[1]))
    except (FleetError, RedisError) as error:
        complaints.append(f"not accepted after there was room again: {error}")
    finally:
        await runtime.aclose()
        valkey.stop()
    return complaints


SCENARIOS: dict[str, Callable[[Path], Awaitable[list[str]]]] = {
    "memory full": memory_full,
    "last second lost": last_second_lost,
    "disk full": disk_full,
    "two versions": two_versions,
}


class _SmallDisk(Valkey):
    """A Valkey whose data directory is a tmpfs of a few megabytes in a mount namespace of its own."""

    def start(self) -> None:
        spawn = subprocess.Popen
        at = f'"{self.folder}"'
        script = f'mount -t tmpfs -o size=6m small {at} && head -c 2000000 /dev/zero > {at}/room && exec "$@"'

        def inside(command: list[str], **others: object) -> subprocess.Popen[bytes]:
            command = [*command, "--appendfsync", "everysec"]
            return spawn(["unshare", "-m", "sh", "-c", script, "sh", *command], **others)  # type: ignore[call-overload,no-any-return]

        subprocess.Popen = inside  # type: ignore[assignment,misc]
        try:
            super().start()
        finally:
            subprocess.Popen = spawn  # type: ignore[misc]

    def make_room(self) -> None:
        Path(f"/proc/{self.process.pid}/root{self.folder}/room").unlink()


async def _refused(fleet: Arena) -> list[str]:
    runtime = Runtime(fleet.environment, fleet.config, fleet.valkey.url)
    try:
        complaints = await _submit_refused(runtime)
    finally:
        await runtime.aclose()
    known = {id_.decode() for id_ in await jobs_in(fleet.client)}
    keys: list[bytes] = await fleet.client.execute_command("KEYS", f"{NAMESPACE}:job:*")
    documents = {key.decode().rpartition(":")[2] for key in keys}
    return complaints + [f"half-written: {job}" for job in known ^ documents]


async def _submit_refused(runtime: Runtime) -> list[str]:
    try:
        await FleetClient(runtime).submit(JobSpec.model_validate(specs()[1]))
    except FleetError as error:
        return [] if str(error).endswith(".") else [f"refused without a sentence: {error}"]
    except RedisError as error:
        return [f"refused with an error of the store instead of a sentence: {error}"]
    return ["a job was accepted although there was no room"]


async def _judged(fleet: Arena, *, money: bool) -> list[str]:
    await fleet.load.settled(SETTLE_S)
    books = await fleet.books()
    figures = books.figures()
    if money:
        return books.complaints
    about = ("unfinished job", "lost subtask", "gate")
    print(f"  charged, not known to anybody but the provider: {figures['paid_twice_outside_window']:g}", flush=True)
    return [complaint for complaint in books.complaints if complaint.startswith(about)]
