"""What the reviewer is shown: everything in order, in runs that fit, with honest counts of the rest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.jobs import Outcome
from fleet.packing import MAX_LINE_CHARS, MAX_NAMED, Coverage, label_of, line_of, pack, terminal_steps

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=40)


@settings(deadline=None)  # the machine is shared
@given(TEXTS, st.integers(min_value=4, max_value=200))
def test_packing_keeps_the_order_and_no_run_is_over_the_size(texts: list[str], most: int) -> None:
    runs = pack(texts, most)
    packed = [text for run in runs for text in run]
    assert len(packed) == len(texts)
    for before, after in zip(texts, packed, strict=True):
        if len(before.encode()) <= most:
            assert after == before
        else:
            assert before.startswith(after)
            assert most - 4 < len(after.encode()) <= most, "cut where a character ends"
    for run in runs:
        size = sum(len(text.encode()) + 1 for text in run)
        assert size <= most or len(run) == 1
        assert len("\n".join(run).encode()) <= most


@settings(deadline=None)  # the machine is shared
@given(TEXTS, st.integers(min_value=4, max_value=200))
def test_a_run_ends_only_where_the_next_text_would_not_fit(texts: list[str], most: int) -> None:
    lengths = iter([min(len(text.encode()), most) + 1 for text in texts])
    sizes = [[next(lengths) for _ in run] for run in pack(texts, most)]
    for run, following in itertools.pairwise(sizes):
        assert sum(run) + following[0] > most


def test_nothing_is_one_empty_run_and_half_a_surrogate_is_no_crash() -> None:
    assert pack([], 10) == [[]]
    assert pack(["a\ud800b"], 10) == [["a?b"]]


def outcome(step: str, status: str, error: str | None = None) -> Outcome:
    return Outcome.model_validate({"step": step, "status": status, "error": error})


def coverage(outcomes: Iterable[tuple[str, str, Outcome]]) -> str:
    found = Coverage()
    for subtask, label, one in outcomes:
        found.add(subtask, label, one)
    return found.text()


def test_coverage_counts_by_step_and_names_what_failed() -> None:
    text = coverage(
        [
            ("a/0", "one.py", outcome("a", "ok")),
            ("a/1", "two.py", outcome("a", "failed", "no valid answer")),
            ("b/0", "one.py", outcome("b", "ok")),
            ("b/1", "two.py", outcome("b", "skipped")),
        ]
    )
    assert text == (
        "Coverage, by step:\n- a: 1 failed, 1 ok\n- b: 1 ok, 1 skipped\n"
        "Missing because it failed (1):\n- a/1 (two.py): no valid answer"
    )
    assert "Missing" not in coverage([("a", "", outcome("a", "ok"))])


def test_of_many_failures_some_are_named_and_all_are_counted() -> None:
    text = coverage((f"a/{i}", "", outcome("a", "failed", "x" * 1_000)) for i in range(500))
    assert "- a: 500 failed" in text
    assert "it failed (500)" in text
    assert text.count("\n- a/") == MAX_NAMED
    assert max(map(len, text.splitlines())) <= 300


def test_an_output_is_one_line_whatever_is_in_it() -> None:
    line = line_of("a/0", "x", Outcome(step="a", status="ok", output={"text": "two\nlines, ä"}))
    assert json.loads(line) == {"subtask": "a/0", "item": "x", "output": {"text": "two\nlines, ä"}}
    assert "\n" not in line
    long = line_of("a/0", "x", Outcome(step="a", status="ok", output="y" * 100_000))
    assert len(long) == MAX_LINE_CHARS + 1


def test_items_are_called_by_what_names_them() -> None:
    assert label_of({"id": 7, "path": "a.py"}, 0) == "a.py"
    assert label_of({"id": 7, "name": " "}, 0) == "7"
    assert label_of({"text": "no name"}, 3) == "#3"
    assert label_of("short", 3) == "short"
    assert label_of("long " * 50, 3) == "#3"
    assert label_of(None, None) == ""


def test_what_no_step_needs_is_what_the_job_is_about() -> None:
    assert terminal_steps([("a", ()), ("b", ("a",)), ("c", ("a",)), ("d", ("c",))]) == {"b", "d"}
