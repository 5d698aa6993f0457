"""The API over real HTTP: jobs from submit to receipt, keys and tenants, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fleet.keys import Keys
from fleet.runtime import NAMESPACE
from fleet.tenants import tenant_of
from tests.support.api import JOB, REQUESTS, Api, on_api, on_disk, stored
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

ROUTES = [
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}/results"),
    ("GET", "/v1/jobs/{id}/events"),
    ("GET", "/v1/jobs/{id}/cost"),
    ("POST", "/v1/jobs/{id}/cancel"),
    ("POST", "/v1/jobs/{id}/pause"),
    ("POST", "/v1/jobs/{id}/resume"),
    ("POST", "/v1/jobs/{id}/retry"),
    ("GET", "/metrics"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/{id}"),
    ("GET", "/v1/files/{id}/content"),
    ("DELETE", "/v1/files/{id}"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches"),
    ("GET", "/v1/batches/{id}"),
    ("POST", "/v1/batches/{id}/cancel"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{id}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/{id}"),
    ("POST", "/v1/responses/{id}/cancel"),
]
#: Models are everybody's.
OF_ONE = [(method, path) for method, path in ROUTES if "{id}" in path and "models" not in path]
#: What speaks OpenAI's language: its errors are theirs.
OPENAI = ("/v1/files", "/v1/batches", "/v1/models", "/v1/chat", "/v1/responses")
OPEN = {"/healthz", "/readyz"}


def test_a_job_from_submit_to_receipt(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key("acme")
        status, accepted, headers = await api.ask("POST", "/v1/jobs", key, json=JOB)
        assert (status, accepted["status"]) == (202, "planning")
        job_id = accepted["id"]
        assert job_id.startswith("acme.j")
        assert headers["Location"] == f"/v1/jobs/{job_id}"
        await api.fleet.run(job_id)
        status, job, _ = await api.ask("GET", f"/v1/jobs/{job_id}", key)
        assert (status, job["status"], job["counts"]["done"]) == (200, "completed", 2)
        _, lines, _ = await api.ask("GET", f"/v1/jobs/{job_id}/results", key)
        outcomes = [json.loads(line) for line in lines.splitlines()]
        assert [(one["item"], one["status"]) for one in outcomes] == [("a", "ok"), ("b", "ok")]
        _, receipt, _ = await api.ask("GET", f"/v1/jobs/{job_id}/cost", key)
        assert receipt["cost_nano_usd"] / 1e9 == pytest.approx(job["cost_usd"])
        _, page, _ = await api.ask("GET", "/v1/jobs", key)
        assert [one["id"] for one in page["jobs"]] == [job_id]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_job_can_be_paused_resumed_and_cancelled(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        job_id = (await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"]
        for act, status in (("pause", "paused"), ("resume", "planning"), ("cancel", "cancelled")):
            code, job, _ = await api.ask("POST", f"/v1/jobs/{job_id}/{act}", key)
            assert (code, job["status"]) == (200, status)
        code, problem, _ = await api.ask("POST", f"/v1/jobs/{job_id}/retry", key, json={})
        assert (code, "only what failed in an ended job" in problem["detail"]) == (422, True)

    on_api(scenario, valkey, tmp_path, sim)


def test_every_route_is_in_the_tables_here(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        _, schema, _ = await api.ask("GET", "/openapi.json")
        routes = {
            (method.upper(), re.sub(r"\{\w+_id\}", "{id}", path))
            for path, methods in schema["paths"].items()
            for method in methods
        }
        assert routes - {("GET", path) for path in OPEN} == set(ROUTES)

    on_api(scenario, valkey, tmp_path, sim)


def test_without_a_key_of_ours_nothing_is_answered(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        revoked = await api.key()
        assert await _statuses(api, revoked, ROUTES[1:2]) == {200}
        keys = Keys(api.fleet.runtime.link, NAMESPACE)
        await keys.revoke((await keys.all())[0].key_id)
        wrong: list[dict[str, str]] = [
            {},
            {"Authorization": f"Bearer {revoked}"},
            {"Authorization": "Bearer flk_" + "x" * 43},
            {"Authorization": f"Basic {await api.key()}"},
            {"Authorization": "Bearer "},
            {"Authorization": "Bearer " + "flk_" + "y" * 4_000},
        ]
        for headers in wrong:
            for method, path in ROUTES:
                for body in (None, b"{", DEEP):
                    status, problem, told = await api.ask(method, path.format(id="j1"), headers=headers, data=body)
                    assert (status, told["WWW-Authenticate"]) == (401, "Bearer"), (path, headers)
                    if path.startswith(OPENAI):
                        assert problem["error"]["code"] == "invalid_api_key"
                        assert told["x-request-id"].startswith("req_")
                    else:
                        assert (problem["status"], told["Content-Type"]) == (401, "application/problem+json")

    on_api(scenario, valkey, tmp_path, sim)


def test_what_is_anothers_does_not_exist(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        tenants = ("acme", "default", "acme-2")
        keys = {tenant: await api.key(tenant, "admin") for tenant in tenants}
        ids: dict[str, dict[str, str]] = {}
        for tenant in tenants:
            job = (await api.ask("POST", "/v1/jobs", keys[tenant], json=JOB))[1]["id"]
            file = await api.upload(keys[tenant], REQUESTS, "requests.jsonl", "batch")
            asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch = (await api.ask("POST", "/v1/batches", keys[tenant], json=asked))[1]["id"]
            begun = {"model": "nano", "input": "x", "background": True}
            response = (await api.ask("POST", "/v1/responses", keys[tenant], json=begun))[1]["id"]
            ids[tenant] = {"jobs": job, "files": file, "batches": batch, "responses": response}
        replies = [f"{its['responses'].removeprefix('resp_')}/reply" for its in ids.values()]

        async def sent() -> bool:
            found = [await api.fleet.runtime.store.fields(reply, "sends") for reply in replies]
            return found == [["1"]] * len(replies)

        await eventually(sent, "the wake-ups of the replies to be counted")
        before, disk = await stored(api), on_disk(tmp_path)
        for asking in tenants:
            for owner in tenants:
                if asking != owner:
                    for method, path in OF_ONE:
                        id_ = ids[owner][path.split("/")[2]]
                        status, problem, _ = await api.ask(method, path.format(id=id_), keys[asking])
                        told = problem["error"]["message"] if path.startswith(OPENAI) else problem["detail"]
                        assert (status, told.startswith(("There is no ", "Response with id")), id_ in told) == (
                            404,
                            True,
                            True,
                        ), path
                    # Nor can it be named as the input of something else.
                    named = {"input_file_id": ids[owner]["files"], "endpoint": "/v1/chat/completions"}
                    batch = named | {"completion_window": "24h"}
                    assert (await api.ask("POST", "/v1/batches", keys[asking], json=batch))[0] == 400
                    follows = {"model": "nano", "input": "x", "previous_response_id": ids[owner]["responses"]}
                    assert (await api.ask("POST", "/v1/responses", keys[asking], json=follows))[0] == 400
                    uploaded = JOB | {"items": {"file": ids[owner]["files"]}}
                    assert (await api.ask("POST", "/v1/jobs", keys[asking], json=uploaded))[0] == 422
        assert (await stored(api), on_disk(tmp_path)) == (before, disk)
        for tenant in tenants:
            _, page, _ = await api.ask("GET", "/v1/jobs", keys[tenant])
            assert [tenant_of(one["id"]) for one in page["jobs"]] == [tenant] * 2
            for kind in ("files", "batches"):
                _, listed, _ = await api.ask("GET", f"/v1/{kind}", keys[tenant])
                assert [one["id"] for one in listed["data"]] == [ids[tenant][kind]]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_scope_lets_do_what_it_says_and_no_more(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        reads, submits = await api.key("default", "read"), await api.key("default", "submit")
        writing = [route for route in ROUTES if route[0] != "GET"]
        reading = [route for route in ROUTES if route[0] == "GET" and route[1] != "/metrics"]
        assert await _statuses(api, reads, writing) == {403}
        assert await _statuses(api, submits, reading) == {403}
        assert await _statuses(api, reads, [("GET", "/metrics")]) == {403}
        assert await _statuses(api, await api.key("default", "admin"), [("GET", "/metrics"), ("GET", "/v1/jobs")]) == {
            200
        }

    on_api(scenario, valkey, tmp_path, sim)


def test_a_fleet_without_keys_serves_this_machine_and_no_page_of_a_browser(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        assert (await api.ask("POST", "/v1/jobs", json=JOB))[0] == 202
        for headers in (
            {"Host": "evil.example"},
            {"Host": "x{.evil.example"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"X-Forwarded-For": "203.0.113.7"},
            {"Via": "1.1 proxy"},
        ):
            assert (await api.ask("GET", "/v1/jobs", headers=headers))[0] == 401, headers
        assert (await api.ask("GET", "/v1/jobs", headers={"Origin": api.url}))[0] == 200
        await api.key()
        assert (await api.ask("GET", "/v1/jobs"))[0] == 401, "from the first key on"
        keys = Keys(api.fleet.runtime.link, NAMESPACE)
        for one in await keys.all():
            await keys.revoke(one.key_id)
        assert (await api.ask("GET", "/v1/jobs"))[0] == 401, "who revokes the last one opens nothing"

    on_api(scenario, valkey, tmp_path, sim)


def test_where_others_can_reach_it_nobody_is_let_in_without_a_key(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        assert (await api.ask("GET", "/v1/jobs"))[0] == 401

    on_api(scenario, valkey, tmp_path, sim, loopback=False)


def test_the_same_key_gives_the_same_job_and_another_body_a_conflict(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        keys = {tenant: await api.key(tenant) for tenant in ("acme", "other")}

        async def submit(tenant: str, body: Any = JOB, once: str = "once") -> tuple[int, Any]:
            status, answer, _ = await api.ask(
                "POST", "/v1/jobs", keys[tenant], json=body, headers={"Idempotency-Key": once}
            )
            return status, answer

        answers = await asyncio.gather(*(submit("acme") for _ in range(20)))
        assert {(status, answer["id"]) for status, answer in answers} == {(202, answers[0][1]["id"])}
        assert len((await api.ask("GET", "/v1/jobs", keys["acme"]))[1]["jobs"]) == 1
        status, problem = await submit("acme", JOB | {"name": "another"})
        assert (status, "Idempotency-Key" in problem["detail"]) == (409, True)
        assert (await submit("other"))[1]["id"] != answers[0][1]["id"], "keys are a tenant's own"
        assert (await submit("acme", once="twice"))[1]["id"] != answers[0][1]["id"]
        assert len(list((tmp_path / "blobs").iterdir())) == 3, (
            "what was packed for a job that was there already is gone"
        )

    on_api(scenario, valkey, tmp_path, sim)


def test_jobs_come_in_pages_newest_first(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        ids = [(await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"] for _ in range(5)]
        seen: list[str] = []
        path: str | None = "/v1/jobs?limit=2"
        while path is not None:
            _, page, _ = await api.ask("GET", path, key)
            seen += [one["id"] for one in page["jobs"]]
            path = f"/v1/jobs?limit=2&cursor={page['next']}" if page["next"] else None
        assert seen == ids[::-1]
        # Those that were accepted in the same moment are told apart by their ids.
        await api.fleet.runtime.link.execute("ZADD", "fleet:jobs:default", *(x for id_ in ids for x in (1.5, id_)))
        seen, path = [], "/v1/jobs?limit=2"
        while path is not None:
            _, page, _ = await api.ask("GET", path, key)
            seen += [one["id"] for one in page["jobs"]]
            path = f"/v1/jobs?limit=2&cursor={page['next']}" if page["next"] else None
        assert seen == sorted(ids, reverse=True)
        for cursor in ("xyz", base64.urlsafe_b64encode(b"NaN").decode(), base64.urlsafe_b64encode(b'"x"').decode()):
            assert (await api.ask("GET", f"/v1/jobs?cursor={cursor}", key))[0] == 400

    on_api(scenario, valkey, tmp_path, sim)


def _with(**fields: Any) -> dict[str, Any]:
    return JOB | {"steps": [JOB["steps"][0] | fields]}


DEEP = b'{"name": "x", "items": [' + b"[" * 100_000 + b"]" * 100_000 + b'], "steps": []}'
REFUSED: list[tuple[str, bytes, int]] = [
    ("no JSON", b"{", 400),
    ("no number", b'{"name": NaN}', 400),
    ("a number too large", json.dumps(JOB).replace("50", "1e999").encode(), 400),
    ("a number too long", b'{"budget_usd": 1' + b"0" * 5_000 + b"}", 400),
    ("half a character", json.dumps(JOB | {"name": "\ud800"}).encode(), 400),
    ("more than anybody has", json.dumps(JOB | {"budget_usd": "1e999999999"}).encode(), 422),
    ("a schema that takes for ever", json.dumps(_with(output={"type": [*range(9)]})).encode(), 422),
    ("a pattern that cannot be used", json.dumps(_with(output={"pattern": "a{4294967296}"})).encode(), 422),
    ("a template without an end", json.dumps(_with(prompt="{{ " + "1+" * 20_000 + "1 }}")).encode(), 422),
    ("no UTF-8", b'{"name": "\xff"}', 400),
    ("too deep", DEEP, 400),
    ("deeper than we go", b'{"name": "x", "items": [' + b"[" * 80 + b"]" * 80 + b'], "steps": []}', 400),
    ("too large", b'"' + b"x" * 10_000_001 + b'"', 413),
    ("a file of this machine", json.dumps(JOB | {"items": {"path": "/etc/passwd"}}).encode(), 422),
    ("a file that nobody uploaded", json.dumps(JOB | {"items": {"file": "file-" + "0" * 27}}).encode(), 422),
    ("a path as a file", json.dumps(JOB | {"items": {"file": "../../etc/shadow"}}).encode(), 422),
    ("a folder beside a file", json.dumps(JOB | {"items": {"file": "file-1", "path": "/etc"}}).encode(), 422),
    ("a folder of this machine", json.dumps(JOB | {"items": {"files": {"root": "/etc"}}}).encode(), 422),
    ("an unknown key", json.dumps(JOB | {"itmes": []}).encode(), 422),
    ("an unknown tier", json.dumps(JOB | {"steps": [JOB["steps"][0] | {"tier": "nanno"}]}).encode(), 422),
    ("no budget", json.dumps(JOB | {"budget_usd": -1}).encode(), 422),
]


@pytest.mark.parametrize(
    ("body", "status"), [(body, status) for _, body, status in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_cannot_be_a_job_is_refused_and_leaves_nothing(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, body: bytes, status: int
) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        before = await stored(api)
        headers = {"Content-Type": "application/json", "Idempotency-Key": "once"}
        code, problem, told = await api.ask("POST", "/v1/jobs", key, data=io.BytesIO(body), headers=headers)
        assert (code, problem["status"], told["Content-Type"]) == (status, status, "application/problem+json")
        assert "passwd" not in json.dumps(problem)
        assert await stored(api) == before
        assert not on_disk(tmp_path)

    on_api(scenario, valkey, tmp_path, sim)


async def _statuses(api: Api, key: str, routes: list[tuple[str, str]]) -> set[int]:
    return {(await api.ask(method, path.format(id="j1"), key))[0] for method, path in routes}
