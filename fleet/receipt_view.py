"""A receipt for people: legible in 80 columns, with or without colour.

It owns wording and layout; every figure comes from `fleet.receipt`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fleet.display import clean
from fleet.prices import usd
from fleet.quality import Quality, pooled
from fleet.receipt import Receipt

MAX_TIERS_SHOWN = 20
MAX_KINDS_SHOWN = 20
MAX_AMOUNTS_SHOWN = 12


def render_receipt(receipt: Receipt) -> RenderableType:
    """The receipt for a rich console; a console that is no terminal prints it as plain text."""
    lines: list[RenderableType] = [Text(f"Receipt: {clean(receipt.name, 60)}", style="bold")]
    lines.append(Text(f"Job {clean(receipt.job_id, 60)}, {receipt.status.value} in {duration(receipt.wall_s)}."))
    if receipt.simulated:
        lines.append(
            Text("Simulated provider: answers are made up; money is counted, nobody was charged.", style="yellow")
        )
    lines += [Text(), _tiers(receipt), Text(), _figures(receipt)]
    if receipt.quality:
        lines += [Text(), _quality(receipt)]
    lines += [Text(), Text(clean(receipt.estimate, 1000))]
    if receipt.usage_estimated_calls:
        lines.append(
            Text(
                f"Calls without reported usage that can be (estimated, or the most): {receipt.usage_estimated_calls:,}."
            )
        )
    if receipt.price_unknown_calls:
        lines.append(
            Text(
                f"Calls served with a service tier that has no known price (booked as asked): {receipt.price_unknown_calls:,}."
            )
        )
    return Group(*lines)


def duration(seconds: float) -> str:
    """`0.4s`, `12s`, `3m 05s`, `2h 07m`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def tokens(count: int) -> str:
    """`950`, `12.3k`, `4.56M`, `7.89B`."""
    if count < 1_000:
        return str(count)
    if count < 999_950:
        return f"{count / 1_000:.1f}k"
    return f"{count / 1e6:.2f}M" if count < 999_995_000 else f"{count / 1e9:,.2f}B"


def _count(count: int) -> str:
    """Exact as long as nine such columns fit into 80."""
    return f"{count:,}" if count < 100_000 else tokens(count)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _tiers(receipt: Receipt) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("tier", overflow="ellipsis", max_width=14, no_wrap=True)
    for heading in ("calls", "input", "cached", "output", "accepted", "1st try", "escal.", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, tier in list(receipt.tiers.items())[:MAX_TIERS_SHOWN]:
        table.add_row(
            Text(clean(name, 14)),
            _count(tier.calls),
            tokens(tier.input_tokens),
            tokens(tier.cached_tokens),
            tokens(tier.output_tokens),
            _count(tier.accepted),
            _share(tier.first_try_passed, tier.tried),
            _count(tier.escalated_from),
            usd(tier.cost_nano_usd),
        )
    tiers = receipt.tiers.values()
    table.add_row(
        "total",
        _count(receipt.calls),
        tokens(sum(tier.input_tokens for tier in tiers)),
        tokens(sum(tier.cached_tokens for tier in tiers)),
        tokens(sum(tier.output_tokens for tier in tiers)),
        _count(receipt.accepted),
        "",
        _count(sum(tier.escalated_from for tier in tiers)),
        usd(receipt.cost_nano_usd),
        style="bold",
    )
    return table


def _figures(receipt: Receipt) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    outcomes = f"{receipt.accepted:,} accepted, {receipt.failed:,} failed, {receipt.skipped:,} skipped"
    if receipt.passed_on:
        outcomes += f", {receipt.passed_on:,} passed on as refused or cut off"
    if receipt.skipped_items:
        outcomes += f"; inputs not read: {receipt.skipped_items:,}"
    if receipt.gaps:
        outcomes += f"; gaps: {receipt.gaps:,}"
    table.add_row("Outcomes", outcomes)
    if receipt.possibly_paid_twice:
        table.add_row("Possibly paid twice", f"{receipt.possibly_paid_twice:,} calls: nobody saw their end")
    if receipt.cost_per_accepted_nano_usd is not None:
        # What was accepted is only what the check let through, so what audits say of it stands beside it.
        ended = receipt.accepted + receipt.failed + receipt.passed_on
        said = [
            fine_usd(receipt.cost_per_accepted_nano_usd),
            f"{_share(receipt.accepted, ended)} accepted",
            _audited(receipt),
        ]
        table.add_row("Per accepted outcome", ", ".join(said))
    table.add_row("Cost of", _list(receipt.roles))
    table.add_row("By lane", _list(receipt.lanes))
    if len(receipt.steps) > 1:
        table.add_row("By step", _list({step: its.cost_nano_usd for step, its in receipt.steps.items()}))
    if receipt.budget is not None:
        cap, reserved = receipt.budget.cap_nano_usd, receipt.budget.reserved_nano_usd
        left = max(0, cap - receipt.cost_nano_usd - reserved)
        table.add_row(
            "Budget", f"{usd(cap)}: {usd(receipt.cost_nano_usd)} spent, {usd(reserved)} reserved, {usd(left)} left"
        )
    table.add_row("From the vendor's cache", _cached(receipt))
    if receipt.flagship_alone_nano_usd is not None and receipt.saving_share is not None:
        saving = receipt.saving_share
        words = f"{saving:.0%} saved" if saving >= 0 else f"the fleet cost {-saving:.0%} more"
        low_high = receipt.flagship_alone_interval_nano_usd
        between = "" if low_high is None else f" ({fine_usd(low_high[0])} to {fine_usd(low_high[1])})"
        table.add_row("On the flagship alone", f"about {usd(receipt.flagship_alone_nano_usd)}{between}: {words}")
    if receipt.savings is not None and receipt.flagship_alone_nano_usd:
        table.add_row("Saved by", ", ".join(f"{what} {signed_usd(part)}" for what, part in receipt.savings))
    table.add_row("Flagship's tokens", f"{receipt.flagship_token_share:.1%} of all")
    waits = [f"{clean(what, 30)} {duration(seconds)}" for what, seconds in receipt.waited_for_s.items() if seconds > 0]
    table.add_row("Waited for (added up)", Text(", ".join(waits) or "nothing"))
    return table


def signed_usd(nano: int) -> str:
    """`$0.0312`, `-$0.000312`."""
    return fine_usd(nano) if nano >= 0 else f"-{fine_usd(-nano)}"


def _list(costs: Mapping[str, int]) -> Text:
    """Amounts by name, the largest first where they are too many."""
    shown = list(costs.items())
    if len(shown) > MAX_AMOUNTS_SHOWN:
        shown = sorted(shown, key=lambda one: -one[1])[:MAX_AMOUNTS_SHOWN]
    said = [f"{clean(name, 30)} {fine_usd(cost)}" for name, cost in shown]
    rest = sum(costs.values()) - sum(cost for _, cost in shown)
    if len(said) < len(costs):
        said.append(f"{len(costs) - len(said)} more {fine_usd(rest)}")
    return Text(", ".join(said) or "nothing")


def _audited(receipt: Receipt) -> str:
    found = pooled(receipt.quality)
    if found is None:
        return "none audited"
    return f"{_share(found.right, found.audited)} of {found.audited:,} audited right ({_interval(found)})"


def _interval(found: Quality) -> str:
    """A 95 % interval, rounded outwards."""
    return f"{math.floor(found.low * 100)}-{math.ceil(found.high * 100)}%"


def _cached(receipt: Receipt) -> str:
    tiers = receipt.tiers.values()
    cached, given = sum(tier.cached_tokens for tier in tiers), sum(tier.input_tokens for tier in tiers)
    saved = receipt.cache_saved_nano_usd
    said = f"saved {usd(saved)}" if saved >= 0 else f"writing into it cost {usd(-saved)} more than it saved"
    return f"{_share(cached, given)} of input tokens: {said}" if cached or saved else "nothing"


def _quality(receipt: Receipt) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("audited kind", overflow="ellipsis", max_width=24, no_wrap=True)
    table.add_column("tier", overflow="ellipsis", max_width=14, no_wrap=True)
    for heading in ("audited", "right", "share", "95% interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in receipt.quality[:MAX_KINDS_SHOWN]:
        table.add_row(
            Text(clean(row.kind, 24)),
            Text(clean(row.tier or "-", 14)),
            _count(row.audited),
            _count(row.right),
            _share(row.right, row.audited),
            _interval(row),
        )
    if len(receipt.quality) > MAX_KINDS_SHOWN:
        table.add_row(f"{len(receipt.quality) - MAX_KINDS_SHOWN} more", "", "", "", "", "")
    return table


def fine_usd(nano: int) -> str:
    """Small amounts with three digits that mean something: `$0.000123`."""
    value = nano / 1_000_000_000
    return usd(nano) if value >= 0.01 or nano == 0 else f"${value:.{2 - _exponent(value)}f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])
