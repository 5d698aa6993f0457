"""Reading YAML that people wrote into pydantic models; errors name file, key, bad value and the nearest valid one.

It knows nothing of what the documents mean.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fleet.errors import BadInputError

M = TypeVar("M", bound=BaseModel)

MAX_DOCUMENT_BYTES = 4_000_000


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of silently keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The parsed content of a YAML file.

    Raises:
        BadInputError: the file is missing, unreadable, over 4 MB, not UTF-8 or not YAML.
    """
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise BadInputError(f"{path} is over {MAX_DOCUMENT_BYTES:,} bytes; keep items in a file of their own.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506  a SafeLoader
    except RecursionError as error:
        raise BadInputError(f"{path} is nested too deep to be read.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadInputError(f"{path}{where} is not valid YAML: {getattr(error, 'problem', None) or error}.") from error


def parse(model: type[M], data: Any, source: str) -> M:
    """`data` as `model`.

    Raises:
        BadInputError: one line per problem: source, key path, what is wrong, the nearest valid key or value.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise BadInputError("\n".join(_sentences(model, error, source))) from error


def nearest(word: str, valid: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the closest valid word, else the list of valid ones."""
    choices = sorted(valid)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f' (did you mean "{close[0]}"?)'
    return f" (valid: {', '.join(choices)})" if choices else ""


def _sentences(model: type[BaseModel], error: ValidationError, source: str) -> Iterable[str]:
    for problem in error.errors(include_url=False):
        path = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
        key = ".".join(str(part) for part in path) or "the document"
        if problem["type"] == "extra_forbidden":
            fields = _fields_at(model, path[:-1])
            yield f'{source}: unknown key "{key}"{nearest(str(path[-1]), fields)}.'
        elif problem["type"] == "literal_error":
            expected = str(problem.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ")
            words = [word.strip() for word in expected.split(",") if word.strip()]
            yield f"{source}: {key} is {_shown(problem['input'])}{nearest(str(problem['input']), words)}."
        elif problem["type"] == "missing":
            yield f'{source}: the key "{key}" is missing.'
        elif problem["type"] == "value_error":
            where = f"{source}: {key}" if path else source
            yield f"{where}: {str(problem['msg']).removeprefix('Value error, ').rstrip('.')}."
        else:
            yield f"{source}: {key} is {_shown(problem['input'])}: {problem['msg'][:1].lower()}{problem['msg'][1:]}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(model: type[BaseModel], path: list[int | str]) -> set[str]:
    """The field names of the model that stands at `path` below `model`; empty when it cannot be told."""
    candidates: set[type[BaseModel]] = {model}
    for part in path:
        following: set[type[BaseModel]] = set()
        for candidate in candidates:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                following |= _models_in(field.annotation)
        # A list index, a mapping key or a union tag leads to no other model than those already reached.
        candidates = following or candidates
    return {field.alias or name for candidate in candidates for name, field in candidate.model_fields.items()}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and not isinstance(annotation, types.GenericAlias)
    ):
        return {annotation}
    return {found for argument in typing.get_args(annotation) for found in _models_in(argument)}
