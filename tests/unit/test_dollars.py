"""Caps as they are typed, and as they are kept: one rule for all of them."""

from __future__ import annotations

import sys
from decimal import Decimal

import pytest

from fleet import cli, dollars
from fleet.errors import BadInputError
from fleet.jobs import JobSpec
from fleet.stored import read

ODD = {
    "inf": "input should be a finite number.",
    "nan": "input should be a finite number.",
    "1e300": "input should be less than or equal to 9000000.",
    "0": "input should be greater than 0.",
    "-1": "input should be greater than 0.",
    "much": "input should be a valid decimal.",
}


@pytest.mark.parametrize("text", ODD)
def test_what_can_be_no_cap_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(BadInputError) as caught:
        dollars.budget(text)
    assert str(caught.value) == f"--budget is {text}: {ODD[text]}"


def test_a_cap_is_exact() -> None:
    assert dollars.budget("0.1") == Decimal("0.1")
    assert dollars.budget(" 9000000 ") == 9_000_000


@pytest.mark.parametrize(
    "command",
    [
        ["run", "job.yaml"],
        ["demo"],
        ["plan", "job.yaml", "--sample", "1"],
        ["jobs", "resume", "j"],
        ["jobs", "retry", "--failed", "j"],
    ],
)
def test_every_command_keeps_it(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fleet", *command, "--budget", "inf"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "--budget is inf: input should be a finite number.\n"


def test_a_job_that_was_accepted_with_any_number_is_read_again() -> None:
    kept = {"name": "n", "goal": "g", "budget_usd": "1E+30"}
    assert read(JobSpec, kept).budget_usd == Decimal("1e30")
    assert read(JobSpec, kept | {"budget_usd": None}).budget_usd is None
