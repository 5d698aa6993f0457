"""Owns correctness tables made up by chance, for trying routing on what nobody thought of: `random_table(seed)`."""

from __future__ import annotations

from random import Random

from fleet.sim.table import Drift, KindTable, Table

#: The shares that nano and mini are right with, at least and at most: what a table is drawn from.
SORTS = {
    "easy": ((0.85, 0.97), (0.9, 0.98)),
    "middling": ((0.4, 0.85), (0.6, 0.95)),
    "hopeless-for-nano": ((0.0, 0.05), (0.5, 0.95)),
    "hopeless-for-mini": ((0.3, 0.8), (0.0, 0.08)),
    "mini-above-flagship": ((0.1, 0.6), (0.9, 0.99)),
    "nano-above-mini": ((0.7, 0.95), (0.3, 0.7)),
    "hard": ((0.0, 0.05), (0.0, 0.1)),
    "anything": ((0.0, 1.0), (0.0, 1.0)),
}
NAMES = ("classify", "extract", "code", "plan", "reply", "summary")


def random_table(seed: int, *, leaks: bool = False, drifts: bool = True) -> Table:
    """8 to 12 kinds of 600 to 3,000 items; `leaks`: the checks of about a third of them let wrong answers through."""
    dice = Random(seed)

    def share(least: float, most: float) -> float:
        return round(dice.uniform(least, most), 3)

    kinds = {}
    for number in range(dice.randint(8, 12)):
        sort = dice.choice(list(SORTS))
        nano, mini = SORTS[sort]
        flagship = (0.7, 0.88) if sort == "mini-above-flagship" else (0.88, 0.99)
        drift = leak = None
        if drifts and dice.random() < 0.15:
            drift = Drift(at=share(0.3, 0.7), right={dice.choice(("nano", "nano", "mini")): share(0, 1)})
        if leaks and dice.random() < 0.3:
            leak = {"nano": share(0, 1), "mini": share(0, 0.5), "flagship": share(0, 0.2)}
        kinds[f"{dice.choice(NAMES)}-{number}-{sort}"] = KindTable(
            right={"nano": share(*nano), "mini": share(*mini), "flagship": share(*flagship)},
            together=share(0, 0.95),
            items=dice.randint(600, 3_000),
            input_tokens=dice.randint(100, 1_500),
            output_tokens=dice.randint(20, 300),
            leak=leak or 0.0,
            drift=drift,
        )
    return Table(kinds=kinds, seed=seed, judge_error=0.01)
