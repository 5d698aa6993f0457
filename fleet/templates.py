"""Prompts as sandboxed Jinja2: compiled, checked for the names they use, rendered to a bounded size.

It owns the sandbox; it knows no job and no store. Job files and flagship plans both come from outside, so a template
can neither reach Python's internals nor change what it is given.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fleet.errors import BadInputError

MAX_TEMPLATE_CHARS = 100_000
MAX_RENDERED_CHARS = 4_000_000
MAX_NESTED_LOOPS = 2
MAX_INDENT = 8
#: Turns of all loops of a prompt: they take some tenths of a second.
MAX_TURNS = 200_000
#: Where a prompt counts them; no name that a template can have.
_TURNS = "0turns"
#: What a template could double its own text with, again and again.
_UNBOUNDED = (nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.CallBlock, nodes.FilterBlock)


#: What makes a long text of a short one by a number: a worker's memory must not hang on the number.
_GROWING_METHODS = frozenset(
    ["center", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust", "translate", "zfill"]
)
_GROWING_FILTERS = ("batch", "center", "format", "indent", "slice", "wordwrap")


class _Environment(ImmutableSandboxedEnvironment):
    # Not a number of Jinja's own: `{{ "x" * 10**9 }}` and `range(10**9)` must not take the worker's memory.
    intercepted_binops = frozenset(["*", "**", "%"])

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _GROWING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Jinja wraps `str.format` so that it reaches no internals; here it is refused like the other methods."""
        return

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, (int, float)) for side in (left, right)):
            raise jinja2.exceptions.SecurityError(f"the operator {operator} is not allowed on these values")
        return super().call_binop(context, operator, left, right)


# Of a context, so that Jinja does not compute them when it compiles.
@jinja2.pass_context
def _replace(_: Any, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = str(value), str(old), str(new)
    times = text.count(old) if count is None else min(count, text.count(old))
    _check_length(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, times)


@jinja2.pass_context
def _join(context: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    get = None if attribute is None else make_attrgetter(context.environment, attribute)
    parts, length = [], 0
    for one in value:
        parts.append(str(one if get is None else get(one)))
        length += len(parts[-1]) + len(str(d))
        _check_length(length)
    return str(d).join(parts)


@jinja2.pass_context
def _tojson(_: Any, value: Any, indent: int | None = None) -> str:
    return json.dumps(
        value, ensure_ascii=False, indent=None if indent is None else max(0, min(int(indent), MAX_INDENT))
    )


@jinja2.pass_context
def _bounded(context: Any, values: Any) -> Iterator[Any]:
    """What a loop goes over; all loops of a prompt together have so many turns."""
    turns = context.get(_TURNS)
    for value in values:
        if next(turns) > MAX_TURNS:
            raise jinja2.exceptions.SecurityError(f"over {MAX_TURNS:,} turns of its loops")
        yield value


def _check_length(length: int) -> None:
    if length > MAX_RENDERED_CHARS:
        raise jinja2.exceptions.SecurityError(f"a text of over {MAX_RENDERED_CHARS:,} characters")


_ENVIRONMENT = _Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False)
for _name in _GROWING_FILTERS:
    del _ENVIRONMENT.filters[_name]
for _name in ("lipsum", "namespace", "range", "cycler", "joiner"):
    del _ENVIRONMENT.globals[_name]
_ENVIRONMENT.filters |= {"replace": _replace, "join": _join, "tojson": _tojson, "bounded": _bounded}


def names_used(source: str) -> frozenset[str]:
    """The outer names a template asks for.

    Raises:
        BadInputError: it is no template (with the line), or too long.
    """
    return _outer(_parse(source))


def attributes_used(source: str) -> frozenset[tuple[str, str]]:
    """The pairs of outer name and attribute that a template asks for directly: `{{ classify.topic }}`."""
    tree = _parse(source)
    outer = _outer(tree)
    return frozenset(
        (node.node.name, node.attr)
        for node in tree.find_all(nodes.Getattr)
        if isinstance(node.node, nodes.Name) and node.node.name in outer
    )


def render(source: str, values: Mapping[str, Any]) -> str:
    """The text of a template over `values`.

    Raises:
        BadInputError: a name is missing, an operation is not allowed, or the text passes 4,000,000 characters.
    """
    pieces: list[str] = []
    length = 0
    try:
        for piece in _template(source).generate(dict(values) | {_TURNS: itertools.count(1)}):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_RENDERED_CHARS:
                raise BadInputError(f"The prompt is over {MAX_RENDERED_CHARS:,} characters; send less of the item.")
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise BadInputError(f"The prompt template fails: {error}.") from error
    return "".join(pieces)


def holds(expression: str, values: Mapping[str, Any]) -> bool:
    """Whether a `when` expression is true over `values`.

    Raises:
        BadInputError: it is no expression, or fails on these values.
    """
    try:
        return bool(_expression(expression)(**values))
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise BadInputError(f"when: {expression!r} fails: {error}.") from error


def as_template(expression: str) -> str:
    """A `when` expression as a template, for what is asked of templates."""
    return "{{ (" + expression + ") }}"


def check_expression(expression: str) -> frozenset[str]:
    """The outer names a `when` expression asks for; BadInputError when it is none."""
    return names_used(as_template(expression))


def _parse(source: str) -> nodes.Template:
    if len(source) > MAX_TEMPLATE_CHARS:
        raise BadInputError(f"The template is over {MAX_TEMPLATE_CHARS:,} characters.")
    try:
        tree = _ENVIRONMENT.parse(source)
        _check_shape(tree)
    except jinja2.TemplateSyntaxError as error:
        raise BadInputError(f"The template is wrong in line {error.lineno}: {error.message}.") from error
    except RecursionError as error:
        raise BadInputError("The template is nested too deep.") from error
    return tree


def _outer(tree: nodes.Template) -> frozenset[str]:
    """The names that a template takes from outside. Jinja's own way to them computes what is constant, of any size."""
    try:
        return frozenset(_free(tree, frozenset()))
    except RecursionError as error:
        raise BadInputError("The template is nested too deep.") from error


def _free(node: nodes.Node, bound: frozenset[str]) -> Iterator[str]:
    if isinstance(node, nodes.Name):
        if node.name not in bound:
            yield node.name
    elif isinstance(node, nodes.For):
        inner = bound | {name.name for name in _targets(node.target)} | {"loop"}
        yield from _free(node.iter, bound)
        for part in (node.test, *node.body):
            if part is not None:
                yield from _free(part, inner)
        for part in node.else_:
            yield from _free(part, bound)
    elif isinstance(node, nodes.With):
        for value in node.values:
            yield from _free(value, bound)
        inner = bound | {name.name for target in node.targets for name in _targets(target)}
        for part in node.body:
            yield from _free(part, inner)
    else:
        for child in node.iter_child_nodes():
            yield from _free(child, bound)


def _targets(target: nodes.Node) -> Iterator[nodes.Name]:
    return iter([target]) if isinstance(target, nodes.Name) else target.find_all(nodes.Name)


def _check_shape(tree: nodes.Node, loops: int = 0) -> None:
    """BadInputError for what lets a short template run or grow without a bound: names it sets itself, deep loops."""
    for node in tree.iter_child_nodes():
        if isinstance(node, _UNBOUNDED):
            raise BadInputError(
                f"The template is wrong in line {node.lineno}: set, macro, call and namespace are not allowed."
            )
        inner = loops + isinstance(node, nodes.For)
        if inner > MAX_NESTED_LOOPS or (isinstance(node, nodes.For) and node.recursive):
            raise BadInputError(
                f"The template is wrong in line {node.lineno}: loops may be nested {MAX_NESTED_LOOPS} deep."
            )
        _check_shape(node, inner)


@lru_cache(maxsize=512)
def _template(source: str) -> jinja2.Template:
    tree = _parse(source)
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "bounded", [], [], None, None)
    return _ENVIRONMENT.from_string(tree)


@lru_cache(maxsize=512)
def _expression(expression: str) -> Any:
    return _ENVIRONMENT.compile_expression(expression, undefined_to_none=False)
