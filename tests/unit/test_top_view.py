"""`fleet top` on screens of several sizes, with names that somebody hostile chose."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from fleet.accounts import AccountLimits
from fleet.top import Top, TopJob, TopTier
from fleet.top_view import TopView
from fleet.waits import Wait

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold]\u202eevil\u2066\x9b31m" + "x" * 500


def tier(name: str, **changes: Any) -> TopTier:
    own: dict[str, Any] = {
        "tier": name,
        "model": "gpt-5.4-nano",
        "backlog": 123_456,
        "queue": 17,
        "running": 200,
        "capacity": 200,
        "workers": 1,
    }
    return TopTier(**(own | {"calls_per_s": 358.2, "tokens_per_s": 98_765.0, "usd_per_hour": 12.3} | changes))


def account(name: str, **changes: Any) -> AccountLimits:
    own: dict[str, Any] = {
        "account": name,
        "tiers": ("nano",),
        "requests": 9_876,
        "requests_per_minute": 10_000,
        "tokens": 8_765_432,
    }
    own |= {
        "tokens_per_minute": 10_000_000,
        "calls": 999,
        "in_flight": 1_000,
        "next_s": 0.0,
        "paused_s": 0.0,
        "outage_s": None,
    }
    return AccountLimits(**(own | changes))


def job(number: int = 0, **changes: Any) -> TopJob:
    wait = Wait(
        tier="nano",
        subtasks=1_234,
        reason="rate",
        text="openai/gpt-5.4-nano is at its limit of 10,000 requests a minute",
    )
    own: dict[str, Any] = {
        "id": f"acme.j0199c2f4a11d03be{number}",
        "name": "triage",
        "status": "running",
        "done": 1_200,
        "failed": 3,
        "running": 200,
    }
    return TopJob(
        **(own | {"total": 3_000, "cost_usd": 0.4321, "budget_usd": 2.5, "waits": (wait,), "note": ""} | changes)
    )


def top(**changes: Any) -> Top:
    own: dict[str, Any] = {"at": 1_700_000_000.0, "simulated": True, "usd_per_hour": 36.9, "overdue": 0}
    own |= {"tiers": (tier("nano"), tier("mini"), tier("flagship"), tier("coordinator", model=None, queue=None))}
    own |= {"accounts": (account("openai/gpt-5.4-nano"), account("openai/gpt-5.4", outage_s=12.0)), "jobs": (job(),)}
    return Top(**(own | changes))


def shown(what: Top, width: int, height: int | None = None, **how: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(TopView(what, height=height, **how), markup=False)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_all_that_matters_is_there(width: int) -> None:
    text = shown(top(), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for word in (
        "$36.90/h",
        "4 workers",
        "simulated",
        "nano",
        "123,456",
        "358",
        "$12.30",
        "9.9k/10.0k",
        "outage",
        "40%",
        "triage",
        "rate",
    ):
        assert word in text, word
    assert "…" not in text.split("job")[0], "nothing of tiers and limits is cut"


def test_a_wide_screen_says_more() -> None:
    text = shown(top(), 120)
    assert "1.2k/3.0k 40%" in text
    assert "of $2.50" in text
    assert "tokens/s" in text
    assert "rate (nano 1.2k): openai/gpt" in text
    assert "is at its limit of 10,000 requests a minute" in shown(top(), 180)
    assert "tokens/s" not in shown(top(), 80)


@pytest.mark.parametrize("width", [80, 120])
def test_names_do_nothing_to_a_terminal(width: int) -> None:
    text = shown(
        top(
            tiers=(tier(HOSTILE),),
            accounts=(account(HOSTILE),),
            jobs=(job(id=HOSTILE, name=HOSTILE, note=HOSTILE), job(1, name=HOSTILE)),
        ),
        width,
        trouble=HOSTILE,
    )
    assert all(character.isprintable() or character == "\n" for character in text)
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "[bold]" in text, "markup is text"


def test_there_are_never_more_lines_than_the_screen_has() -> None:
    text = shown(top(jobs=tuple(job(number) for number in range(10))), 80, 18, foot="q ends this")
    assert len(text.splitlines()) <= 18
    assert "q ends this" in text
    assert "acme.j0199c2f4a11d" in text


def test_what_is_not_known_is_a_dash_and_a_tier_without_workers_is_seen() -> None:
    what = top(
        tiers=(tier("nano", queue=None, calls_per_s=None, tokens_per_s=None, usd_per_hour=None, workers=0),),
        usd_per_hour=None,
        jobs=(),
    )
    text = shown(what, 80)
    assert "-/h" in text
    assert "No job is open." in text


def test_trouble_is_said() -> None:
    assert "does not answer" in shown(top(), 80, trouble="the store does not answer")
