"""What the commands show of jobs whose every text was written by somebody who wants a terminal to do something."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.errors import ProviderError
from fleet.jobs import JobStatus
from fleet.providers.base import Completion, ModelRequest, Started
from tests.support.bench import bench, config
from tests.support.hostile import ELEMENT, MARKDOWN, NAME, acting
from tests.support.scripted import scripted
from tests.support.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
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


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # it has no writer any more
            while chunk := os.read(ours, 65_536):
                written += chunk
        os.close(ours)
        process.wait(60)
    return written.decode()


def test_nothing_of_theirs_acts(valkey: Valkey, tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(config().model_dump_json())
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        "FLEET_CONFIG": str(tmp_path / "fleet.yaml"),
        "FLEET_REDIS_URL": valkey.url,
        "FLEET_BLOBS": str(tmp_path / "blobs"),
        "FLEET_STATE": str(tmp_path / "state"),
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }
    done, failed = asyncio.run(jobs(valkey, tmp_path))
    commands = [["list"], ["list", "-o", "json"]]
    for id_ in (done, failed):
        commands += [
            ["get", id_],
            ["get", id_, "-o", "json"],
            ["results", id_],
            ["watch", id_],
            ["cost", id_],
            ["cost", id_, "-o", "json"],
        ]
    for words in commands:
        command = [sys.executable, "-m", "fleet", "jobs", *words]
        ran = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
        assert ran.returncode == (1 if words == ["watch", failed] else 0), ran.stderr.decode()
        out = ran.stdout.decode() + ran.stderr.decode()
        assert acting(out) == "", words
        if words[0] == "results":
            outcomes = [json.loads(line) for line in ran.stdout.splitlines()]
            assert outcomes[0]["item"] is not None
            assert [one["output"] for one in outcomes] == [NAME if words[1] == done else None], "it says the same"
        if words[0] in ("get", "list"):
            assert ELEMENT[:20] in out
    for words in (["list"], ["get", done], ["get", failed], ["results", done], ["watch", done], ["watch", failed]):
        out = on_a_terminal([sys.executable, "-m", "fleet", "jobs", *words], environment)
        assert acting(OURS.sub("", out)) == "", words


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_job_file_is_shown_as_it_is_written(tmp_path: Path, command: str) -> None:
    """A name that is no markup of ours: neither a link nor an error."""
    (tmp_path / "job.yaml").write_text(
        json.dumps(
            {
                "name": "[link=http://evil.example]x[/link] [/b]",
                "items": ["a"],
                "steps": [STEP | {"prompt": "x", "kind": "k"}],
            }
        )
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "COLUMNS": "120",
    }
    environment |= {"FLEET_STATE": str(tmp_path / "state"), "FLEET_BLOBS": str(tmp_path / "blobs")}
    out = on_a_terminal([sys.executable, "-m", "fleet", command, str(tmp_path / "job.yaml")], environment)
    assert "\x1b]8" not in out
    assert "[link=http://evil.example]x[/link] [/b]" in out
