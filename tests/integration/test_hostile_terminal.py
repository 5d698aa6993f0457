"""What the commands show of jobs whose every text was written by somebody who wants a terminal to do something."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet.cli import app
from fleet.errors import FleetError, ProviderError
from fleet.jobs import JobStatus
from fleet.providers.base import Completion, ModelRequest, Started
from tests.support.bench import bench, config
from tests.support.hostile import MARKDOWN, NAME, acting
from tests.support.scripted import scripted
from tests.support.valkey import Valkey

STEP = {
    "id": "write",
    "each": "items",
    "tier": "nano",
    "kind": NAME,
    "prompt": "{{ item.id }}",
    "max_output_tokens": 50,
}
#: A name that is markup to who prints it carelessly: a link to elsewhere, and a closing tag of nothing.
ASKED = {
    "name": f"[link=http://evil.example]x[/link] [/b] {NAME}"[:200],
    "goal": NAME,
    "items": [{"id": NAME}],
    "steps": [STEP],
}
#: What our own display writes to a terminal: colours, the cursor, and nothing that has a text in it.
OURS = re.compile(r"\x1b\[[?]?[0-9;]*[A-Za-z]|\r")


async def jobs(valkey: Valkey, folder: Path) -> list[str]:
    """A job that was completed with a text of theirs, and one that failed with a reason of theirs."""
    review = {"verdict": "accept", "result": MARKDOWN, "rework": [], "gaps": [NAME]}
    async with (
        scripted(NAME, review) as script,
        bench(valkey, folder, config(), openai_base_url=script.url, openai_api_key="k") as fleet,
    ):
        done = await fleet.run(await fleet.submit(**ASKED, review={"prompt": "Write.", "max_output_tokens": 2_000}))

        async def refuses(request: ModelRequest, started: Started | None = None) -> Completion:
            raise ProviderError(NAME, kind="bad_request", retryable=False)

        fleet.provider.complete = refuses  # type: ignore[method-assign]
        failed = await fleet.run(await fleet.submit(**ASKED))
        assert (done.status, failed.status) == (JobStatus.COMPLETED, JobStatus.FAILED)
        return [done.id, failed.id]


def said(*words: str) -> tuple[str, str]:
    """What `fleet jobs` writes, and with what it fails."""
    ran = CliRunner().invoke(app, ["jobs", *words])
    assert ran.exception is None or isinstance(ran.exception, FleetError), ran.exception
    return ran.output, str(ran.exception or "")


@pytest.mark.parametrize("terminal", [False, True], ids=["piped", "on a terminal"])
def test_nothing_of_theirs_acts(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    (tmp_path / "fleet.yaml").write_text(config().model_dump_json())
    variables = {
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        "FLEET_CONFIG": str(tmp_path / "fleet.yaml"),
        "FLEET_REDIS_URL": valkey.url,
        "FLEET_BLOBS": str(tmp_path / "blobs"),
        "FLEET_STATE": str(tmp_path / "state"),
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    } | ({"FORCE_COLOR": "1"} if terminal else {})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done, failed = asyncio.run(jobs(valkey, tmp_path))
    asked = [["list"], ["list", "-o", "json"]]
    for id_ in (done, failed):
        asked += [["get", id_], ["get", id_, "-o", "json"], ["results", id_]]
        asked += [["watch", id_], ["cost", id_], ["cost", id_, "-o", "json"]]
    for words in asked:
        out, error = said(*words)
        assert bool(error) == (words == ["watch", failed]), words
        assert acting(OURS.sub("", out) if terminal else out) == "", words
        assert acting(error) == "", words
        if words[0] == "results":
            outcomes = [json.loads(line) for line in out.splitlines()]
            assert [one["output"] for one in outcomes] == [NAME if words[1] == done else None], "it says the same"
            assert [one["error"] is None for one in outcomes] == [words[1] == done]
        if words[0] == "get":
            assert str(ASKED["name"])[:20] in OURS.sub("", out), "it is shown as it was written"


def test_a_name_is_no_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a link nor an error."""
    name = "[link=http://evil.example]x[/link] [/b]"
    job = {"name": name, "items": ["a"], "steps": [STEP | {"prompt": "x", "kind": "k"}]}
    (tmp_path / "job.yaml").write_text(json.dumps(job))  # JSON is YAML
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("FLEET_STATE", str(tmp_path / "state"))
    ran = CliRunner().invoke(app, ["plan", str(tmp_path / "job.yaml")])
    assert ran.exception is None
    assert "\x1b]" not in ran.output
    assert name in OURS.sub("", ran.output)
