"""Jobs in signed envelopes: which are taken, which are refused, and that nobody is told what was in one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.audit import Audit
from fleet.errors import BadInputError, MessageRefusedError
from fleet.intake import Intake
from fleet.keys import Keys
from fleet.runtime import NAMESPACE
from tests.support.api import JOB, Api, on_api
from tests.support.envelopes import enveloped
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

SECRET = "what the customer wrote"
PRIVATE = JOB | {"name": SECRET, "items": [SECRET]}


def on_intake(
    scenario: Callable[[Api, Intake, Keys, str, str], Awaitable[None]],
    valkey: Valkey,
    folder: Path,
    sim: RunningSim,
    **fields: Any,
) -> None:
    """Run a scenario with a signing key of the default tenant."""

    async def run(api: Api) -> None:
        keys = Keys(api.fleet.runtime.link, NAMESPACE)
        principal, key = await keys.create("default", ["sign"], "orders", 0.0)
        intake = Intake(api.fleet.client, keys, Audit(api.fleet.runtime.link, NAMESPACE))
        await scenario(api, intake, keys, principal.key_id, key)

    on_api(run, valkey, folder, sim, **fields)


def test_a_signed_job_is_taken_once_and_is_the_one_that_http_knows(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api, intake: Intake, _: Keys, key_id: str, key: str) -> None:
        job_id = await intake.take(enveloped(key_id, key, PRIVATE))
        later = enveloped(key_id, key, PRIVATE, issued_at=enveloped("", "", "")["issued_at"] - 3_000)
        assert await intake.take(later | {"beside": "ignored"}) == job_id, "signed another time, the same job"
        caller = await api.key()
        headers = {"Idempotency-Key": "once"}
        assert (await api.ask("POST", "/v1/jobs", caller, json=PRIVATE, headers=headers))[1]["id"] == job_id
        assert len(await api.fleet.client.latest(10)) == 1
        assert (await api.fleet.run(job_id)).status == "completed"
        other = await intake.take(enveloped(key_id, key, PRIVATE, nonce="twice"))
        assert other != job_id
        with pytest.raises(MessageRefusedError):
            await intake.take(enveloped(key_id, key, "no job"))
        notes = await Audit(api.fleet.runtime.link, NAMESPACE).latest("default", 10)
        assert [(note.target, note.outcome) for note in notes if note.actor == key_id] == [
            ("", "refused"),
            (other, "accepted"),
            (job_id, "accepted"),
            (job_id, "accepted"),
        ]

    on_intake(scenario, valkey, tmp_path, sim)


def test_everything_else_is_refused_without_a_word_of_it(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api, intake: Intake, keys: Keys, key_id: str, key: str) -> None:
        good = enveloped(key_id, key, PRIVATE)
        reader, readers_key = await keys.create("default", ["submit", "read"], "", 0.0)
        gone, gone_key = await keys.create("default", ["sign"], "", 0.0)
        await keys.revoke(gone.key_id)
        now = good["issued_at"]
        refused: dict[str, Any] = {
            "nothing": None,
            "a text": SECRET,
            "no fields": {},
            "no signature": {name: value for name, value in good.items() if name != "signature"},
            "another job": good | {"job": good["job"].replace("Write", "Wrote")},
            "another nonce": good | {"nonce": "x"},
            "another time": good | {"issued_at": now + 1},
            "moved line": good | {"tenant": "default\n1", "issued_at": now},
            "wrong key": enveloped(key_id, "flk_x", PRIVATE),
            "unknown key": enveloped("key_x", key, PRIVATE),
            "revoked": enveloped(gone.key_id, gone_key, PRIVATE),
            "a key for the API": enveloped(reader.key_id, readers_key, PRIVATE),
            "another tenant": enveloped(key_id, key, PRIVATE, tenant="acme"),
            "no tenant": enveloped(key_id, key, PRIVATE, tenant="A.B"),
            "stale": enveloped(key_id, key, PRIVATE, issued_at=now - 3_700),
            "ahead": enveloped(key_id, key, PRIVATE, issued_at=now + 400),
            "no job": enveloped(key_id, key, [SECRET]),
            "no JSON": enveloped(key_id, key, "{" + SECRET),
            "no number": enveloped(key_id, key, '{"name": NaN}'),
            "half a character": enveloped(key_id, key, PRIVATE | {"items": ["\ud800"]}),
            "too deep": enveloped(key_id, key, "[" * 100_000),
            "a file": enveloped(key_id, key, PRIVATE | {"items": {"path": "/etc/passwd"}}),
            "an unknown tier": enveloped(key_id, key, PRIVATE | {"steps": [JOB["steps"][0] | {"tier": SECRET}]}),
        }
        for what, given in refused.items():
            with pytest.raises(MessageRefusedError) as error:
                await intake.take(given)
            assert SECRET not in str(error.value), what
            assert error.value.__cause__ is None, what
            assert key not in str(error.value), what
        assert await api.fleet.client.latest(10) == []
        job_id = await intake.take(good)
        with pytest.raises(MessageRefusedError, match="KeyReused"):
            await intake.take(enveloped(key_id, key, PRIVATE | {"name": "another"}))
        assert [id_ for id_, _ in await api.fleet.client.latest(10)] == [job_id]
        assert await intake.take(enveloped(key_id, key, PRIVATE, nonce="late", issued_at=now - 3_500))
        assert await intake.take(enveloped(key_id, key, PRIVATE, nonce="early", issued_at=now + 200))

    on_intake(scenario, valkey, tmp_path, sim)


def test_a_key_to_sign_with_opens_nothing_at_the_api(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api, intake: Intake, keys: Keys, key_id: str, key: str) -> None:
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/metrics")):
            assert (await api.ask(method, path, key, json=JOB if method == "POST" else None))[0] == 403
        assert await intake.take(enveloped(key_id, key, JOB))
        assert [one.key_id for one in await keys.all()] == [key_id]
        admin, _ = await keys.create("default", ["admin"], "", 0.0)
        assert await keys.signer(admin.key_id) is None
        for scopes in (["sign", "submit"], ["sign", "admin"]):
            with pytest.raises(BadInputError, match="no other scope"):
                await keys.create("default", scopes, "", 0.0)  # type: ignore[arg-type]

    on_intake(scenario, valkey, tmp_path, sim)


def test_a_tenant_that_has_all_it_may_have_is_refused_and_may_send_it_again(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(api: Api, intake: Intake, _: Keys, key_id: str, key: str) -> None:
        job_id = await intake.take(enveloped(key_id, key, PRIVATE))
        second = enveloped(key_id, key, PRIVATE, nonce="twice")
        with pytest.raises(MessageRefusedError, match="same nonce"):
            await intake.take(second)
        notes = await Audit(api.fleet.runtime.link, NAMESPACE).latest("default", 1)
        assert [(note.target, note.outcome) for note in notes] == [("", "refused")]
        await api.fleet.run(job_id)
        assert await intake.take(second) != job_id

    on_intake(scenario, valkey, tmp_path, sim, tenants={"default": {"open_jobs": 1}})
