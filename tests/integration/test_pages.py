"""The pages over real HTTP: who may see them, under which headers, and what of somebody else's gets into them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from fastapi.routing import APIRoute

from fleet.api import live
from fleet.api.rendering import POLICY, PageRoute
from fleet.api.server import build
from fleet.audit import Audit
from fleet.errors import ProviderError
from fleet.jobs import JobStatus
from fleet.keys import Keys
from fleet.providers.base import Completion, ModelRequest, Started
from fleet.runtime import NAMESPACE
from fleet.sessions import LIFE_S
from tests.support.api import JOB, Api, on_api, served, stored
from tests.support.bench import Bench, bench, config
from tests.support.hostile import ELEMENT, EMOJI, MARKDOWN, NAME, findings, words
from tests.support.scripted import scripted
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

#: Every route for people: those of a job, and those of a tenant.
OF_ONE = [
    f"/jobs/{{id}}{rest}" for rest in ("", "/live", "/results.jsonl", "/ledger.jsonl", "/receipt.json", "/result.md")
]
OF_A_TENANT = ["/jobs", "/", "/signin"]
#: For whoever is signed in, the same for all of them.
SCRIPT = "/page.js"
FORMS = ["/signin", "/signout"]
COOKIE = "fleet_session"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REVIEW = {"prompt": "Write it up.", "rounds": 0, "max_output_tokens": 2_000}


async def get(api: Api, path: str, **options: Any) -> tuple[int, str, Mapping[str, str]]:
    """(status, text, headers), without following where it leads."""
    return await api.ask("GET", path, allow_redirects=False, **options)


async def signed_in(api: Api, key: str, **headers: str) -> dict[str, str]:
    """The headers of a browser that has signed in with this key."""
    status, _, told = await api.ask(
        "POST", "/signin", data={"key": key, "back": "/jobs"}, headers=headers, allow_redirects=False
    )
    assert (status, told["Location"]) == (303, "/jobs")
    return {"Cookie": told["Set-Cookie"].partition(";")[0]}


def session_of(browser: Mapping[str, str]) -> str:
    return browser["Cookie"].partition("=")[2]


def test_every_page_is_in_the_tables_here_and_none_in_the_openapi(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        app = build(api.fleet.runtime, loopback=True)
        all_ = [one for route in app.routes for one in getattr(route, "original_router", app.router).routes]
        routes = [route for route in all_ if isinstance(route, APIRoute)]
        pages = [route for route in routes if isinstance(route, PageRoute)]
        found = {(method, route.path.replace("{job_id}", "{id}")) for route in pages for method in route.methods or ()}
        assert found == {("GET", path) for path in (*OF_ONE, *OF_A_TENANT, SCRIPT)} | {("POST", path) for path in FORMS}
        assert not any(route.include_in_schema for route in pages)
        _, schema, _ = await api.ask("GET", "/openapi.json")
        assert {route.path for route in routes if route.include_in_schema} == set(schema["paths"]), (
            "no route is in neither"
        )

    on_api(scenario, valkey, tmp_path, sim)


def test_without_a_key_there_is_a_form_to_sign_in_and_nothing_else(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        job_id = (await api.ask("POST", "/v1/jobs", await api.key(), json=JOB))[1]["id"]
        wrong: list[dict[str, str]] = [
            {},
            {"Authorization": "Bearer flk_" + "x" * 43},
            {"Cookie": f"{COOKIE}=fls_" + "x" * 43},
            {"Cookie": f"{COOKIE}=" + "y" * 4_000},
            {"Cookie": f"{COOKIE}={await api.key()}"},
            {"Cookie": f"__Host-{COOKIE}=fls_" + "x" * 43, "X-Forwarded-Proto": "https"},
        ]
        for headers in wrong:
            for path in (*OF_ONE, *OF_A_TENANT, SCRIPT):
                status, text, told = await get(api, path.format(id=job_id), headers=headers)
                assert (status, told["WWW-Authenticate"]) == (401, "Bearer"), (path, headers)
                assert '<form class="sign-in" method="post" action="/signin">' in text
                assert "accepted" not in text
                assert {name: told[name] for name in HEADERS} == HEADERS
        assert "no key" in (await api.ask("POST", "/signin", data={"key": "flk_" + "x" * 43}))[1]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_key_begins_a_session_that_opens_the_pages_and_nothing_of_the_api(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key("acme", "admin")
        job_id = (await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"]
        job = await api.fleet.run(job_id)
        assert job.status is JobStatus.COMPLETED
        browser = await signed_in(api, key)
        assert key not in browser["Cookie"]
        status, _, told = await get(api, SCRIPT, headers=browser)
        assert (status, told["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        for path in (*OF_A_TENANT, *OF_ONE):
            status, text, told = await get(api, path.format(id=job_id), headers=browser)
            odd = {"/jobs/{id}/live": 204, "/jobs/{id}/result.md": 404, "/": 303, "/signin": 303}
            assert status == odd.get(path, 200), path
            assert {name: told[name] for name in HEADERS if name != "Content-Security-Policy"} == {
                name: value for name, value in HEADERS.items() if name != "Content-Security-Policy"
            }
            if "text/html" in told.get("Content-Type", ""):
                assert told["Content-Security-Policy"] == POLICY
                assert not findings(text)
            elif status == 200:
                assert told["Content-Disposition"].startswith('attachment; filename="acme.j')
                assert "sandbox" in told["Content-Security-Policy"]
        # The same cookie is nothing to the API, whoever sends it along.
        before = await stored(api)
        for method, path in (
            ("GET", "/v1/jobs"),
            ("POST", "/v1/jobs"),
            ("POST", f"/v1/jobs/{job_id}/cancel"),
            ("GET", "/metrics"),
        ):
            status, problem, _ = await api.ask(method, path, headers=browser, json=JOB)
            assert (status, problem["status"]) == (401, 401)
        assert await stored(api) == before
        note = (await Audit(api.fleet.runtime.link, NAMESPACE).latest("acme", 1))[0]
        assert (note.action, note.outcome) == ("POST /signin", "303")

    on_api(scenario, valkey, tmp_path, sim)


def test_a_session_ends_with_its_key_with_its_time_and_when_its_owner_says_so(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        key, others = await api.key(), await api.key()
        browser, other = await signed_in(api, key), await signed_in(api, others)
        link = api.fleet.runtime.link
        names = await link.execute("KEYS", "fleet:session:*")
        assert len(names) == 2
        for name in names:
            assert LIFE_S - 60 < await link.execute("TTL", name) <= LIFE_S
        kept = b"".join([*names, *[await link.execute("GET", name) for name in names]]).decode()
        assert key not in kept
        assert session_of(browser) not in kept, "who reads the store has no session by it"
        status, _, told = await api.ask("POST", "/signout", headers=other, allow_redirects=False)
        assert (status, told["Location"]) == (303, "/jobs")
        assert "Max-Age=0" in told["Set-Cookie"]
        assert (await get(api, "/jobs", headers=other))[0] == 401, "although the browser shows it again"
        assert (await get(api, "/jobs", headers=browser))[0] == 200
        keys = Keys(link, NAMESPACE)
        await keys.revoke((await keys.find(key)).key_id)  # type: ignore[union-attr]
        assert (await get(api, "/jobs", headers=browser))[0] == 401, "from that moment on"

    on_api(scenario, valkey, tmp_path, sim)


def test_a_revoked_key_ends_the_stream_of_a_page(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        job_id = (await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"]
        browser = await signed_in(api, key)
        async with api.session.get(f"{api.url}/jobs/{job_id}/live", headers=browser) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            assert await answer.content.readline() == b"event: state\n"
            keys = Keys(api.fleet.runtime.link, NAMESPACE)
            await keys.revoke((await keys.find(key)).key_id)  # type: ignore[union-attr]
            rest = await asyncio.wait_for(answer.content.read(), 10 * live.KEEP_ALIVE_S)
        assert b"event: end" not in rest

    on_api(scenario, valkey, tmp_path, sim)


def test_the_cookie_is_for_this_host_alone_and_for_no_script(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        for headers, name, more in (
            ({}, COOKIE, set()),
            ({"X-Forwarded-Proto": "https"}, f"__Host-{COOKIE}", {"Secure"}),
        ):
            _, _, told = await api.ask("POST", "/signin", data={"key": key}, headers=headers, allow_redirects=False)
            cookie, *attributes = told["Set-Cookie"].split("; ")
            assert cookie.startswith(f"{name}=fls_")
            assert set(attributes) == {"HttpOnly", f"Max-Age={LIFE_S}", "Path=/", "SameSite=strict"} | more
            assert (await get(api, "/jobs", headers=headers | {"Cookie": cookie}))[0] == 200

    on_api(scenario, valkey, tmp_path, sim)


def test_signing_in_takes_a_key_that_may_read_from_a_form_of_ours_and_leads_to_a_page_of_ours(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        for refused in ("", "flk_", "x" * 200, await api.key("default", "submit"), await api.key("default", "sign")):
            status, text, told = await api.ask("POST", "/signin", data={"key": refused})
            assert (status, "Set-Cookie" in told) == (401, False)
            assert not refused or refused not in text
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Origin": api.url},
            {"Origin": "http://evil.example"},
        ):
            for path in FORMS:
                status, _, told = await api.ask("POST", path, data={"key": key}, headers=headers, allow_redirects=False)
                assert (status, "Set-Cookie" in told) == (403, False), (path, headers)
        for headers in ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, {"Origin": "null"}, {"Origin": api.url}):
            await signed_in(api, key, **headers)
        job_id = "default.j0199c2f4a11d03be7"
        for back, leads in (
            (f"/jobs/{job_id}", f"/jobs/{job_id}"),
            ("//evil.example", "/jobs"),
            ("https://evil.example/jobs", "/jobs"),
            ("/jobs/x\r\nSet-Cookie: a=b", "/jobs"),
            ("/jobs/../v1", "/jobs"),
            ("/jobs\\evil", "/jobs"),
        ):
            _, _, told = await api.ask("POST", "/signin", data={"key": key, "back": back}, allow_redirects=False)
            assert told["Location"] == leads
        assert (await api.ask("POST", "/signin", data={"key": "x" * 5_000}))[0] == 413
        assert (await api.ask("POST", "/signin", data=b"key=%ff\xff"))[0] == 400
        assert (await api.ask("POST", "/signin", data="&".join(f"a{i}=1" for i in range(50))))[0] == 400

    on_api(scenario, valkey, tmp_path, sim)


def test_pages_of_another_tenant_do_not_exist(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        tenants = ("acme", "default", "acme-2")
        keys = {tenant: await api.key(tenant, "admin") for tenant in tenants}
        browsers = {tenant: await signed_in(api, key) for tenant, key in keys.items()}
        ids = {tenant: (await api.ask("POST", "/v1/jobs", key, json=JOB))[1]["id"] for tenant, key in keys.items()}
        before = await stored(api)
        for asking in tenants:
            for owner in tenants:
                for path in OF_ONE if asking != owner else ():
                    for options in ({"headers": browsers[asking]}, {"key": keys[asking]}):
                        status, text, _ = await get(api, path.format(id=ids[owner]), **options)
                        assert (status, "There is no job" in text) == (404, True), path
            _, text, _ = await get(api, "/jobs", headers=browsers[asking])
            assert set(re.findall(r'href="/jobs/([^"]+)"', text)) == {ids[asking]}
        assert await stored(api) == before
        for odd in ("j1", "..", "%2e%2e", "j1%00", "J1", "x" * 100, "j1%2f..%2f..", "<script>"):
            status, text, _ = await get(api, f"/jobs/{odd}", headers=browsers["acme"])
            assert status in (303, 404), odd
            assert "<script>" not in text

    on_api(scenario, valkey, tmp_path, sim)


def test_a_fleet_without_keys_shows_its_pages_to_this_machine(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        job_id = (await api.ask("POST", "/v1/jobs", json=JOB))[1]["id"]
        status, text, _ = await get(api, f"/jobs/{job_id}")
        assert (status, "Sign out" in text) == (200, False)
        for path in ("/", "/signin"):
            status, text, told = await get(api, path)
            assert (status, text, told["Location"]) == (303, "", "/jobs")
        for headers in (
            {"Host": "evil.example"},
            {"X-Forwarded-For": "203.0.113.7"},
            {"Origin": "http://evil.example"},
        ):
            assert (await get(api, f"/jobs/{job_id}", headers=headers))[0] == 401, headers
        await api.key()
        assert (await get(api, f"/jobs/{job_id}"))[0] == 401, "from the first key on"

    on_api(scenario, valkey, tmp_path, sim)


@contextlib.asynccontextmanager
async def on_script(valkey: Valkey, folder: Path, *replies: str | dict[str, Any]) -> AsyncIterator[tuple[Bench, Api]]:
    """A served bench whose provider answers from a script."""
    async with (
        scripted(*replies) as script,
        bench(valkey, folder, config(), openai_base_url=script.url, openai_api_key="k") as fleet,
        served(fleet) as api,
    ):
        yield fleet, api


def accepted(text: str) -> dict[str, Any]:
    return {"verdict": "accept", "result": text, "rework": [], "gaps": [NAME]}


def test_nothing_that_somebody_else_wrote_acts_in_a_page(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        step = {
            "id": "write",
            "each": "items",
            "tier": "nano",
            "kind": NAME,
            "prompt": "{{ item.id }}",
            "max_output_tokens": 50,
        }
        async with on_script(valkey, tmp_path, NAME, NAME, accepted(MARKDOWN)) as (fleet, api):
            asked = {"name": NAME[:200], "goal": NAME, "items": [{"id": NAME}, {"id": NAME}], "steps": [step]}
            job_id = await fleet.submit(**asked, review=REVIEW)
            for path in ("/jobs", f"/jobs/{job_id}"):
                assert not findings((await get(api, path))[1])
            assert (await fleet.run(job_id)).status is JobStatus.COMPLETED
            _, text, _ = await get(api, f"/jobs/{job_id}")
            assert not findings(text)
            assert ELEMENT in words(text), "it is shown as it was written"
            assert EMOJI in words(text)
            assert "evil.example" not in re.sub(r">[^<]*<", "><", text), "no address of theirs is in an element"

        # Without a review the outputs themselves are shown.
        async with on_script(valkey, tmp_path, NAME, NAME) as (fleet, api):
            job = await fleet.run(await fleet.submit(**asked))
            _, text, _ = await get(api, f"/jobs/{job.id}")
            assert not findings(text)
            assert ELEMENT in words(text)

        # And reasons, of failures and of the job.
        async with on_script(valkey, tmp_path) as (fleet, api):

            async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
                raise ProviderError(NAME, kind="bad_request", retryable=False)

            fleet.provider.complete = refuses  # type: ignore[method-assign]
            job = await fleet.run(await fleet.submit(**asked))
            assert job.status is JobStatus.FAILED
            _, text, _ = await get(api, f"/jobs/{job.id}")
            assert not findings(text)
            assert words(text).count(ELEMENT) >= 3

    asyncio.run(scenario())


def test_a_text_of_one_endless_line_is_cut_with_the_way_to_all_of_it(valkey: Valkey, tmp_path: Path) -> None:
    async def scenario() -> None:
        endless = "x" * 1_000_000 + "the end"
        async with on_script(valkey, tmp_path, endless, accepted(endless)) as (fleet, api):
            step = {"id": "write", "tier": "nano", "prompt": "Write.", "max_output_tokens": 50}
            job = await fleet.run(await fleet.submit(steps=[step], review=REVIEW))
            _, text, _ = await get(api, f"/jobs/{job.id}")
            assert len(text) < 100_000
            assert "of 1,000,007 characters" in words(text)
            assert f'href="/jobs/{job.id}/result.md"' in text
            _, raw, told = await get(api, f"/jobs/{job.id}/result.md")
            assert (raw, told["Content-Type"]) == (endless, "text/plain; charset=utf-8")
        async with on_script(valkey, tmp_path, endless) as (fleet, api):
            job = await fleet.run(await fleet.submit(steps=[step]))
            _, text, _ = await get(api, f"/jobs/{job.id}")
            assert len(text) < 30_000
            _, lines, _ = await get(api, f"/jobs/{job.id}/results.jsonl")
            assert json.loads(lines)["output"] == endless

    asyncio.run(scenario())


def test_ten_thousand_failures_are_counted_and_some_are_named(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        # A prompt that cannot be made: nobody is asked.
        step = {"id": "fail", "each": "items", "tier": "nano", "prompt": "{{ item.text.no }}", "max_output_tokens": 50}
        job_id = await api.fleet.submit(items=[{"id": f"item-{i}", "text": ""} for i in range(10_000)], steps=[step])
        job = await api.fleet.run(job_id)
        assert job.status is JobStatus.FAILED
        for _ in range(3):  # shards of so many jobs are counted in more than one look
            _, text, _ = await get(api, f"/jobs/{job_id}")
        assert "100 of 10,000 failed subtasks" in words(text)
        assert words(text).count("item-") == 100
        assert len(text) < 150_000
        _, lines, _ = await get(api, f"/jobs/{job_id}/results.jsonl")
        assert lines.count('"failed"') == 10_000

    on_api(scenario, valkey, tmp_path, sim)


def test_a_page_is_told_what_changes_until_the_job_has_ended(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        job_id = (await api.ask("POST", "/v1/jobs", json=JOB))[1]["id"]
        before = asyncio.all_tasks()
        pages = [asyncio.create_task(_states(api, job_id)) for _ in range(20)]
        for _ in range(3):
            released = await api.fleet.release()
            await asyncio.gather(*(api.fleet.perform(one, tier) for one, tier in released))
        assert (await api.fleet.run(job_id)).status is JobStatus.COMPLETED
        everybody = await asyncio.wait_for(asyncio.gather(*pages), 60)
        for states in everybody:
            values: dict[str, Any] = {}
            for state in states:
                assert not any(values.get(name) == value for name, value in state["values"].items()), "only what is new"
                values |= state["values"]
            assert (values["step.write.done"], values["tier.nano.done"], values["step.write.bar"]) == (
                "2",
                "2",
                [100.0, 0.0, 0.0, 0.0],
            )
            assert values["summary"].startswith("completed: 2 of 2 subtasks done, 0 failed, $")
        # What the page says is what the stream said last.
        _, text, _ = await get(api, f"/jobs/{job_id}")
        shown = dict(re.findall(r'data-live="([^"]+)">([^<]*)<', text))
        assert shown == {name: values[name] for name in shown}
        assert everybody[0][-1]["shape"] == re.findall(r'data-shape="(\w+)"', text)[0]
        assert (await get(api, f"/jobs/{job_id}/live"))[0] == 204, "a browser does not come again"

        async def alone() -> bool:
            return not asyncio.all_tasks() - before

        await eventually(alone, "the end of what served the pages")

    on_api(scenario, valkey, tmp_path, sim)


async def _states(api: Api, job_id: str) -> list[dict[str, Any]]:
    """What a page is told, to the end."""
    found = []
    async with api.session.get(f"{api.url}/jobs/{job_id}/live", timeout=aiohttp.ClientTimeout(60)) as answer:
        kind = ""
        async for line in answer.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            kind = value if name == "event" else kind
            if name == "data" and kind == "state":
                found.append(json.loads(value))
    assert kind == "end"
    return found


def test_a_page_says_what_became_of_every_kind_of_job(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        job_id = (await api.ask("POST", "/v1/jobs", json=JOB | {"budget_usd": 2.5}))[1]["id"]
        text = words((await get(api, f"/jobs/{job_id}"))[1])
        assert "The plan is being checked." in text
        assert "of $2.50" in text
        await api.ask("POST", f"/v1/jobs/{job_id}/pause")
        assert "Somebody asked for it." in words((await get(api, f"/jobs/{job_id}"))[1])
        await api.ask("POST", f"/v1/jobs/{job_id}/resume")
        await api.ask("POST", f"/v1/jobs/{job_id}/cancel")
        text = words((await get(api, f"/jobs/{job_id}"))[1])
        assert "Cancelled." in text
        assert "It ended before there was a plan." in text
        # A call in OpenAI's words is a job, too.
        asked = {"model": "nano", "messages": [{"role": "user", "content": "Write."}]}
        work = asyncio.create_task(api.fleet.work())
        status, _, told = await api.ask("POST", "/v1/chat/completions", json=asked)
        work.cancel()
        assert status == 200
        status, text, _ = await get(api, f"/jobs/{told['x-fleet-job']}")
        assert (status, findings(text)) == (200, [])

    on_api(scenario, valkey, tmp_path, sim)


def test_jobs_are_listed_in_pages(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        assert "There is no job here yet." in words((await get(api, "/jobs"))[1])
        ids = [await api.fleet.submit(items=["a"], steps=[JOB["steps"][0]]) for _ in range(55)]
        seen: list[str] = []
        path: str | None = "/jobs"
        while path is not None:
            status, text, _ = await get(api, path)
            assert status == 200
            seen += re.findall(r'class="name" href="/jobs/([^"]+)"', text)
            following = re.findall(r'rel="next" href="([^"]+)"', text)
            path = following[0] if following else None
        assert seen == ids[::-1]
        assert (await get(api, "/jobs?cursor=xyz"))[0] == 400

    on_api(scenario, valkey, tmp_path, sim)


def test_what_goes_wrong_is_a_page(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        job_id = (await api.ask("POST", "/v1/jobs", json=JOB))[1]["id"]
        status, text, told = await get(api, f"/jobs/{job_id}/result.md")
        assert (status, told["Content-Type"].partition(";")[0]) == (404, "text/html")
        assert "has no text" in words(text)
        assert {name: told[name] for name in HEADERS} == HEADERS
        status, _, told = await api.ask("POST", f"/jobs/{job_id}")
        assert (status, told["Allow"]) == (405, "GET")

    on_api(scenario, valkey, tmp_path, sim)
