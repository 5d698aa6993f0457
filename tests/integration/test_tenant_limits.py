"""What a tenant may have: jobs under way, bytes sent in a day (dollars: test_budgets); and what was noted of who did what."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.test_openai_chat import SAY, client
from tests.support.api import JOB, Api, on_api, stored
from tests.support.cli import Folder
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey


def _tenants(**limits: Any) -> dict[str, Any]:
    return {"tenants": {"acme": limits}}


def test_so_many_jobs_at_a_time_and_not_one_more(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key, other = await api.key("acme"), await api.key("other")
        answers = await asyncio.gather(*(api.ask("POST", "/v1/jobs", key, json=JOB) for _ in range(10)))
        ids = [answer["id"] for status, answer, _ in answers if status == 202]
        refused = [(status, headers) for status, _, headers in answers if status != 202]
        assert (len(ids), {status for status, _ in refused}) == (3, {429})
        assert all(int(headers["Retry-After"]) > 0 for _, headers in refused)
        assert len(list((tmp_path / "blobs").iterdir())) == 3, "nothing is left of those that were refused"
        assert (await api.ask("POST", "/v1/jobs", other, json=JOB))[0] == 202, "limits are a tenant's own"
        await api.ask("POST", f"/v1/jobs/{ids[0]}/cancel", key)
        assert (await api.ask("POST", "/v1/jobs", key, json=JOB))[0] == 202
        await api.fleet.run(ids[1])
        async with client(api, key) as ai:
            work = asyncio.create_task(api.fleet.work())
            for _ in range(4):
                await ai.chat.completions.create(model="nano", messages=SAY)
            work.cancel()

    on_api(scenario, valkey, tmp_path, sim, **_tenants(open_jobs=3))


def test_a_call_counts_as_long_as_it_waits(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key("acme")
        assert (await api.ask("POST", "/v1/jobs", key, json=JOB))[0] == 202
        async with client(api, key) as ai:
            with pytest.raises(openai.RateLimitError) as refused:
                await ai.chat.completions.create(model="nano", messages=SAY)
            assert refused.value.code == "rate_limit_exceeded"

    on_api(scenario, valkey, tmp_path, sim, **_tenants(open_jobs=1))


def test_so_many_bytes_in_a_day(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key("acme")
        items = JOB | {"items": ["x" * 400]}
        statuses = [(await api.ask("POST", "/v1/jobs", key, json=items))[0] for _ in range(3)]
        assert statuses == [202, 202, 429]
        before = await stored(api)
        assert (await api.ask("POST", "/v1/jobs", key, json=items))[0] == 429
        assert {name for name in await stored(api) if b"audit" not in name} == {
            name for name in before if b"audit" not in name
        }

    on_api(scenario, valkey, tmp_path, sim, **_tenants(bytes_per_day=1_000))


def test_who_did_what_is_noted_and_nothing_of_what_was_sent(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key("acme")
        job_id = (await api.ask("POST", "/v1/jobs", key, json=JOB | {"name": "secret"}))[1]["id"]
        await api.ask("POST", f"/v1/jobs/{job_id}/pause", key)
        await api.ask("POST", "/v1/jobs", key, json={"name": "secret"})
        await api.ask("POST", "/v1/jobs/other.j1/cancel", key)
        async with client(api, key) as ai:
            with pytest.raises(openai.NotFoundError):
                await ai.chat.completions.create(model="secret", messages=SAY)
        folder = Folder(tmp_path, {"FLEET_REDIS_URL": valkey.url})
        told = await asyncio.to_thread(folder.fleet, "keys", "audit", "--tenant", "acme", "-o", "json")
        assert told.code == 0, told.err
        notes = json.loads(told.out)["notes"]
        assert [(note["action"], note["target"], note["outcome"]) for note in notes[::-1]] == [
            ("POST /v1/jobs", f"/v1/jobs/{job_id}", "202"),
            ("POST /v1/jobs/{job_id}/pause", job_id, "200"),
            ("POST /v1/jobs", "", "refused"),
            ("POST /v1/jobs/{job_id}/cancel", "other.j1", "404"),
            ("POST /v1/chat/completions", "", "404"),
        ]
        assert {note["actor"][:4] for note in notes} == {"key_"}
        assert "secret" not in told.out

    on_api(scenario, valkey, tmp_path, sim)
