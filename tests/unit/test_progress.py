"""The progress view: lines when piped, a display on a terminal, an estimate only when it means something."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fleet.jobs import JobStatus
from fleet.progress import Progress, ProgressView, TierProgress


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def progress(done: int = 0, *, status: JobStatus = JobStatus.RUNNING, **changes: Any) -> Progress:
    values: dict[str, Any] = {
        "job_id": "j1",
        "name": "triage",
        "status": status,
        "tiers": {"nano": TierProgress(waiting=90 - done, running=10, done=done)},
        "tokens": 12_345,
        "cost_nano_usd": 31_200_000,
        "started_at": 990.0,
    }
    return Progress(**{**values, **changes})


def piped() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=False, width=80), out


def test_lines_when_piped() -> None:
    console, out = piped()
    clock = Clock()
    with ProgressView(console, clock) as view:
        for done in range(41):
            view.update(progress(done))
            clock.now += 0.1
        view.update(progress(41, status=JobStatus.REVIEWING))
        clock.now += 0.1
        view.update(progress(42, status=JobStatus.COMPLETED, budget_nano_usd=2_500_000_000, simulated=True))
    assert out.getvalue().splitlines() == [
        "triage running | nano 0/100 | 12.3k tokens | $0.0312 | 10s",
        "triage running | nano 20/100 | 12.3k tokens | $0.0312 | 12s, about 8s left",
        "triage running | nano 40/100 | 12.3k tokens | $0.0312 | 14s, about 6s left",
        "triage reviewing | nano 41/100 | 12.3k tokens | $0.0312 | 14s",
        "triage completed | nano 42/100 | 12.3k tokens | $0.0312 of $2.50 | 14s | simulated",
    ]


def test_the_last_state_is_always_shown() -> None:
    console, out = piped()
    with ProgressView(console, Clock()) as view:
        view.update(progress(1))
        view.update(progress(2, tiers={"odd": TierProgress(done=2, failed=1)}, note="Waits\nfor the budget."))
    assert out.getvalue().splitlines()[-1] == (
        "triage running | odd 2/3 (1 failed) | 12.3k tokens | $0.0312 | 10s | Waits for the budget."
    )


def test_nothing_new_is_said_rarely() -> None:
    console, out = piped()
    clock = Clock()
    with ProgressView(console, clock) as view:
        for _ in range(40):
            view.update(progress(5))
            clock.now += 1
    assert len(out.getvalue().splitlines()) == 3


def test_no_update_no_line() -> None:
    console, out = piped()
    with ProgressView(console):
        pass
    assert out.getvalue() == ""


def test_the_estimate_needs_a_rate() -> None:
    clock = Clock()
    view = ProgressView(piped()[0], clock)
    assert view.eta_s() is None
    view.update(progress(0))
    clock.now += 10
    view.update(progress(4))
    assert view.eta_s() is None
    clock.now += 10
    view.update(progress(10))
    assert view.eta_s() == pytest.approx(180)
    # What was slow a minute ago does not count.
    for _ in range(60):
        clock.now += 1
        view.update(progress(min(round(clock.now - 1_010), 80)))
    assert view.eta_s() == pytest.approx(30 * 30 / 30, rel=0.2)
    view.update(progress(70, status=JobStatus.PAUSED))
    assert view.eta_s() is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(min_value=0, max_value=90), st.floats(min_value=-5, max_value=100)), max_size=20))
def test_any_sequence_of_states_can_be_shown(steps: list[tuple[int, float]]) -> None:
    console, out = piped()
    clock = Clock()
    with ProgressView(console, clock) as view:
        for done, passed in steps:
            view.update(progress(done))
            clock.now += passed
    assert bool(out.getvalue()) is bool(steps)


def terminal(width: int = 80, **options: Any) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=width, height=24, **options), out


def test_a_live_table_on_a_terminal() -> None:
    console, out = terminal()
    tiers = {name: TierProgress(waiting=1_000_000, running=200, done=999_999, failed=3) for name in ("nano", "mini")}
    tiers["a tier with a very long name"] = TierProgress()
    with ProgressView(console, Clock()) as view:
        view.update(progress(1, tiers=tiers, note="x" * 300, simulated=True))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    for word in ("waiting", "running", "done", "failed", "1,000,000", "999,999", "simulated provider", "$0.0312"):
        assert word in text
    assert all(len(line) <= 80 for part in text.splitlines() for line in part.split("\r"))


def test_a_terminal_that_can_only_print_gets_lines() -> None:
    console, out = terminal(_environ={"TERM": "dumb"})
    with ProgressView(console, Clock()) as view:
        view.update(progress(1))
    assert out.getvalue() == "triage running | nano 1/100 | 12.3k tokens | $0.0312 | 10s\n"


def test_no_colour_when_not_wanted() -> None:
    console, out = terminal(_environ={"NO_COLOR": "1", "TERM": "xterm-256color"})
    with ProgressView(console, Clock()) as view:
        view.update(progress(5, simulated=True))
    codes = {
        int(code) for found in re.findall(r"\x1b\[([0-9;]*)m", out.getvalue()) for code in found.split(";") if code
    }
    assert not any(30 <= code <= 49 or 90 <= code <= 107 for code in codes)


def test_what_a_job_is_called_cannot_write_to_the_terminal() -> None:
    for console, out in (terminal(), piped()):
        with ProgressView(console, Clock()) as view:
            view.update(
                progress(
                    name="\x1b]0;owned\x07\x1b[2Jname[red]",
                    note="\x1b[31mnote\u202e",
                    tiers={"\x9b31mtier[/]": TierProgress(done=1)},
                )
            )
        text = out.getvalue()
        assert "\x1b]0" not in text
        assert "\x1b[2J" not in text
        assert "\x9b" not in text
        assert "\u202e" not in text
        assert "name[red]" in text
        assert "tier[/]" in text
