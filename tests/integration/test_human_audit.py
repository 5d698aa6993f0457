"""`fleet audit`: a sample for people, their verdicts from a terminal or a file, each counted once, and the latest."""

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
from fleet.human_audit import Given, HumanAudit
from fleet.store import Job
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


def judge(job: str, file: Path, **verdicts: bool) -> dict[str, Any]:
    """What `fleet audit` says to verdicts on `sort_0`, `sort_1` …"""
    lines = [{"subtask": name.replace("_", "/"), "right": right} for name, right in verdicts.items()]
    file.write_text("\n".join(map(json.dumps, lines)))
    found: dict[str, Any] = json.loads(said(job, "--verdicts", str(file), "-o", "json"))
    return found


def ran(*words: str) -> str:
    """What a command writes; what it fails with is raised."""
    done = CliRunner().invoke(app, words)
    if done.exception is not None:
        raise done.exception
    return done.output


def cost(*words: str) -> list[tuple[Any, ...]]:
    """The audited quality of the receipt."""
    receipt = json.loads(ran("jobs", "cost", *words, "-o", "json"))
    return [(row["kind"], row["tier"], row["audited"], row["right"]) for row in receipt["quality"]]


def learned(kind: str = "topic") -> tuple[float, float]:
    """What routing knows of nano's audited outputs."""
    its = json.loads(ran("routes", kind, "-o", "json"))["kinds"][0]["audits"].get("nano", {"audited": 0, "right": 0})
    return its["audited"], its["right"]


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
    assert (again["new"], again["corrected"], again["quality"]) == (0, 0, first["quality"])
    assert learned() == pytest.approx((4, 3), abs=0.1), "a verdict is learned once however often it is given"
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


REFUSED = {
    '{"subtask": "sort/9", "right": true}': "sort/9 is no accepted output of",
    '{"subtask": "sort/0", "right": "yes"}': "line 1: right: Input should be a valid boolean",
    '\n{"subtask": "sort/0", "right": true, "by": "me"}': "line 2: by: Extra inputs are not permitted",
    "yes": "line 1: the line: Invalid JSON",
    '{"subtask": "sort/0", "right": true}\n{"subtask": "sort/0", "right": false}': "to be right and to be wrong",
}


def test_verdicts_that_cannot_be_are_refused_whole(job: str, tmp_path: Path) -> None:
    good = json.dumps({"subtask": sample(job)[0]["subtask"], "right": True})
    file = tmp_path / "verdicts.jsonl"
    for lines, error in REFUSED.items():
        file.write_text(f"{lines}\n{good}")
        with pytest.raises(BadInputError, match=error):
            said(job, "--verdicts", str(file))
    assert len(sample(job)) == 4, "nothing was kept"


def test_what_is_not_there(job: str, tmp_path: Path) -> None:
    with pytest.raises(FleetError):
        said("no-such-job", "-o", "json")
    with pytest.raises(BadInputError, match="cannot be read"):
        said(job, "--verdicts", str(tmp_path / "nowhere"))


def test_a_corrected_verdict_takes_the_place_of_the_earlier_one(job: str, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.jsonl"
    (right, wrong), first = [one["subtask"].replace("/", "_") for one in sample(job)[:2]], learned
    judge(job, file, **{right: True, wrong: True})
    assert first() == pytest.approx((2, 2), abs=0.1)
    told = judge(job, file, **{right: True, wrong: False})
    assert (told["new"], told["corrected"]) == (0, 1)
    assert [(row["audited"], row["right"]) for row in told["quality"]] == [(2, 1)]
    assert learned() == pytest.approx((2, 1), abs=0.1)
    assert "0 new verdicts are kept" in said(job, "--verdicts", str(file))
    file.write_text(json.dumps({"subtask": wrong.replace("_", "/"), "right": True}))
    assert "1 corrected; 0 were there already" in said(job, "--verdicts", str(file))
    assert learned() == pytest.approx((2, 2), abs=0.1)


def test_the_receipt_has_them_and_so_have_the_exported_books(job: str, tmp_path: Path) -> None:
    assert cost(job) == []
    ran("jobs", "results", job, "--out", str(tmp_path / "before"))
    assert not (tmp_path / "before" / "verdicts.jsonl").exists()
    (one, two), out = [shown["subtask"].replace("/", "_") for shown in sample(job)[:2]], str(tmp_path / "out")
    judge(job, tmp_path / "verdicts.jsonl", **{one: True, two: False})
    assert cost(job) == [("topic", "nano", 2, 1)]
    assert "50% of 2 audited right" in " ".join(ran("jobs", "cost", job).split())
    ran("jobs", "results", job, "--out", out)
    lines = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert [line.keys() for line in lines] == [{"subtask", "kind", "tier", "right", "instead"}] * 2
    assert cost("--from", out) == [("topic", "nano", 2, 1)]
    (tmp_path / "out" / "verdicts.jsonl").write_text(json.dumps(lines[0] | {"right": False}) + "\n")
    with pytest.raises(FleetError, match="quality: the receipt says"):
        ran("jobs", "cost", "--from", out)


def test_a_verdict_that_an_earlier_version_kept_is_learned_once_when_it_is_given_again(
    job: str, tmp_path: Path, valkey: Valkey
) -> None:
    subtask = sample(job)[0]["subtask"].replace("/", "_")
    judge(job, tmp_path / "verdicts.jsonl", **{subtask: True})

    async def as_earlier() -> None:
        async with bench(valkey, tmp_path, config(**CONFIG), openai_base_url="http://127.0.0.1:9/v1") as fleet:
            ((name, body),) = (await fleet.runtime.store.memos(job, "audit:")).items()
            kept = {key: value for key, value in json.loads(body).items() if key != "taught"}
            await fleet.runtime.link.execute("HSET", f"fleet:m:{job}", name, json.dumps(kept))
            await fleet.runtime.link.execute("DEL", "fleet:learned:default:topic")

    asyncio.run(as_earlier())
    assert cost(job) == [("topic", "nano", 1, 1)]
    for _ in range(2):
        told = judge(job, tmp_path / "verdicts.jsonl", **{subtask: True})
        assert (told["new"], told["corrected"]) == (0, 0)
        assert learned() == pytest.approx((1, 1), abs=0.1)


def test_of_an_output_that_the_flagship_audited_what_a_person_says_counts_once_and_not_twice(
    valkey: Valkey, tmp_path: Path
) -> None:
    async def run() -> None:
        right = {"reason": "it is one", "accept": True}
        async with (
            scripted("a", right, "b", WRONG, "better") as script,
            bench(valkey, tmp_path, config(audit={"share": 1}), openai_base_url=script.url) as fleet,
        ):
            jobs = []
            for item in ("a", "b"):
                step = STEP | {"max_tier": "mini"}
                jobs.append(await fleet.run(await fleet.submit(items=[item], steps=[step])))

            async def known(job: Job) -> list[tuple[str | None, int, int]]:
                receipt, table = await fleet.client.receipt(job), await HumanAudit(fleet.client, job).quality()
                assert [row for row in table if row.audited] == list(receipt.quality)
                return [(row.tier, row.audited, row.right) for row in receipt.quality]

            async def taught() -> dict[str, tuple[float, float]]:
                (route,) = await fleet.runtime.routes.look("default")
                return {tier: (its.audited, its.right) for tier, its in route.audits.items()}

            assert await known(jobs[0]) == [("nano", 1, 1)]
            assert await known(jobs[1]) == [("nano", 1, 0)]
            assert (await taught())["nano"] == pytest.approx((2, 1), abs=0.1)
            # The flagship found it right, and a person finds it wrong; then sees that it is right after all.
            for is_right in (False, True, False):
                await HumanAudit(fleet.client, jobs[0]).keep([Given(subtask="sort/0", right=is_right)])
                assert await known(jobs[0]) == [("nano", 1, int(is_right))]
                assert (await taught())["nano"] == pytest.approx((2, int(is_right)), abs=0.1)
            # What came in the place of an answer that was found wrong is another output, of another tier.
            await HumanAudit(fleet.client, jobs[1]).keep([Given(subtask="sort/0", right=True)])
            assert await known(jobs[1]) == [("mini", 1, 1), ("nano", 1, 0)]
            assert (await taught())["mini"] == pytest.approx((1, 1), abs=0.1)
            assert (await taught())["nano"] == pytest.approx((2, 0), abs=0.1)

    asyncio.run(run())


def test_what_people_say_at_once_is_one_verdict(valkey: Valkey, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            scripted("a") as script,
            bench(valkey, tmp_path, config(), openai_base_url=script.url) as fleet,
        ):
            job = await fleet.run(await fleet.submit(items=["a"], steps=[STEP]))
            people = [HumanAudit(fleet.client, job) for _ in range(6)]
            await asyncio.gather(
                *(one.keep([Given(subtask="sort/0", right=i % 2 == 0)]) for i, one in enumerate(people))
            )
            (row,) = await people[0].quality()
            (route,) = await fleet.runtime.routes.look("default")
            assert row.audited == 1
            assert route.audits["nano"].audited == pytest.approx(1, abs=0.1)
            assert route.audits["nano"].right == pytest.approx(row.right, abs=0.1)

    asyncio.run(run())
