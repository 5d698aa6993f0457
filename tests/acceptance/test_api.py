"""The API as real processes: keys by the command, a job from curl's point of view, and kill -9 under load."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.api import JOB
from tests.support.bench import config
from tests.support.cli import Folder
from tests.support.processes import FleetProcess
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

SUBMITS, BEFORE_THE_KILL = 500, 150
#: Seconds for a submit to come through, the API being started again meanwhile.
PATIENCE_S = 120
#: No model is asked here.
NO_MODEL = "http://127.0.0.1:9/v1"


class Served:
    """`fleet api` on a port that stays the same."""

    def __init__(self, valkey: Valkey, folder: Path) -> None:
        self._start = (valkey, folder, config(), NO_MODEL, "api", "--port", str(free_port()))
        self.url = f"http://127.0.0.1:{self._start[-1]}"
        self.folder = Folder(folder, {"FLEET_REDIS_URL": valkey.url, "FLEET_BLOBS": str(folder / "blobs")})
        self.process = FleetProcess(*self._start)

    def key(self, *arguments: str) -> str:
        made = self.folder.fleet("keys", "create", "-o", "json", *arguments)
        assert made.code == 0, made.err
        return str(json.loads(made.out)["key"])

    def until_ready(self) -> Served:
        until(lambda: bool(self.process.listens_on()), "the API to listen", self.process)
        return self

    def kill_and_start_again(self) -> None:
        self.process.process.kill()
        self.process.process.wait()
        self.process = FleetProcess(*self._start)


def test_a_kill_under_500_submits_loses_none_and_doubles_none(valkey: Valkey, tmp_path: Path) -> None:
    served = Served(valkey, tmp_path)
    headers = {"Authorization": f"Bearer {served.key('--tenant', 'acme')}"}
    served.until_ready()
    accepted: dict[int, str] = {}
    enough = asyncio.Event()

    async def submit(session: aiohttp.ClientSession, number: int) -> None:
        once = headers | {"Idempotency-Key": f"key {number}"}
        async with asyncio.timeout(PATIENCE_S):
            while number not in accepted:
                try:
                    body = JOB | {"name": f"job {number}"}
                    async with session.post(f"{served.url}/v1/jobs", json=body, headers=once) as answer:
                        assert answer.status == 202, await answer.text()
                        accepted[number] = (await answer.json())["id"]
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)  # the API is away
                if len(accepted) >= BEFORE_THE_KILL:
                    enough.set()

    async def kill() -> None:
        await enough.wait()
        await asyncio.to_thread(served.kill_and_start_again)

    async def scenario() -> dict[str, Any]:
        found: dict[str, Any] = {}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(kill(), *(submit(session, number) for number in range(SUBMITS)))
            path: str | None = "/v1/jobs?limit=100"
            while path is not None:
                async with session.get(served.url + path, headers=headers) as answer:
                    page = await answer.json()
                for job in page["jobs"]:
                    assert job["id"] not in found
                    found[job["id"]] = job["name"]
                path = f"/v1/jobs?limit=100&cursor={page['next']}" if page["next"] else None
        return found

    try:
        found = asyncio.run(scenario())
    finally:
        served.process.stop()
    assert found == {job_id: f"job {number}" for number, job_id in accepted.items()}
    assert len(found) == SUBMITS


def test_keys_are_made_listed_and_revoked_by_the_command(valkey: Valkey, tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url})
    made = folder.fleet("keys", "create", "--tenant", "acme", "--scope", "read", "--name", "dashboard", "-o", "json")
    key = json.loads(made.out)
    listed = json.loads(folder.fleet("keys", "list", "-o", "json").out)["keys"]
    assert listed == [{name: value for name, value in key.items() if name != "key"}]
    assert key["key"] not in folder.fleet("keys", "list").out
    with valkey.client() as store:
        assert not [name for name in store.scan_iter() if key["key"].encode() in store.dump(name)]
    assert folder.fleet("keys", "revoke", key["id"]).code == 0
    assert json.loads(folder.fleet("keys", "list", "-o", "json").out) == {"keys": []}
    for wrong in (("revoke", key["id"]), ("create", "--scope", "reed"), ("create", "--tenant", "A.B")):
        refused = folder.fleet("keys", *wrong)
        assert (refused.code, refused.err.count("\n")) == (2, 1), wrong
    outside = folder.fleet("api", "--host", "0.0.0.0", "--port", str(free_port()))  # noqa: S104  it refuses
    assert (outside.code, "fleet keys create" in outside.err) == (2, True)


def test_an_api_that_awaits_its_first_key_lets_nobody_in_before(valkey: Valkey, tmp_path: Path) -> None:
    port = free_port()
    outside = ("--host", "0.0.0.0", "--port", str(port))  # noqa: S104  nobody is let in
    api = FleetProcess(valkey, tmp_path, config(), NO_MODEL, "api", *outside, "--await-key")
    folder = Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url})

    async def status(key: str) -> int:
        shown = {"Authorization": f"Bearer {key}"}
        jobs = f"http://127.0.0.1:{port}/v1/jobs"
        async with aiohttp.ClientSession(headers=shown) as session, session.get(jobs) as answer:
            return answer.status

    try:
        until(lambda: port in api.listens_on(), "the API to listen", api)
        assert asyncio.run(status("none")) == 401
        made = json.loads(folder.fleet("keys", "create", "-o", "json").out)
        assert asyncio.run(status(made["key"])) == 200
    finally:
        api.stop()
