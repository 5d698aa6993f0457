"""The correctness table and the answers that follow it: shares, difficulty, drift, what a check sees, and what a judge says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fleet.checks import Rejected, parse
from fleet.errors import BadInputError
from fleet.sim.asked import Asked
from fleet.sim.table import Drift, KindTable, Table, load_table
from fleet.sim.tabled import Tabled
from tests.support.sim import MODELS, fleet_config

ANSWER = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "string", "pattern": "^ok-"}}}
N = 2_000


def table(**fields: object) -> Table:
    kind = {"right": {"nano": 0.6, "mini": 0.8, "flagship": 0.95}, "items": N} | fields
    return Table(kinds={"k": KindTable.model_validate(kind)}, seed=5)


def right(world: Table, tier: str, items: range = range(N)) -> float:
    return sum(world.truth("k", item, tier) == "right" for item in items) / len(items)


def test_tiers_are_right_as_often_as_the_table_says() -> None:
    world = table()
    for tier, share in (("nano", 0.6), ("mini", 0.8), ("flagship", 0.95)):
        assert right(world, tier) == pytest.approx(share, abs=0.03)


def test_difficulty_is_shared_as_far_as_it_is_told() -> None:
    def both(world: Table) -> float:
        wrong = [item for item in range(N) if world.truth("k", item, "nano") != "right"]
        return sum(world.truth("k", item, "mini") == "right" for item in wrong) / len(wrong)

    assert both(table(together=0.0)) == pytest.approx(0.8, abs=0.04)
    assert both(table(together=1.0)) == pytest.approx(0.5, abs=0.04)


def test_a_drift_begins_where_it_says() -> None:
    world = table(drift=Drift(at=0.25, right={"nano": 0.05}))
    assert right(world, "nano", range(N // 4)) == pytest.approx(0.6, abs=0.06)
    assert right(world, "nano", range(N // 4, N)) == pytest.approx(0.05, abs=0.02)
    assert right(world, "mini", range(N // 4, N)) == pytest.approx(0.8, abs=0.04)


def test_answers_are_what_the_table_says_and_a_schema_sees_what_does_not_leak() -> None:
    world = table(leak={"nano": 0.5})
    answers = Tabled(world, fleet_config())
    seen = {"right": set[bool](), "seen": set[bool](), "leaked": set[bool]()}
    marks = {}
    for item in range(200):
        said = answers.answer(MODELS[0], asked(f"Case k/{item}\nwhat is it?"))
        assert said is not None
        assert said == answers.answer(MODELS[0], asked(f"Once more. Case k/{item}. Another prompt."))
        truth = world.truth("k", item, "nano")
        try:
            marks[item] = parse(said.text, ANSWER)["answer"]
            seen[truth].add(True)
        except Rejected:
            seen[truth].add(False)
        assert 0.8 * 80 <= said.tokens <= 1.2 * 80
    assert seen == {"right": {True}, "seen": {False}, "leaked": {True}}
    verdict = {"type": "object", "properties": {"verdict": {"enum": ["wrong", "right"]}, "why": {"type": "string"}}}
    for item, mark in marks.items():
        judged = answers.answer(MODELS[2], asked(f"Case k/{item}\nThe answer: {mark}", verdict))
        assert judged is not None
        is_right = world.truth("k", item, "nano") == "right"
        assert json.loads(judged.text)["verdict"] == ("right" if is_right else "wrong")


def test_prompts_that_name_no_case_are_none_of_its_business() -> None:
    answers = Tabled(table(), fleet_config())
    assert answers.answer(MODELS[0], asked("In case k/1 fails, tell us.")) is None
    assert answers.answer(MODELS[0], asked("Case other/1")) is None
    assert answers.answer("another-model", asked("Case k/1")) is None


def test_a_table_that_cannot_be_used_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("kinds: {a: {right: {nano: 0.5}}, b: {right: {mini: 0.5}}}")
    with pytest.raises(BadInputError, match="do not name the same tiers"):
        load_table(path)
    path.write_text("kinds: {a: {right: {nano: 1.5}}}")
    with pytest.raises(BadInputError, match=re.escape("kinds.a.right.nano")):
        load_table(path)


def test_the_table_that_the_benchmark_runs_on_has_what_the_figures_need() -> None:
    world = load_table(Path(__file__).parents[2] / "benchmarks" / "tables" / "money.yaml")
    kinds = world.kinds.values()
    assert len(kinds) >= 8
    assert any(kind.drift for kind in kinds)
    assert any(kind.right["mini"] > kind.right["flagship"] for kind in kinds)
    assert any(kind.leaks("nano") > 0 for kind in kinds)


def asked(prompt: str, schema: object = ANSWER) -> Asked:
    return Asked(model="m", instructions="", prompt=prompt, schema=schema)  # type: ignore[arg-type]
