"""The client without a server: what it sends, where it looks for a fleet, and models from outcomes."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, field_validator

from fleet.api.bodies import MAX_BODY_BYTES as TAKEN_BYTES
from fleet.errors import BadInputError, MapError
from fleet.jobs import JobSpec, Outcome
from fleet.providers.structured import is_strict
from fleet.remote.address import address
from fleet.remote.blocking import run
from fleet.remote.events import events_in
from fleet.remote.mapping import models, output_schema
from fleet.remote.specs import MAX_BODY_BYTES, body_of
from fleet.views import Counts, JobView

ROOT = Path(__file__).resolve().parents[2]
STEP = {"id": "a", "each": "items", "prompt": "{{ item }}"}


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    """Barks."""

    kind: Literal["dog"]
    name: str


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind", description="Its pet.")]
    first: Dog = Field(description="The first dog.")
    born: datetime.date | None = None
    friends: list[Owner] = []
    default: str = "a field may be called like a keyword"


class Words(BaseModel):
    counts: dict[str, int]


def test_a_model_becomes_a_schema_that_vendors_enforce() -> None:
    schema = output_schema(Owner)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert is_strict(schema)
    assert not is_strict(Owner.model_json_schema())
    assert "oneOf" not in json.dumps(schema)
    assert set(schema["$defs"]["Owner"]["properties"]) == set(Owner.model_fields)
    assert "The first dog." in json.dumps(schema)
    whole = {"pet": {"kind": "cat", "lives": 3}, "first": {"kind": "dog", "name": "Rex"}, "born": None, "friends": []}
    answer = whole | {"default": "x", "friends": [whole | {"default": "y"}]}
    jsonschema.validate(answer, schema)
    assert Owner.model_validate(answer).friends[0].pet == Cat(kind="cat", lives=3)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer | {"more": 1}, schema)


def test_a_model_that_vendors_cannot_enforce_keeps_its_own_schema() -> None:
    assert output_schema(Words) == Words.model_json_schema()


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("not even")
        return value


def test_models_that_could_not_be_made_are_named_and_the_others_are_kept() -> None:
    counts = Counts(total=4, waiting=0, running=0, done=3, failed=1)
    view = JobView(
        id="j1", name="x", status="failed", simulated=True, counts=counts, cost_usd=0, budget_usd=None,
        error="cut short: the budget", result=None, created_at=0, finished_at=1,
    )  # fmt: skip
    outcomes = [
        Outcome(step="map", status="ok", output={"number": 2}),
        Outcome(step="map", status="ok", output={"number": 31415}),
        Outcome(step="map", status="failed", error="the answer was empty"),
        Outcome(step="map", status="ok", output={"number": 4}),
    ]
    assert models("j1", view, [1, 2], [outcomes[0], outcomes[3]], Even) == [Even(number=2), Even(number=4)]
    with pytest.raises(MapError) as failed:
        models("j1", view, [1, 2, 3, 4, 5], outcomes, Even)
    assert failed.value.results == [Even(number=2), None, None, Even(number=4), None]
    assert [failure.index for failure in failed.value.failures] == [1, 2, 4]
    text = str(failed.value)
    assert text.startswith("3 of 5 items have no result: item 1: number does not fit Even: ")
    for part in ("item 2: the answer was empty", "cut short", "j1"):
        assert part in text
    assert "31415" not in text


def test_a_mapping_is_sent_as_it_is() -> None:
    spec = {
        "name": "é",
        "items": [datetime.date(2026, 1, 2), Cat(kind="cat")],
        "budget_usd": Decimal("1.10"),
        "later": 1,
    }
    assert json.loads(body_of(spec)) == {
        "name": "é",
        "items": ["2026-01-02", {"kind": "cat", "lives": 9}],
        "budget_usd": "1.10",
        "later": 1,
    }
    for uploaded in ({"name": "x", "items": {"file": "file-1"}}, {"name": "x"}):
        assert json.loads(body_of(uploaded)) == uploaded
    for wrong in (float("nan"), object(), {1, 2}, "\ud800"):
        with pytest.raises(BadInputError, match="cannot be written as JSON"):
            body_of({"name": "x", "items": [wrong]})


def test_a_file_is_sent_as_the_job_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n3\n4,5\n")
    (tmp_path / "job.yaml").write_text(
        json.dumps({"name": "x", "items": {"path": "rows.csv"}, "steps": [STEP], "budget_usd": 1})
    )
    with caplog.at_level(logging.WARNING):
        given = json.loads(body_of(tmp_path / "job.yaml"))
    assert given["items"] == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]
    assert "1 inputs cannot be items" in caplog.text
    assert JobSpec.model_validate(given).steps[0].prompt == "{{ item }}"
    assert given.keys() == {"name", "items", "steps", "budget_usd"}
    (tmp_path / "job.yaml").write_text(json.dumps({"name": "x", "items": {"file": "file-1"}, "steps": [STEP]}))
    assert json.loads(body_of(tmp_path / "job.yaml"))["items"] == {"file": "file-1"}


def test_what_cannot_go_over_http_is_refused_here(tmp_path: Path) -> None:
    assert MAX_BODY_BYTES == TAKEN_BYTES
    (tmp_path / "big.txt").write_text("x" * 600_000)
    for number in range(18):
        (tmp_path / f"big{number}.txt").write_text("x" * 600_000)
    for items, reason in (
        ({"images": {"root": str(tmp_path)}}, "Pictures"),
        ({"files": {"root": str(tmp_path)}}, "over 10,000,000 bytes"),
        ({"files": {"root": str(tmp_path), "include": ["*.py"]}}, "none that can be used"),
        ({"path": str(tmp_path / "no.jsonl")}, "does not exist"),
        ({"paht": "x"}, "did you mean"),
        (["x" * 10_000_000], "upload them"),
    ):
        with pytest.raises(BadInputError, match=reason):
            body_of({"name": "x", "items": items, "steps": [STEP]})
    with pytest.raises(BadInputError, match="cannot be read"):
        body_of("no.yaml")


def test_where_a_fleet_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLEET_API_URL", "FLEET_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLEET_STATE", str(tmp_path))
    with pytest.raises(BadInputError, match="fleet up"):
        address(None, None)
    assert address("http://127.0.0.1:1/", None) == ("http://127.0.0.1:1", {"User-Agent": "tierfleet"})
    monkeypatch.setenv("FLEET_API_URL", "https://fleet.example/below")
    monkeypatch.setenv("FLEET_API_KEY", "flk_a")
    url, headers = address(None, None)
    assert (url, headers["Authorization"]) == ("https://fleet.example/below", "Bearer flk_a")
    assert address(None, "flk_b")[1]["Authorization"] == "Bearer flk_b"
    for wrong in ("ftp://x", "x:1", "http://", "http://u:secret@x", "http://x?a=1", "http://x:a"):
        with pytest.raises(BadInputError) as refused:
            address(wrong, None)
        assert "secret" not in str(refused.value)
    for wrong in ("flk_a\r\nX: 1", "flk ä", ""):
        with pytest.raises(BadInputError, match="characters"):
            address(None, wrong)


def test_a_stream_is_read_as_the_standard_says() -> None:
    async def lines() -> AsyncIterator[bytes]:
        for line in (
            b": hello",
            b"",
            b"id:1-0",
            b"event: a",
            b'data: {"x":',
            b"data: 1}",
            b"retry: 5",
            b"",
            b"id: 2-0",
            b"",
            b"data: {}",
            b"",
        ):
            yield line

    async def read() -> list[Any]:
        return [one async for one in events_in(lines()) if one is not None]

    first, second = run(read())
    assert (first.id, first.kind, first.data, first.status) == ("1-0", "a", {"x": 1}, None)
    assert (second.id, second.kind, second.data) == ("2-0", "message", {})


def test_a_coroutine_that_would_wait_for_a_loop_is_told_as_a_defect() -> None:
    with pytest.raises(RuntimeError, match="event loop"):
        run(asyncio.sleep(1))


def test_errors_cost_no_http_library() -> None:
    code = "; ".join(
        [
            "import sys, fleet.errors",
            "assert not {'httpx2', 'pydantic', 'redis'} & sys.modules.keys()",
            "fleet.Client",
            "assert not {'celery', 'fastapi', 'openai'} & sys.modules.keys()",
            "fleet.clint",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.rstrip().endswith("AttributeError: module 'fleet' has no attribute 'clint'"), done.stderr
