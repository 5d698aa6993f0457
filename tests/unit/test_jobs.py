"""The rules a job keeps before anything is spent, and the sentence for each one that is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.documents import parse
from fleet.errors import BadInputError
from fleet.feasible import check_feasible
from fleet.jobs import Items, JobSpec, Step, in_order, load_job
from tests.support.jobs import TRIAGE
from tests.support.sim import fleet_config

A: dict[str, Any] = {"id": "a", "each": "items", "prompt": "{{ item }}"}
TOPIC = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}


def sentence(job: dict[str, Any]) -> str:
    """What is said about a job that breaks a rule."""
    with pytest.raises(BadInputError) as caught:
        parse(JobSpec, {"name": "test"} | job, "job.yaml")
    return str(caught.value)


def steps(*given: dict[str, Any]) -> dict[str, Any]:
    return {"steps": list(given)}


def test_the_example_is_a_job() -> None:
    spec = parse(JobSpec, yaml.safe_load(TRIAGE), "triage.yaml")
    assert [step.id for step in spec.steps] == ["classify", "summarise"]
    assert spec.steps[0].label == "ticket-topic"
    assert spec.steps[1].label == "summarise"
    assert spec.budget_nano_usd == 2_500_000_000
    check_feasible(spec, fleet_config())


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({"goal": "x", "budget": 3}, 'job.yaml: unknown key "budget" (did you mean "budget_usd"?).'),
        (steps(A | {"promt": "x"}), 'job.yaml: unknown key "steps.0.promt" (did you mean "prompt"?).'),
        ({}, "job.yaml: give steps, or a goal to plan them from."),
        ({"goal": "x", "priority": "hihg"}, "job.yaml: priority is 'hihg' (valid: background, interactive, normal)."),
        ({"goal": "x", "priority": "normale"}, "job.yaml: priority is 'normale' (did you mean \"normal\"?)."),
        ({"goal": "x", "budget_usd": 0}, "job.yaml: budget_usd is 0: input should be greater than 0."),
        ({"goal": "x", "budget_usd": 1e30}, "job.yaml: budget_usd is 1e+30: input should be less than or equal to 900"),
        ({"goal": "x", "budget_usd": float("inf")}, "job.yaml: budget_usd is inf: input should be a finite number."),
        ({"goal": "x", "review": {"prompt": "x", "rounds": 11}}, "review.rounds is 11: input should be less than"),
        (steps(A, A), 'the step "a" stands twice'),
        (steps(A, A | {"id": "b", "needs": ["c"]}), 'steps.b.needs names "c" (valid: a)'),
        (
            steps(A | {"id": "classify"}, A | {"id": "b", "needs": ["clasify"]}),
            'steps.b.needs names "clasify" (did you mean "classify"?)',
        ),
        (
            steps(A | {"needs": ["c"]}, A | {"id": "b", "needs": ["a"]}, A | {"id": "c", "needs": ["b"]}),
            "needs run in a circle: a -> c -> b -> a",
        ),
        (steps(A | {"needs": ["a"]}), "needs run in a circle: a -> a"),
        (
            steps(A | {"output": TOPIC}, A | {"id": "b", "prompt": "{{ a.topic }}"}),
            'steps.1: prompt uses "a" (valid: goal, item, items); add it to needs if it is a step.',
        ),
        (steps(A | {"when": "b.ok"}), 'steps.0: when uses "b"'),
        (
            steps({"id": "a", "prompt": "{{ item }}"}),
            'prompt uses "item" (did you mean "items"?); it needs each: items',
        ),
        (
            steps(A | {"output": TOPIC}, A | {"id": "b", "needs": ["a"], "prompt": "{{ a.topics }}"}),
            'steps.b.prompt asks for a.topics (did you mean "topic"?)',
        ),
        (
            steps(A | {"output": TOPIC}, A | {"id": "b", "needs": ["a"], "when": "a.kind == 1"}),
            "steps.b.when asks for a.kind (valid: topic)",
        ),
        (
            steps(A, A | {"id": "b", "needs": ["a"], "prompt": "{{ a.topic }}"}),
            "steps.b.prompt asks for a.topic, but a gives plain text; give steps.a an output with that property",
        ),
        (steps(A | {"output": {"type": "objekt"}}), "steps.0.output: not a JSON schema: 'objekt' is not valid"),
        (
            steps(A | {"output": {"$ref": "https://example.com/schema.json"}}),
            'the reference "https://example.com/schema.json" leads outside the schema',
        ),
        (
            steps(A | {"output": {"properties": {"x": {"prefixItems": [{"$ref": "other.json"}]}}}}),
            'the reference "other.json" leads outside the schema',
        ),
        (steps(A | {"prompt": "{{ item"}), "steps.0: prompt: The template is wrong in line 1"),
        (steps(A | {"when": "item =="}), "steps.0: when: The template is wrong in line 1"),
        (steps(A | {"id": "My-Step"}), 'steps.0.id: "My-Step" is no step id'),
        (steps(A | {"id": "item"}), '"item" is no step id'),
        (steps(A | {"each": "item"}), "steps.0.each is 'item' (did you mean \"items\"?)."),
        ({"goal": "x", "items": {}}, "give exactly one of path, files, images and file (given: none)"),
        (
            {"goal": "x", "items": {"path": "a", "files": {"root": "."}}},
            "give exactly one of path, files, images and file (given: path, files)",
        ),
    ],
)
def test_each_rule_has_its_sentence(job: dict[str, Any], expected: str) -> None:
    assert expected in sentence(job)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"id": "a"}, "steps.a needs a prompt, or a conversation"),
        (
            {"id": "a", "prompt": "x", "each": "items", "conversation": "item"},
            "steps.a needs a prompt, or a conversation",
        ),
        ({"id": "a", "conversation": "item"}, "steps.a: a conversation of each item needs each: items"),
        ({"id": "a", "conversation": {"messages": [{"role": "user", "content": "x"}]}, "output": {}}, "in it"),
    ],
)
def test_a_step_asks_one_thing(step: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInputError, match=expected):
        check_feasible(parse(JobSpec, {"name": "test"} | steps(step), "job.yaml"), fleet_config())


def test_fields_of_lists_and_of_open_outputs_are_not_checked() -> None:
    over_all = {"id": "b", "needs": ["a"], "prompt": "{{ a.count }}"}
    parse(JobSpec, {"name": "x"} | steps(A | {"output": TOPIC}, over_all), "job.yaml")
    free = A | {"output": {"type": "object"}}
    parse(JobSpec, {"name": "x"} | steps(free, A | {"id": "b", "needs": ["a"], "prompt": "{{ a.any }}"}), "job.yaml")


def test_a_schema_may_refer_to_itself() -> None:
    tree = {"type": "object", "properties": {"below": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"type": "object"}}}
    assert Step.model_validate(A | {"output": tree}).output == tree


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"tier": "nanno"}, 'steps.a.tier is "nanno" (did you mean "nano"?).'),
        ({"tier": "nano", "max_tier": "auto"}, 'steps.a.max_tier is "auto"'),
        ({"tier": "flagship", "max_tier": "mini"}, 'steps.a.max_tier "mini" is not on the way up from "flagship".'),
        ({"tier": "mini", "max_tier": "nano"}, 'steps.a.max_tier "nano" is not on the way up from "mini".'),
    ],
)
def test_tiers_have_to_exist_and_the_ceiling_to_be_above_the_start(step: dict[str, Any], expected: str) -> None:
    spec = JobSpec.model_validate({"name": "x"} | steps(A | step))
    with pytest.raises(BadInputError) as caught:
        check_feasible(spec, fleet_config())
    assert expected in str(caught.value)


def test_needs_come_before_what_needs_them() -> None:
    given = {id_: Step(id=id_, prompt="x", needs=needs) for id_, needs in {"c": ("b",), "b": ("a",), "a": ()}.items()}
    assert [step.id for step in in_order(given)] == ["a", "b", "c"]


def test_relative_paths_are_taken_from_the_jobs_file(tmp_path: Path) -> None:
    def load(items: object) -> Items:
        file = tmp_path / "below" / "job.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump({"name": "x", "goal": "y", "items": items}))
        found = load_job(file).items
        assert isinstance(found, Items)
        return found

    assert load({"path": "t.jsonl"}).path == tmp_path / "below" / "t.jsonl"
    assert load({"path": "/t.jsonl"}).path == Path("/t.jsonl")
    files = load({"files": {"root": "src"}}).files
    assert files is not None
    assert files.root == tmp_path / "below" / "src"
    images = load({"images": {"root": "."}}).images
    assert images is not None
    assert images.root == tmp_path / "below"


def test_a_file_without_a_job_says_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("- not\n- a job\n")
    with pytest.raises(BadInputError, match="holds no job; it needs at least name and steps"):
        load_job(file)
