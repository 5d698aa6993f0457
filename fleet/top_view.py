"""`Top` on a screen: legible in 80 columns, more of it in 120, and never more lines than there are.

It owns wording and layout. Names and reasons come from outside and are cleaned here.
"""

from __future__ import annotations

import datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fleet.accounts import AccountLimits
from fleet.display import clean
from fleet.receipt_view import MAX_TIERS_SHOWN, tokens
from fleet.top import Top, TopJob, TopTier

#: From so many columns on there is room for more than the least.
WIDE = 110
#: Lines that are not jobs beside tiers and accounts: title, headings, blank lines, foot.
OTHER_LINES = 8


class TopView:
    """A renderable of one look; `trouble`: why there is no newer one; `foot`: the last line."""

    def __init__(self, top: Top, *, trouble: str = "", foot: str = "", height: int | None = None) -> None:
        self._top = top
        self._trouble = trouble
        self._foot = foot
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= WIDE
        tiers, accounts = self._top.tiers[:MAX_TIERS_SHOWN], self._top.accounts[:MAX_TIERS_SHOWN]
        jobs = self._top.jobs
        if self._height is not None:
            jobs = jobs[: max(1, self._height - OTHER_LINES - len(tiers) - len(accounts))]
        lines: list[RenderableType] = [
            self._title(),
            Text(clean(self._trouble, 200), style="bold red", no_wrap=True, overflow="ellipsis"),
            _tiers(tiers, wide=wide),
            Text(),
            _accounts(accounts, wide=wide),
            Text(),
            _jobs(jobs, wide=wide) if jobs else Text("No job is open.", style="dim"),
        ]
        if self._foot:
            lines.append(Text(self._foot, style="dim", no_wrap=True, overflow="ellipsis"))
        yield Group(*lines)

    def _title(self) -> Text:
        top = self._top
        at = datetime.datetime.fromtimestamp(top.at).astimezone().strftime("%H:%M:%S")
        title = Text(f"fleet at {at}", style="bold", no_wrap=True, overflow="ellipsis")
        title.append(f"  {_usd(top.usd_per_hour)}/h", style="bold cyan")
        title.append(f"  {sum(tier.workers for tier in top.tiers)} workers")
        if top.simulated:
            title.append("  simulated provider", style="yellow")
        if top.overdue:
            title.append(f"  {top.overdue:,} overdue", style="red")
        return title


def _table(*columns: str, left: int = 1) -> Table:
    """A table whose first `left` columns are text and whose others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right", no_wrap=True, overflow="ellipsis")
    return table


def _tiers(tiers: tuple[TopTier, ...], *, wide: bool) -> Table:
    more = ("model", "tokens/s") if wide else ()
    table = _table("tier", "backlog", "queue", "running", "capacity", "workers", "calls/s", "$/h", *more)
    for tier in tiers:
        out = "red" if tier.workers == 0 and tier.backlog + tier.running > 0 else ""
        row: list[RenderableType] = [
            Text(clean(tier.tier, 12)),
            f"{tier.backlog:,}",
            "-" if tier.queue is None else f"{tier.queue:,}",
            f"{tier.running:,}",
            f"{tier.capacity:,}",
            Text(f"{tier.workers:,}", style=out),
            _rate(tier.calls_per_s),
            _usd(tier.usd_per_hour),
        ]
        if wide:
            row += [
                Text(clean(tier.model or "", 24)),
                "-" if tier.tokens_per_s is None else tokens(round(tier.tokens_per_s)),
            ]
        table.add_row(*row)
    return table


def _accounts(accounts: tuple[AccountLimits, ...], *, wide: bool) -> Table:
    table = _table("model", "state", "requests/min", "tokens/min", "in flight", left=2)
    for one in accounts:
        state = Text("open")
        if one.outage_s is not None:
            state = Text(f"outage, again in {one.outage_s:.0f}s", style="bold red")
        elif one.paused_s > 0:
            state = Text(f"paused {one.paused_s:.0f}s", style="yellow")
        table.add_row(
            Text(clean(one.account, 40 if wide else 20)),
            state,
            _of(one.requests, one.requests_per_minute),
            _of(one.tokens, one.tokens_per_minute),
            _of(one.calls, one.in_flight),
        )
    return table


def _jobs(jobs: tuple[TopJob, ...], *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim", expand=True)
    table.add_column("job", no_wrap=True, overflow="ellipsis", max_width=40 if wide else 20)
    table.add_column("name", no_wrap=True, overflow="ellipsis", max_width=28 if wide else 14)
    table.add_column("status", no_wrap=True)
    for heading in ("done", "running", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("waits for", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        ended = job.done + job.failed
        share = f"{ended / job.total:.0%}" if job.total else "-"
        done = f"{tokens(ended)}/{tokens(job.total)} {share}" if wide else share
        cost = _usd(job.cost_usd)
        if wide and job.budget_usd is not None:
            cost += f" of {_usd(job.budget_usd)}"
        table.add_row(
            Text(clean(job.id, 60)),
            Text(clean(job.name, 60)),
            job.status,
            Text(done, style="red" if job.failed else ""),
            f"{job.running:,}",
            cost,
            Text(_reason(job, wide=wide)),
        )
    return table


def _reason(job: TopJob, *, wide: bool) -> str:
    """Why it does not go on: the wait of the most subtasks, or the note of a job that is paused."""
    if job.note:
        return clean(job.note, 200)
    if not job.waits:
        return ""
    first = max(job.waits, key=lambda wait: (wait.reason != "dependencies", wait.subtasks))
    text = f": {clean(first.text, 200)}" if wide else ""
    return f"{first.reason} ({clean(first.tier, 12)} {tokens(first.subtasks)}){text}"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def _usd(amount: float | None) -> str:
    return "-" if amount is None else f"${amount:,.2f}" if abs(amount) >= 1 or amount == 0 else f"${amount:.4f}"


def _of(used: int, limit: int | None) -> str:
    return tokens(used) if limit is None else f"{tokens(used)}/{tokens(limit)}"
