"""What the reviewer is shown: one line per output, packed to a number of characters, and what failed or is missing.

Pure functions over outcomes; they know no model and no store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from fleet.jobs import Outcome

#: Failures that are named to the reviewer; the rest is only counted.
MAX_NAMED = 40
MAX_LINE_CHARS = 20_000
_LABELS = ("path", "id", "name", "title", "key")


def label_of(item: Any, position: int | None) -> str:
    """A short name for an item: its path, id, name or title, else its position."""
    if isinstance(item, dict):
        for key in _LABELS:
            value = item.get(key)
            if isinstance(value, (str, int)) and str(value).strip():
                return str(value)[:200]
    if isinstance(item, str) and len(item) <= 80:
        return item
    return "" if position is None else f"#{position}"


def line_of(subtask: str, label: str, outcome: Outcome) -> str:
    """One output as a JSON line; `subtask` is what the reviewer names to send it back."""
    line = json.dumps({"subtask": subtask, "item": label, "output": outcome.output}, ensure_ascii=False)
    return line if len(line) <= MAX_LINE_CHARS else line[:MAX_LINE_CHARS] + "…"


class Coverage:
    """What the reviewer has to know about what it does not see: counts by step, and what failed, with reasons."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._failed: list[str] = []

    def add(self, subtask: str, label: str, outcome: Outcome) -> None:
        self._counts.setdefault(outcome.step, Counter())[outcome.status] += 1
        if outcome.status == "failed" and len(self._failed) < MAX_NAMED:
            self._failed.append(f"- {subtask} ({label}): {outcome.error}"[:300])

    def text(self) -> str:
        lines = [
            f"- {step}: " + ", ".join(f"{number} {status}" for status, number in sorted(by_status.items()))
            for step, by_status in self._counts.items()
        ]
        text = "Coverage, by step:\n" + "\n".join(lines)
        if self._failed:
            total = sum(by_status["failed"] for by_status in self._counts.values())
            text += f"\nMissing because it failed ({total}):\n" + "\n".join(self._failed)
        return text


def pack(texts: Iterable[str], most_bytes: int) -> list[list[str]]:
    """The texts in order, in as few runs as fit `most_bytes` each; a text that is longer alone is cut to fit."""
    runs: list[list[str]] = [[]]
    size = 0
    for text in texts:
        data = text.encode("utf-8", "replace")[:most_bytes]
        length = len(data) + 1
        if runs[-1] and size + length > most_bytes:
            runs.append([])
            size = 0
        runs[-1].append(data.decode("utf-8", "ignore"))
        size += length
    return runs


def terminal_steps(needs: Sequence[tuple[str, Sequence[str]]]) -> set[str]:
    """The ids of the steps that no other step needs: their outputs are what the job is about."""
    needed = {need for _, names in needs for need in names}
    return {step for step, _ in needs if step not in needed}
