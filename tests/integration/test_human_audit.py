"""`fleet audit`: a sample for people, their verdicts from a terminal or a file, each counted once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from fleet.cli import app
from fleet.errors import BadInputError, FleetError
from tests.support.bench import bench, config
from tests.support.hostile import NAME, acting
from tests.support.scripted import scripted
from tests.support.valkey import Valkey

STEP = {"id": "sort", "each": "items", "tier": "nano", "kind": "topic", "prompt": "{{ item }}", "max_tier": "nano"}
WRONG = {"reason": "it is a bug", "accept": False}
CONFIG: dict[str, Any] = {"kinds": {"topic": {"floor": 0.9}}}


@pytest.fixture
def job(valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job with four accepted outputs and a failed one; commands of this process find its fleet."""

    async def run() -> str:
        async with (
            scripted("a", NAME, "c", "d", "") as script,
            bench(valkey, tmp_path, config(**CONFIG), openai_base_url=script.url) as fleet,
        ):
            job_id = await fleet.submit(items=["a", "b", "c", "d", "e"], steps=[STEP])
            job = await fleet.run(job_id)
            outcomes = await fleet.outcomes(job)
            assert sorted(outcome.status for outcome in outcomes.values()) == ["failed", "ok", "ok", "ok", "ok"]
            return job_id

    job_id = asyncio.run(run())
    (tmp_path / "fleet.yaml").write_text(config(**CONFIG).model_dump_json())
    variables = {
        "FLEET_CONFIG": str(tmp_path / "fleet.yaml"),
        "FLEET_REDIS_URL": valkey.url,
        "FLEET_BLOBS": str(tmp_path / "blobs"),
        "FLEET_STATE": str(tmp_path / "state"),
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "COLUMNS": "100",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return job_id


def said(*words: str, typed: str | None = None) -> str:
    """What `fleet audit` writes; what it fails with is raised."""
    ran = CliRunner().invoke(app, ["audit", *words], input=typed)
    if ran.exception is not None:
        raise ran.exception
    return ran.output


def sample(job: str, share: float = 1.0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said(job, "--share", str(share), "-o", "json"))["sample"]
    return found


def test_verdicts_of_a_file_count_once_and_what_was_judged_is_not_shown_again(job: str, tmp_path: Path) -> None:
    shown = sample(job)
    assert len(shown) == 4
    assert all(one.keys() == {"subtask", "kind", "tier", "item", "output"} for one in shown)
    lines = [{"subtask": one["subtask"], "right": number < 3} for number, one in enumerate(shown)]
    file = tmp_path / "verdicts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first = json.loads(said(job, "--verdicts", str(file), "-o", "json"))
    assert first["new"] == 4
    (row,) = first["quality"]
    assert {name: row[name] for name in ("kind", "tier", "accepted", "rejected", "audited", "right")} == {
        "kind": "topic",
        "tier": "nano",
        "accepted": 4,
        "rejected": 1,
        "audited": 4,
        "right": 3,
    }
    assert (row["floor"], row["below_floor"]) == (0.9, False)
    assert 0.30 < row["low"] < 0.75 < row["high"] < 0.96
    again = json.loads(said(job, "--verdicts", str(file), "-o", "json"))
    assert (again["new"], again["quality"]) == (0, first["quality"])
    assert sample(job) == []
    assert "0 new verdicts are kept" in said(job, "--verdicts", str(file))


def test_somebody_at_a_terminal_is_asked_about_each_and_may_stop(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.cli_audit.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    output = said(job, "--share", "1", typed="y\nno\n\nquit\n")
    assert "2 new verdicts are kept" in output
    assert "4 of 4" in output
    assert not acting(output)
    output = said(job, "--share", "1", typed="yes\nyes\n")
    assert "2 new verdicts are kept" in output
    assert "75.0%" in output


def test_a_list_does_nothing_to_a_terminal(job: str) -> None:
    for output in (said(job, "--share", "1"), said(job, "--share", "1", "-o", "json")):
        assert not acting(output)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ('{"subtask": "sort/9", "right": true}', "sort/9 is no accepted output of"),
        ('{"subtask": "sort/0", "right": "yes"}', "line 1: right: Input should be a valid boolean"),
        ('\n{"subtask": "sort/0", "right": true, "by": "me"}', "line 2: by: Extra inputs are not permitted"),
        ("yes", "line 1: the line: Invalid JSON"),
        ('{"subtask": "sort/0", "right": true}\n{"subtask": "sort/0", "right": false}', "to be right and to be wrong"),
    ],
)
def test_verdicts_that_cannot_be_are_refused_whole(job: str, tmp_path: Path, lines: str, error: str) -> None:
    good = sample(job)[0]["subtask"]
    file = tmp_path / "verdicts.jsonl"
    file.write_text(lines + "\n" + json.dumps({"subtask": good, "right": True}))
    with pytest.raises(BadInputError, match=error):
        said(job, "--verdicts", str(file))
    assert len(sample(job)) == 4, "nothing was kept"


def test_what_is_not_there(job: str, tmp_path: Path) -> None:
    with pytest.raises(FleetError):
        said("no-such-job", "-o", "json")
    with pytest.raises(BadInputError, match="cannot be read"):
        said(job, "--verdicts", str(tmp_path / "nowhere"))
