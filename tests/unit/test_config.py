"""Configuration errors name the file, the key, the bad value and the nearest valid one, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.config import Environment, Limits, ModelConfig, load_config, shipped_file
from fleet.errors import BadInputError
from fleet.runtime import Runtime, checked_config

PRICE = {"input": 1, "output": 2}
MODELS = {"small": {"context_tokens": 1000, "price": PRICE}, "big": {"context_tokens": 1000, "price": PRICE}}
TIERS = {
    "nano": {"model": "small", "escalate_to": "mini"},
    "mini": {"model": "small", "escalate_to": "flagship"},
    "flagship": {"model": "big"},
}


def written(folder: Path, text: str) -> Path:
    file = folder / "fleet.yaml"
    file.write_text(text)
    return file


def sentence(folder: Path, **changes: Any) -> str:
    file = written(folder, yaml.safe_dump({"models": MODELS, "tiers": TIERS} | changes, sort_keys=False))
    with pytest.raises(BadInputError) as caught:
        load_config(file)
    assert str(caught.value).startswith(str(file)), "it names the file"
    return str(caught.value).removeprefix(str(file))


def test_the_shipped_configuration_is_one_and_knows_all_prices() -> None:
    config = checked_config(Environment(fleet_config=shipped_file("fleet.yaml")))
    assert config.ladder("nano", None) == ("nano", "mini", "flagship")
    assert config.ladder("nano", "mini") == ("nano", "mini")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teirs": {}}, ': unknown key "teirs" (did you mean "tiers"?).'),
        (
            {"tiers": TIERS | {"nano": {"model": "small", "concurency": 3}}},
            ': unknown key "tiers.nano.concurency" (did you mean "concurrency"?).',
        ),
        (
            {"models": MODELS | {"big": {"context_tokens": 10, "limits": {"request_per_minute": 1}}}},
            ': unknown key "models.big.limits.request_per_minute" (did you mean "requests_per_minute"?).',
        ),
        ({"tiers": TIERS | {"nano": {"model": "smal"}}}, 'tiers.nano.model is "smal" (did you mean "small"?).'),
        (
            {"tiers": TIERS | {"nano": {"model": "small", "escalate_to": "mni"}}},
            'tiers.nano.escalate_to is "mni" (did you mean "mini"?).',
        ),
        (
            {"tiers": TIERS | {"flagship": {"model": "big", "escalate_to": "nano"}}},
            "tiers: escalate_to runs in a circle: nano -> mini -> flagship -> nano.",
        ),
        (
            {"tiers": TIERS | {"nano": {"model": "small", "escalate_to": "nano"}}},
            "tiers: escalate_to runs in a circle: nano -> nano.",
        ),
        ({"tiers": {"nano": TIERS["nano"], "mini": {"model": "small"}}}, 'tiers has no "flagship"'),
        (
            {"models": MODELS | {"big": {"context_tokens": 10, "provider": "opena"}}},
            'models.big.provider is "opena" (did you mean "openai"?).',
        ),
        (
            {"models": MODELS | {"big": {"context_tokens": -1}}},
            ": models.big.context_tokens is -1: input should be greater than 0.",
        ),
        (
            {"models": MODELS | {"big": {"context_tokens": "many"}}},
            ": models.big.context_tokens is 'many': input should be a valid integer",
        ),
        ({"outside": {"alow": []}}, ': unknown key "outside.alow" (did you mean "allow"?).'),
        ({"outside": {"allow": ["inside"]}}, '"inside" is no HOST:PORT; 10.0.0.7:8080 would be one'),
        ({"gate_width": 1}, ": gate_width is 1: input should be greater than or equal to 2."),
        (
            {"providers": {"openai": {"wire": "respones"}}},
            ": providers.openai.wire is 'respones' (did you mean \"responses\"?).",
        ),
        ({"tiers": {name: {} for name in TIERS}}, ': the key "tiers.nano.model" is missing.'),
    ],
)
def test_each_mistake_names_key_value_and_the_nearest_valid_one(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    assert expected in sentence(tmp_path, **changes)


def test_every_problem_gets_a_line_of_its_own(tmp_path: Path) -> None:
    text = sentence(tmp_path, gate_width=1, claim_s=0, teirs=1)
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: {}\ntiers: {}\nmodels: {}\n", ", line 3 is not valid YAML: the key 'models' is given twice."),
        ("a: 1\nb: {x: 1, x: 2}\n", ", line 2 is not valid YAML: the key 'x' is given twice."),
        ("a: [1, 2\nb: 3\n", "is not valid YAML"),
        ("- 1\n", "holds no mapping"),
        ("", "holds no mapping"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML: could not determine a constructor"),
        ("[" * 5_000, "is nested too deep to be read."),
    ],
)
def test_what_is_no_configuration_says_where(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(BadInputError) as caught:
        load_config(written(tmp_path, text))
    assert expected in str(caught.value)


def test_files_that_cannot_be_read_are_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(BadInputError, match="cannot be read"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff\xfe")
    with pytest.raises(BadInputError, match=r"is not UTF-8 text \(byte 3\)"):
        load_config(binary)
    big = tmp_path / "big.yaml"
    big.write_text("#" * 4_000_001)
    with pytest.raises(BadInputError, match="is over 4,000,000 bytes"):
        load_config(big)


@pytest.mark.parametrize(
    ("lane", "key", "said"),
    [("flex", "service_tiers", {"service_tiers": ["flex"]}), ("batch", "batch", {"batch": True})],
)
def test_a_lane_without_a_price_is_found_before_anything_starts(
    tmp_path: Path, lane: str, key: str, said: dict[str, Any]
) -> None:
    """The list has no lanes of the fallback's model."""
    name = "deepseek-chat"
    models: dict[str, Any] = MODELS | {name: {"context_tokens": 1_000} | said}
    tiers = TIERS | {"nano": {"model": "small", "escalate_to": "mini", "fallback": name}}
    file = written(tmp_path, yaml.safe_dump({"models": models, "tiers": tiers}))
    with pytest.raises(BadInputError) as caught:
        checked_config(Environment(fleet_config=file))
    asked = f'No price is known for the model "{name}" in the lane {lane}; give models.{name}.price'
    assert str(caught.value).startswith(f"{file}: {asked}")
    assert str(caught.value).endswith(f"Or leave the lane out (models.{name}.{key}).")
    models[name]["price"] = PRICE
    checked_config(Environment(fleet_config=written(tmp_path, yaml.safe_dump({"models": models, "tiers": tiers}))))


def test_a_model_without_a_price_is_found_before_anything_starts(tmp_path: Path) -> None:
    models = MODELS | {"small": {"context_tokens": 1000}}
    file = written(tmp_path, yaml.safe_dump({"models": models, "tiers": TIERS}))
    with pytest.raises(BadInputError) as caught:
        checked_config(Environment(fleet_config=file))
    assert str(caught.value).startswith(f'{file}: No price is known for the model "small"; give models.small.price')


def test_without_a_fleet_to_join_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEET_REDIS_URL", raising=False)
    with pytest.raises(BadInputError, match="FLEET_REDIS_URL is not set"):
        Runtime.from_environment(Environment())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("auto", Limits(auto=True)),
        ({"auto": True, "requests_per_minute": 500}, Limits(auto=True, requests_per_minute=500)),
        ({}, Limits()),
    ],
)
def test_limits_are_numbers_or_found_out(given: object, expected: Limits) -> None:
    assert ModelConfig.model_validate({"context_tokens": 10, "limits": given}).limits == expected
