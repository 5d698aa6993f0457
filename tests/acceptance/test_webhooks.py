"""Webhooks as a user has them: a run of the command that lives for one job, and a fleet that stays."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import yaml

from tests.support.cli import ROOT, Folder
from tests.support.receiver import Receiver, receiving
from tests.support.worker import eventually

JOB = """\
name: topics
items: [{{text: The app crashes.}}]
steps:
  - {{id: topic, each: items, tier: nano, max_output_tokens: 50, prompt: "Topic? {{{{ item.text }}}}"}}
webhook: {url}
"""


def folder_for(path: Path, receiver: Receiver) -> Folder:
    """A folder whose fleet may call the receiver."""
    configuration = yaml.safe_load((ROOT / "config" / "fleet.yaml").read_text())
    configuration["outside"] = {"allow": [f"127.0.0.1:{receiver.port}"]}
    folder = Folder(path, {"FLEET_CONFIG": str(path / "fleet.yaml")})
    folder.write("fleet.yaml", yaml.safe_dump(configuration))
    folder.write("topics.yaml", JOB.format(url=receiver.url))
    return folder


def test_a_fleet_that_lives_for_one_job_calls_its_webhook_before_it_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with receiving() as receiver:
            folder = folder_for(tmp_path, receiver)
            ran = await asyncio.to_thread(folder.fleet, "run", "topics.yaml")
            assert ran.code == 0, ran.out + ran.err
            assert "webhook: delivered to 127.0.0.1 (200)" in ran.out
            assert len(receiver.received) == 1
            folder.write("inside.yaml", JOB.format(url="http://127.0.0.1:8081/hook"))
            ran = await asyncio.to_thread(folder.fleet, "run", "inside.yaml")
            assert ran.code == 2
            assert "webhook: 127.0.0.1 is" in ran.err

    asyncio.run(scenario())


def test_deliveries_are_shown_and_repeated_by_command(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with receiving() as receiver:
            folder = folder_for(tmp_path, receiver)

            async def fleet(*arguments: str) -> str:
                ran = await asyncio.to_thread(folder.fleet, *arguments)
                assert ran.code == 0, ran.out + ran.err
                return ran.out

            async def came_again() -> bool:
                return len(receiver.received) == 2

            with folder.up():
                assert json.loads(await fleet("webhooks", "list", "-o", "json")) == {"deliveries": []}
                receiver.statuses = [410]
                job = (await fleet("submit", "topics.yaml")).strip()
                await fleet("jobs", "watch", job)
                assert await fleet("webhooks", "list", job)  # whatever it shows by now
                (event,) = json.loads(await fleet("webhooks", "list", "-o", "json"))["deliveries"]
                assert (event["job"], event["type"], event["host"]) == (job, "job.completed", "127.0.0.1")

                async def given_up() -> bool:
                    return "failed" in await fleet("webhooks", "list", job, "-o", "json")

                await eventually(given_up, "the webhook to be given up")
                assert event["id"] in await fleet("webhooks", "redeliver", job)
                await eventually(came_again, "the webhook to come again")
                assert receiver.ids == [event["id"]] * 2

                secret = (await fleet("webhooks", "secret")).strip()
                assert (await fleet("webhooks", "secret")).strip() == secret
                rotated = json.loads(await fleet("webhooks", "secret", "--rotate", "-o", "json"))
                assert rotated["also_signs"] == [secret]
                assert rotated["secret"] != secret
                ran = await asyncio.to_thread(folder.fleet, "webhooks", "redeliver", "evt_nothing")
                assert ran.code == 2
                assert "there is no event" in ran.err.lower()

    asyncio.run(scenario())
