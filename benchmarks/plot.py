"""Draws the results of `make bench`: `python -m benchmarks.plot bench.json bench.png`, in the environment of the peers."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import Patch

#: Colors of the bars, told by how a row's name starts.
OURS, BARE, OTHERS = "#0b6e4f", "#5b7c99", "#c3ccd5"
LEGEND = {OURS: "tierfleet", BARE: "a script without a queue", OTHERS: "other tools"}
LOADS = ((1_000, 1.0), (100, 0.0))


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Bars of calls/s by row, a panel for each load that most rows were run under; whiskers from least to most."""
    by_load: list[dict[str, list[float]]] = [
        {
            found["row"]: [run["rate"] for run in found["runs"]]
            for found in results
            if (found["in_flight"], found["latency_s"]) == load
        }
        for load in LOADS
    ]
    names = sorted({name for rates in by_load for name in rates}, key=lambda name: _middle(by_load[0].get(name)))
    figure, panels = pyplot.subplots(1, len(LOADS), figsize=(13, 5.6), sharey=True)
    for panel, (in_flight, latency_s), rates in zip(panels, LOADS, by_load, strict=True):
        _bars(panel, names, rates)
        answers = f"the provider answers after {latency_s:g} s" if latency_s else "the provider answers at once"
        panel.set_title(f"{in_flight:,} calls in flight, {answers}", fontsize=10.5, loc="left")
    handles = [Patch(color=color, label=label) for color, label in LEGEND.items()]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _bars(panel: Any, names: list[str], rates: dict[str, list[float]]) -> None:
    """One panel; a bar far beyond all others is cut off, its figure says how far it goes."""
    *others, highest = sorted(max(found) for found in rates.values())
    limit = 1.15 * min(highest, 1.6 * max(others, default=highest))
    for place, name in enumerate(names):
        if not (found := rates.get(name)):
            panel.annotate(
                "not run", (0, place), xytext=(5, -3), textcoords="offset points", fontsize=8, color="#888888"
            )
            continue
        rate = statistics.median(found)
        spread = [[rate - min(found)], [max(found) - rate]] if len(found) > 1 else None
        panel.barh(place, rate, height=0.72, color=_color(name), xerr=spread, ecolor="#222222", capsize=2.5)
        label: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5}
        if max(found) > limit:
            panel.annotate(f"{rate:,.0f} →", (limit, place), xytext=(-5, -3), ha="right", color="white", **label)
        else:
            panel.annotate(f"{rate:,.0f}", (max(found), place), xytext=(5, -3), **label)
    panel.set_xlim(0, limit)
    panel.set_xlabel("calls a second", fontsize=9)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_yticks(range(len(names)), names, fontsize=9)
    panel.tick_params(axis="x", labelsize=8.5)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color="#e4e8ec")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)


def _middle(rates: list[float] | None) -> float:
    return statistics.median(rates) if rates else 0.0


def _color(name: str) -> str:
    if name.startswith("tierfleet"):
        return OURS
    return BARE if name.startswith("bare") else OTHERS


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text())["results"], Path(sys.argv[2]))
