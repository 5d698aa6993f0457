"""A prompt over many items, each answer a model: the job that asks for them, and the models of its outcomes.

Pure functions: they know pydantic and jobs, and no connection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fleet.errors import BadInputError, MapError, MapFailure
from fleet.jobs import Outcome
from fleet.templates import names_used
from fleet.views import JobView

M = TypeVar("M", bound=BaseModel)

STEP = "map"
#: Failures that the error's text names; the others are only counted there.
MOST_NAMED = 3
#: What says nothing that has to be kept, or nothing that strict outputs take.
_DROPPED = ("default", "discriminator", "title")


def map_job(
    items: Sequence[Any],
    prompt: str,
    schema: type[BaseModel],
    *,
    tier: str,
    kind: str | None,
    budget_usd: Decimal | float | None,
    max_output_tokens: int,
) -> dict[str, Any]:
    """One job of one step over all items. BadInputError: the prompt is no template, or asks for the same every time."""
    if "item" not in names_used(prompt):
        raise BadInputError("The prompt names no {{ item }}, so it would be the same for every item.")
    step = {
        "id": STEP,
        "each": "items",
        "tier": tier,
        "kind": kind or schema.__name__,
        "prompt": prompt,
        "output": output_schema(schema),
        "max_output_tokens": max_output_tokens,
    }
    budget = {} if budget_usd is None else {"budget_usd": str(budget_usd)}
    return {"name": f"map to {schema.__name__}", "items": list(items), "steps": [step], **budget}


def output_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema that answers are checked against: one that vendors enforce as it is written, where the model allows that.

    Strict outputs want every object closed and every property required; what the model has a default for is then answered
    too. Where the model has what they do not know, such as a mapping of any keys, it is pydantic's schema as it is.
    """
    # What is beside it takes a second to import, and only this needs it.
    from fleet.providers.structured import is_strict  # noqa: PLC0415

    schema = model.model_json_schema()
    # A model that holds itself is a reference to itself; vendors want an object there.
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    strict: dict[str, Any] = _closed({**schema["$defs"][name], "$defs": schema["$defs"]} if name else schema)
    return strict if is_strict(strict) else schema


def models(job_id: str, view: JobView, items: Sequence[Any], outcomes: Sequence[Outcome], schema: type[M]) -> list[M]:
    """The models of a job's outcomes, in the order of its items. MapError: some items have none."""
    results: list[M | None] = []
    failures: list[MapFailure] = []
    for index in range(len(items)):
        # A job that ended before it was planned has no outcomes at all.
        found = _model(outcomes[index], schema) if index < len(outcomes) else "it was never begun"
        results.append(None if isinstance(found, str) else found)
        if isinstance(found, str):
            failures.append(MapFailure(index, found))
    whole = [result for result in results if result is not None]
    if failures:
        named = "; ".join(f"item {failure.index}: {failure.reason}" for failure in failures[:MOST_NAMED])
        more = f"; and {len(failures) - MOST_NAMED} more" if len(failures) > MOST_NAMED else ""
        why = f" ({view.error})" if view.error else ""
        raise MapError(
            f"{len(failures)} of {len(items)} items have no result: {named}{more}. The job {job_id} is {view.status}{why}.",
            job_id=job_id,
            results=results,
            failures=failures,
        )
    return whole


def _model(outcome: Outcome, schema: type[M]) -> M | str:
    """The model, or why there is none, without the answer in it."""
    if outcome.status != "ok":
        return outcome.error or outcome.status
    try:
        return schema.model_validate_json(json.dumps(outcome.output))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        return f"{where} does not fit {schema.__name__}: {first['msg']}"


def _closed(schema: Any) -> Any:
    """A schema of pydantic's with its objects closed, all their properties required, and its unions in the one known form."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            closed[key] = {name: _closed(below) for name, below in value.items()}
        elif key in ("enum", "const", "required"):
            closed[key] = value
        elif key not in _DROPPED:
            closed["anyOf" if key == "oneOf" else key] = _closed(value)
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
        closed["required"] = list(closed["properties"])
    # Nothing may stand beside a reference.
    if "$ref" in closed and len(closed) > 1:
        closed["anyOf"] = [{"$ref": closed.pop("$ref")}]
    return closed
