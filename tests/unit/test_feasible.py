"""Steps that no fleet of this configuration could run, and the sentence for each: ladders and checks."""

from __future__ import annotations

from typing import Any

import pytest

from fleet import named_checks
from fleet.config import FleetConfig
from fleet.errors import BadInputError
from fleet.feasible import check_feasible
from fleet.jobs import JobSpec
from tests.support.sim import fleet_config

CONFIG = FleetConfig.model_validate(
    fleet_config().model_dump() | {"checks": {"short": "package.of_mine:short", "even": "package.of_mine:Even.check"}}
)
TOPIC = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
JUDGE = {"tier": "mini", "prompt": "Of {{ item }}: {{ output }}?"}


def check(**fields: Any) -> None:
    step = {"id": "a", "each": "items", "prompt": "{{ item }}"} | fields
    check_feasible(JobSpec.model_validate({"name": "x", "items": ["i"], "steps": [step]}), CONFIG)


@pytest.mark.parametrize(
    "step",
    [
        {"ladder": ["nano", "flagship"]},
        {"ladder": ["mini"], "tier": "mini"},
        {"ladder": ["nano", "mini", "flagship"], "max_tier": "mini"},
        {"check": "short"},
        {"check": {"one_of": ["a"], "field": "topic"}, "output": TOPIC},
        {"check": {"judge": JUDGE}},
    ],
)
def test_what_can_be_run(step: dict[str, Any]) -> None:
    check(**step)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"ladder": ["nano", "flagshp"]}, 'steps.a.ladder is "flagshp" (did you mean "flagship"?).'),
        ({"ladder": ["auto", "flagship"]}, 'steps.a.ladder is "auto"'),
        ({"ladder": ["flagship", "nano"]}, 'steps.a.ladder: "nano" is not on the way up from "flagship".'),
        ({"ladder": ["nano", "nano"]}, 'steps.a.ladder: "nano" is not on the way up from "nano".'),
        ({"ladder": ["nano", "mini"], "tier": "mini"}, 'steps.a.ladder begins with "nano" and tier is "mini"'),
        ({"ladder": ["nano", "flagship"], "max_tier": "mini"}, 'steps.a.max_tier "mini" is not in its ladder'),
        ({"check": "shrt"}, 'steps.a.check: There is no check "shrt" (did you mean "short"?)'),
        ({"check": "os:system"}, 'There is no check "os:system"'),
        ({"check": {"min_length": 1, "field": "topic"}}, "plain text; give the step an output."),
        ({"check": {"min_length": 1, "field": "tpic"}, "output": TOPIC}, 'is "tpic" (did you mean "topic"?).'),
        ({"check": {"judge": JUDGE | {"tier": "auto"}}}, 'steps.a.check.judge.tier is "auto"'),
        ({"check": {"judge": JUDGE | {"prompt": "{{ outpt }}"}}}, 'uses "outpt" (did you mean "output"?).'),
        ({"check": {"judge": JUDGE | {"prompt": "Fine?"}}}, "it has to use {{ output }}."),
        ({"check": {"judge": JUDGE | {"prompt": "{{ output"}}}, "steps.a.check.judge.prompt: The template is wrong"),
        ({"each": None, "prompt": "x", "check": {"judge": JUDGE}}, 'uses "item"'),
    ],
)
def test_what_cannot_has_its_sentence(step: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError) as refused:
        check(**step)
    assert said in str(refused.value)


def test_checks_of_installed_packages_are_known_by_their_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_checks, "_installed", lambda: {"even": "elsewhere:even", "odd": "elsewhere:odd"})
    assert named_checks.target_of("odd", CONFIG) == "elsewhere:odd"
    assert named_checks.target_of("even", CONFIG) == "package.of_mine:Even.check", "the configuration's word goes first"


@pytest.mark.parametrize("target", ["os", "os:", ":system", "os:system()", "../x:y", "a b:c"])
def test_what_is_no_callable_is_no_configuration(target: str) -> None:
    with pytest.raises(ValueError, match=r"package\.module:callable"):
        FleetConfig.model_validate(fleet_config().model_dump() | {"checks": {"bad": target}})
