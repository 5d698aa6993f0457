"""Draws `make bench-money`: `python -m benchmarks.money_plot money.json money.png`, as `benchmarks.plot` does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot


def draw(data: dict[str, Any], path: Path) -> None:
    """Regret over time: what was spent beyond the best fixed ladders, in percent of what those cost, all kinds and each."""
    figure, panel = pyplot.subplots(figsize=(10, 5.6))
    at, kinds = data["at"], data["kinds"]
    # After ten, colours come again: with other strokes.
    for number, (kind, points) in enumerate(kinds.items()):
        stroke = ("-", "--", "-.")[number // 10 % 3]
        panel.plot(at, [100 * value for value in points], stroke, linewidth=1.1, alpha=0.8, label=kind)
    whole = [100 * sum(values) for values in zip(*kinds.values(), strict=True)]
    panel.plot(at, whole, color="#0b6e4f", linewidth=2.6, label="all kinds")
    panel.axhline(5, color="#222222", linewidth=0.9, linestyle=":", label="5 %")
    panel.set_title("Spent beyond the best fixed ladder of each kind, audits included", fontsize=11, loc="left")
    panel.set_xlabel("subtasks that have ended", fontsize=9)
    panel.set_ylabel("% of what those ladders cost in all", fontsize=9)
    panel.tick_params(labelsize=8.5)
    panel.grid(color="#e4e8ec")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False, ncols=2, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
