"""A running job's progress on a screen: a live table on a terminal, single plain lines anywhere else.

It owns what is shown and how often; it is handed `Progress` and knows not where that comes from.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from pydantic import Field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fleet.config import Frozen
from fleet.display import clean
from fleet.jobs import JobStatus
from fleet.prices import usd
from fleet.receipt_view import MAX_TIERS_SHOWN, duration, tokens

#: Plain lines: the least time between two, and between two that say the same.
LINE_EVERY_S = 2.0
SAME_LINE_EVERY_S = 15.0
#: The rate the rest is estimated by is taken over so long, and over so many completions at least.
RATE_WINDOW_S = 30.0
RATE_LEAST_DONE = 5
MAX_SAMPLES = 600
LONGEST_ETA_S = 48 * 3600.0


class TierProgress(Frozen):
    """Subtasks of one tier."""

    waiting: int = Field(default=0, ge=0)
    running: int = Field(default=0, ge=0)
    done: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)

    @property
    def final(self) -> int:
        return self.done + self.failed

    @property
    def total(self) -> int:
        return self.waiting + self.running + self.final


class Progress(Frozen):
    """Where a job stands at one moment; `started_at` is in Unix seconds."""

    job_id: str
    name: str
    status: JobStatus
    tiers: dict[str, TierProgress] = Field(default_factory=dict)
    tokens: int = 0
    cost_nano_usd: int = 0
    budget_nano_usd: int | None = None
    started_at: float
    simulated: bool = False
    #: One sentence, such as why the job waits.
    note: str = ""

    @property
    def final(self) -> int:
        return sum(tier.final for tier in self.tiers.values())

    @property
    def total(self) -> int:
        return sum(tier.total for tier in self.tiers.values())


class ProgressView:
    """Shows the progress it is given between `with` and its end.

    Args:
        console: a terminal gets a live display; anything else a line at most every two seconds, one at once when the
            status changes, and the last state in any case.
        clock: Unix seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.time) -> None:
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._last: Progress | None = None
        self._printed: tuple[float, Progress] | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=MAX_SAMPLES)

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._picture)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._last is not None and (self._printed is None or self._printed[1] != self._last):
            self._print(self._last)

    def update(self, progress: Progress) -> None:
        """Show `progress` from now on."""
        now = self._clock()
        self._last = progress
        # Samples closer together than the window needs would push the older ones out.
        if not self._samples or now - self._samples[-1][0] >= RATE_WINDOW_S / MAX_SAMPLES:
            self._samples.append((now, progress.final))
        while len(self._samples) > 2 and self._samples[0][0] < now - RATE_WINDOW_S:
            self._samples.popleft()
        if self._live is None and self._due(now, progress):
            self._print(progress)

    def eta_s(self) -> float | None:
        """Seconds the rest will take at the recent rate; None when that would be a guess."""
        progress = self._last
        if progress is None or progress.status is not JobStatus.RUNNING or not self._samples:
            return None
        (begin, before), now = self._samples[0], self._clock()
        done, left = progress.final - before, progress.total - progress.final
        if done < RATE_LEAST_DONE or left <= 0 or now - begin < 1:
            return None
        eta = left * (now - begin) / done
        return eta if eta <= LONGEST_ETA_S else None

    def _due(self, now: float, progress: Progress) -> bool:
        if self._printed is None:
            return True
        at, shown = self._printed
        if progress.status is not shown.status:
            return True
        return now - at >= (LINE_EVERY_S if progress != shown else SAME_LINE_EVERY_S)

    def _print(self, progress: Progress) -> None:
        self._printed = (self._clock(), progress)
        parts = [f"{clean(progress.name, 40)} {progress.status.value}"]
        for name, tier in list(progress.tiers.items())[:MAX_TIERS_SHOWN]:
            failed = f" ({tier.failed:,} failed)" if tier.failed else ""
            parts.append(f"{clean(name, 20)} {tier.done:,}/{tier.total:,}{failed}")
        parts += [f"{tokens(progress.tokens)} tokens", self._money(progress), self._time(progress)]
        if progress.simulated:
            parts.append("simulated")
        if progress.note:
            parts.append(clean(progress.note, 200))
        # Plain text in one piece: no markup, no colours, no wrapping.
        self._console.print(Text(" | ".join(parts)), soft_wrap=True)

    def _picture(self) -> RenderableType:
        progress = self._last
        if progress is None:
            return Text("Starting ...")
        title = Text(clean(progress.name, 40), style="bold", overflow="ellipsis", no_wrap=True)
        title.append(f"  {progress.status.value}", style="cyan")
        if progress.simulated:
            title.append("  simulated provider", style="yellow")
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        table.add_column("tier", no_wrap=True, overflow="ellipsis", max_width=16)
        for heading in ("waiting", "running", "done", "failed"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for name, tier in list(progress.tiers.items())[:MAX_TIERS_SHOWN]:
            bar = ProgressBar(total=max(tier.total, 1), completed=tier.final, width=20)
            failed = Text(f"{tier.failed:,}", style="red" if tier.failed else "")
            table.add_row(
                Text(clean(name, 16)), f"{tier.waiting:,}", f"{tier.running:,}", f"{tier.done:,}", failed, bar
            )
        foot = f"{tokens(progress.tokens)} tokens, {self._money(progress)}, {self._time(progress)}"
        lines: list[RenderableType] = [title, table, Text(foot)]
        if progress.note:
            lines.append(Text(clean(progress.note, 300)))
        return Group(*lines)

    def _money(self, progress: Progress) -> str:
        spent = usd(progress.cost_nano_usd)
        return spent if progress.budget_nano_usd is None else f"{spent} of {usd(progress.budget_nano_usd)}"

    def _time(self, progress: Progress) -> str:
        passed = duration(max(self._clock() - progress.started_at, 0.0))
        eta = self.eta_s()
        if eta is None:
            return passed
        return f"{passed}, about {f'{max(round(eta), 1)}s' if eta < 59.5 else duration(eta)} left"
