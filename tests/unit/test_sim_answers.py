"""Answers read well: drawn from the prompt, for the kinds of work a fleet does."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from fleet.sim.answers import answer

CODE = '''"""Carts and what they hold. A cart is never shared."""

from __future__ import annotations

from shop.prices import Price
import json

MAX_ITEMS = 5


class Cart:
    """Items a customer means to buy."""

    def total(self) -> Price: ...


def merge(one: Cart, other: Cart) -> Cart:
    """One cart of two."""


def _private() -> None: ...
'''
CLASSIFY: dict[str, Any] = {
    "type": "object",
    "required": ["role", "relevant", "reason"],
    "properties": {
        "role": {"enum": ["library", "cli", "test", "config", "package marker", "docs", "other"]},
        "relevant": {"type": "boolean"},
        "reason": {"type": "string"},
    },
}
SUMMARISE: dict[str, Any] = {
    "type": "object",
    "required": ["purpose", "main_names", "depends_on"],
    "properties": {
        "purpose": {"type": "string"},
        "main_names": {"type": "array", "items": {"type": "string"}},
        "depends_on": {"type": "array", "items": {"type": "string"}},
    },
}
REVIEW: dict[str, Any] = {
    "type": "object",
    "required": ["verdict", "result", "rework", "gaps"],
    "properties": {
        "verdict": {"enum": ["rework", "accept", "finish"]},
        "result": {"type": "string"},
        "rework": {"type": "array", "items": {"type": "object", "properties": {"subtask": {"type": "string"}}}},
        "gaps": {"type": "array", "items": {"type": "string"}},
    },
}


def asked(prompt: str, schema: dict[str, Any], name: str = "output", limit: int = 2000) -> Any:
    return json.loads(answer("You are careful.", prompt, schema, name, limit))


FORMS = (
    "Which role does this file play: library, cli, test, config or docs?\n\nPath: {path}\n\n{text}",
    "Classify the file {path}.\n```python\n{text}\n```\n",
    'Classify.\n<file path="{path}">\n{text}\n</file>',
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("path", "text", "role", "relevant"),
    [
        ("shop/cart.py", CODE, "library", True),
        ("tests/unit/test_cart.py", "def test_total() -> None: ...", "test", False),
        ("shop/__init__.py", "", "package marker", False),
        ("config/settings.toml", "[shop]\nname = 'x'", "config", False),
        ("shop/cli.py", "import typer\n\ndef main() -> None: ...", "cli", True),
        ("README.md", "# Shop\n\nSells things.", "docs", True),
    ],
)
def test_a_file_is_classified(form: str, path: str, text: str, role: str, relevant: bool) -> None:
    found = asked(form.format(path=path, text=text), CLASSIFY)
    assert (found["role"], found["relevant"]) == (role, relevant)
    assert path in found["reason"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_summarised(form: str) -> None:
    assert asked(form.format(path="shop/cart.py", text=CODE), SUMMARISE) == {
        "purpose": "Carts and what they hold. A cart is never shared.",
        "main_names": ["Cart", "merge", "MAX_ITEMS"],
        "depends_on": ["shop.prices"],
    }


def test_an_item_shown_as_json_is_read() -> None:
    item = json.dumps({"path": "shop/cart.py", "content": CODE})
    found = asked(f"Summarise this file: {item}", SUMMARISE)
    assert (found["purpose"], found["main_names"][0]) == ("Carts and what they hold. A cart is never shared.", "Cart")


OUTPUTS = [
    {
        "item": {"path": f"shop/{part}/{name}.py"},
        "step": "summarise",
        "output": {"purpose": f"Does {name} for the {part}.", "main_names": [name.capitalize()]},
    }
    for part in ("front", "back")
    for name in ("orders", "stock", "returns")
]


@pytest.mark.parametrize(
    "shown",
    [
        "\n".join(map(json.dumps, OUTPUTS)),
        "\n\n".join(f"### {entry['item']['path']}\n{json.dumps(entry['output'], indent=2)}" for entry in OUTPUTS),  # type: ignore[index]
    ],
    ids=["lines", "sections"],
)
def test_a_review_accepts_with_a_report(shown: str) -> None:
    found = asked(f"Goal: Document the shop.\n\nThe outputs:\n\n{shown}", REVIEW)

    assert (found["verdict"], found["rework"], found["gaps"]) == ("accept", [], [])
    lines = found["result"].splitlines()
    assert lines[0] == "# Document the shop"
    assert [line for line in lines if line.startswith("## ")] == ["## shop/front", "## shop/back"]
    assert "- `shop/back/stock.py` — Does stock for the back. Main names: `Stock`." in lines
    assert len([line for line in lines if line.startswith("- ")]) == len(OUTPUTS)


def test_a_report_has_the_sections_asked_for() -> None:
    shown = "\n".join(map(json.dumps, OUTPUTS))
    prompt = f'Goal: Document the shop.\n\nUse a section "## Overview" and a section "## Architecture".\n\n{shown}'
    lines = asked(prompt, REVIEW)["result"].splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert headings == ["## Overview", "## Architecture", "### shop/front", "### shop/back"]
    assert "Document the shop." in lines[2]


def test_a_report_ends_with_a_whole_line_within_its_limit() -> None:
    shown = "\n".join(json.dumps(entry) for entry in OUTPUTS * 5)
    for limit in (120, 150, 200, 300):
        result = asked(f"Goal: Document the shop.\n\n{shown}", REVIEW, limit=limit)["result"]
        assert len(result) <= limit * 2.5
        assert not result.rstrip().splitlines()[-1].startswith("#")


@pytest.mark.parametrize(
    ("ticket", "topic"),
    [
        ("I was charged twice in March, please refund one.", "billing"),
        ("The app crashes with an error when I press save.", "bug"),
        ("Do you have an office in Lisbon?", "other"),
    ],
)
@pytest.mark.parametrize("form", ["Topic of this ticket? {}", "Pick billing, bug or other.\n\nTicket: {}"])
def test_a_ticket_is_sorted(form: str, ticket: str, topic: str) -> None:
    schema = {"type": "object", "properties": {"topic": {"enum": ["bug", "billing", "other"]}}}
    assert asked(form.format(ticket), schema) == {"topic": topic}


@pytest.mark.parametrize("output", [{"type": ["string", "null"]}, {"type": "object"}])
def test_a_plan_has_two_steps_over_the_fields_of_the_items(output: dict[str, Any]) -> None:
    step = {
        "id": {"type": "string"},
        "each": {"type": ["string", "null"]},
        "tier": {"enum": ["nano", "mini", "flagship", "auto"]},
        "kind": {"type": "string"},
        "prompt": {"type": "string"},
        "needs": {"type": "array", "items": {"type": "string"}},
        "when": {"type": ["string", "null"]},
        "output": output,
    }
    closed = {"type": "object", "additionalProperties": False, "properties": step, "required": list(step)}
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["steps"],
        "properties": {"steps": {"type": "array", "items": {"$ref": "#/$defs/step"}}},
        "$defs": {"step": closed},
    }
    items = '{"path": "a.py", "content": "x"}\n{"path": "b.py", "content": "y"}'

    first, second = asked(f"Goal: Document the shop\n\nSample items:\n{items}", schema, "plan")["steps"]

    assert (first["id"], first["tier"], first["each"], first["needs"]) == ("classify", "nano", "items", [])
    assert (second["id"], second["tier"], second["needs"]) == ("summarise", "mini", ["classify"])
    assert second["when"] == "classify.relevant"
    for entry in (first, second):
        assert "{{ item.path }}" in entry["prompt"]
        assert "{{ item.content }}" in entry["prompt"]
        given = entry["output"]
        assert (json.loads(given) if isinstance(given, str) else given)["type"] == "object"


def test_free_text_is_taken_from_the_prompt() -> None:
    text = "The pump in hall 3 leaks. It was repaired in May."
    assert answer("", f"Summarise for an engineer: {text}", None, "", 400) == text


@pytest.mark.parametrize("piece", [" \n", " ", "\n", "{", '{"a":', "<file>", "```\n", "class A:\n  ", "@a.b/", "# x\n"])
def test_no_prompt_holds_up_the_server(piece: str) -> None:
    prompt = piece * (300_000 // len(piece))
    started = time.process_time()
    answer("", prompt, {**SUMMARISE, "properties": {**SUMMARISE["properties"], **REVIEW["properties"]}}, "o", 4000)
    # 50 ms is the aim; a second tells apart what grows with the square of the length on any machine.
    assert time.process_time() - started < 1.0
