"""Draws `make bench-autoscale`: `python -m benchmarks.autoscale_plot autoscale.json autoscale.png`, as `benchmarks.plot` does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

COLORS = ("#0b6e4f", "#c8553d", "#d9a441", "#5b7c99")


def draw(loads: list[dict[str, Any]], path: Path) -> None:
    """A panel for each load: pods over time for each way of scaling, and how many the limits can keep busy."""
    figure, panels = pyplot.subplots(2, 2, figsize=(13, 7.4))
    for panel, load in zip(panels.flat, loads, strict=True):
        _pods(panel, load)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _pods(panel: Any, load: dict[str, Any]) -> None:
    most = 0
    for place, (color, (how, looks)) in enumerate(zip(COLORS, load["runs"].items(), strict=True)):
        pods = [number for _, number, _ in looks]
        most = max(most, *pods)
        minutes = [at / 60 for at, _, _ in looks]
        ours = place == 0
        panel.step(
            minutes, pods, where="post", color=color, label=how, linewidth=2.4 if ours else 1.3, zorder=4 if ours else 3
        )
    panel.axhline(
        load["busy_pods"], color="#222222", linewidth=0.9, linestyle=":", label="what the limits can keep busy"
    )
    panel.set_title(load["load"], fontsize=10.5, loc="left")
    # A run that does not come to an end would press all others together.
    panel.set_xlim(0, min(max(looks[-1][0] for looks in load["runs"].values()), load["until_s"] * 1.5) / 60)
    panel.set_ylim(0, 1.55 * most)  # room for the legend
    panel.set_xlabel("minutes", fontsize=9)
    panel.set_ylabel("pods", fontsize=9)
    panel.tick_params(labelsize=8.5)
    panel.grid(color="#e4e8ec")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False, loc="upper right")


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text())["loads"], Path(sys.argv[2]))
