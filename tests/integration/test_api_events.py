"""Events of a job over real HTTP: every one, in order, to everybody, and across a reconnect."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

from fleet.janitor import Janitor
from fleet.jobs import JobStatus
from tests.support.api import JOB, Api, on_api
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

Seen = tuple[str, str, dict[str, Any]]
LISTENERS, BREAKS = 1_000, 7


async def listen(api: Api, job_id: str, key: str, after: str | None = None, most: int | None = None) -> list[Seen]:
    """The events (id, kind, data) after one, until the stream ends, or so many."""
    seen: list[Seen] = []
    headers = {"Authorization": f"Bearer {key}"} | ({} if after is None else {"Last-Event-ID": after})
    async with api.session.get(f"{api.url}/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status in (200, 204)
        event: dict[str, str] = {}
        async for raw in answer.content:
            line = raw.decode().rstrip("\n")
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = value
            elif event:
                seen.append((event["id"], event["event"], json.loads(event["data"])))
                event = {}
                if len(seen) == most:
                    break
    return seen


async def listen_in_pieces(api: Api, job_id: str, key: str, sizes: list[int]) -> list[Seen]:
    """As a client whose connection breaks after so many events, again and again."""
    seen: list[Seen] = []
    for size in itertools.chain(sizes, [None]):
        after = seen[-1][0] if seen else None
        seen += await listen(api, job_id, key, after, size)
    return seen


def test_everybody_gets_every_event_in_order_across_reconnects(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        job_id = (await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"]
        listening = [
            asyncio.create_task(listen_in_pieces(api, job_id, key, [number % BREAKS + 1, 2]))
            for number in range(LISTENERS)
        ]
        for _ in range(5):
            for act in ("pause", "resume"):
                assert (await api.ask("POST", f"/v1/jobs/{job_id}/{act}", key))[0] == 200
        assert (await api.fleet.run(job_id)).status is JobStatus.COMPLETED
        everybody = await asyncio.wait_for(asyncio.gather(*listening), 120)
        late = await listen(api, job_id, key)
        kinds = [(kind, data.get("status")) for _, kind, data in late]
        pauses = [("status", "paused"), ("resumed", None)] * 5
        assert kinds == [
            ("accepted", None),
            *pauses,
            ("planned", None),
            ("status", "running"),
            ("filed", None),
            ("status", "completed"),
        ]
        assert all(seen == late for seen in everybody)
        assert await listen(api, job_id, key, late[-1][0]) == [], "204: a browser does not come again"
        assert (await api.ask("GET", f"/v1/jobs/{job_id}/events", key, headers={"Last-Event-ID": "x"}))[0] == 400

    on_api(scenario, valkey, tmp_path, sim)


def test_a_listener_that_goes_away_leaves_nothing_behind(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        job_id = (await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"]
        before = asyncio.all_tasks()
        listening = [asyncio.create_task(listen(api, job_id, key)) for _ in range(5)]
        await listen(api, job_id, key, most=1)
        for one in listening:
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one

        async def alone() -> bool:
            return not asyncio.all_tasks() - before

        await eventually(alone, "the end of what served the listeners")

    on_api(scenario, valkey, tmp_path, sim)


def test_what_is_filed_after_the_end_comes_too_and_then_it_ends(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        job_id = (await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"]
        await api.fleet.run_until(job_id, "fleet.run_subtask.v1")
        assert (await api.ask("POST", f"/v1/jobs/{job_id}/cancel", key))[0] == 200
        assert await Janitor(api.fleet.context).wind_up(job_id)
        assert (await api.ask("POST", f"/v1/jobs/{job_id}/pause", key))[0] == 422
        seen = await asyncio.wait_for(listen(api, job_id, key), 30)
        assert [kind for _, kind, _ in seen][-2:] == ["status", "filed"]
        assert await asyncio.wait_for(listen(api, job_id, key, seen[-2][0]), 30) == seen[-1:]
        for wrong in ("x", "99999999999999999999-0", "1-2-3"):
            headers = {"Last-Event-ID": wrong}
            assert (await api.ask("GET", f"/v1/jobs/{job_id}/events", key, headers=headers))[0] == 400

    on_api(scenario, valkey, tmp_path, sim)
