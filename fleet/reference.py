"""The pages below docs/reference, made from the code that they describe. `python -m fleet.reference` writes them.

It owns how commands, keys, variables and routes are laid out as tables; what they say stands beside the code: help of commands,
`#:` comments of fields, docstrings of routes. Nothing is started and no store is asked. A test says when a page is stale.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_settings import BaseSettings
from typer.main import get_command

from fleet import config, entitlements, jobs, metrics_reference, quality_config, rules, tariffs
from fleet.api.server import build
from fleet.cli import app
from fleet.config import Environment, shipped_file
from fleet.flower_door import OAuth
from fleet.lane_settings import LanesConfig
from fleet.runtime import Runtime

MADE = "<!-- Made by `make docs`; a test keeps it so. -->"
#: Sections of the configuration, by where they stand in the file.
CONFIGURATION: Mapping[str, type[BaseModel]] = {
    "the file": config.FleetConfig,
    "providers.NAME": config.ProviderConfig,
    "models.NAME": config.ModelConfig,
    "models.NAME.limits": config.Limits,
    "models.NAME.price": tariffs.Price,
    "models.NAME.price.long_context": tariffs.LongContext,
    "models.NAME.price.lanes.LANE": tariffs.LanePrice,
    "tiers.NAME": config.TierConfig,
    "tenants.NAME": entitlements.TenantConfig,
    "holdout": quality_config.HoldoutConfig,
    "budgets": entitlements.Budgets,
    "routing": quality_config.RoutingConfig,
    "outside": config.OutsideConfig,
    "audit": quality_config.AuditConfig,
    "kinds.NAME": quality_config.KindConfig,
    "lanes": LanesConfig,
}
JOB: Mapping[str, type[BaseModel]] = {
    "the job": jobs.JobSpec,
    "items": jobs.Items,
    "items.files": jobs.FilesSource,
    "items.images": jobs.ImagesSource,
    "steps": jobs.Step,
    "steps.check": rules.Check,
    "steps.check.judge": rules.Judge,
    "review": jobs.Review,
    "holdout": quality_config.HoldoutConfig,
}
CONFIGURATION_HEAD = """\
The file is the one that `FLEET_CONFIG` names, else `config/fleet.yaml` here, else the one that ships with the package. Each key
is checked before anything starts; an error names the file, the key, the value and the nearest valid one. A change takes effect
when a process starts.\
"""
JOB_HEAD = """\
The same keys in YAML (`fleet run`, `fleet submit`), as JSON over HTTP, and as a mapping in Python. Over HTTP items are a list or
an upload (`{"file": "file-..."}`): the API reads no paths.\
"""
COMMANDS_HEAD = """\
Every listing takes `-o json`; progress is a live display on a terminal and plain lines when piped. Exit codes: 0 done, 1 failed
or paused, as at a budget's cap (with the reason), 2 bad input (what, and the nearest valid value).\
"""
ENVIRONMENT_HEAD = """\
An empty variable counts as not set. What opens something (keys, passwords, addresses with passwords in them) belongs in the
environment alone: it is never logged, and no configuration file takes it. `key_env` of a provider names further variables.\
"""
HTTP_HEAD = """\
`Authorization: Bearer KEY`, but for `/healthz` and `/readyz`. The whole description, with every body, is the API's own
`/openapi.json`. Errors are `application/problem+json` (`type`, `title`, `status`, `detail`); on OpenAI's routes they are the
error object of OpenAI. The pages for a browser begin at `/jobs`.\
"""
_PLACEHOLDERS = {Path: "PATH", int: "N", float: "N", str: "TEXT", list[str]: "TEXT"}
_WORDS = {
    "exclusiveMinimum": "above {}",
    "minimum": "from {}",
    "maximum": "up to {}",
    "maxLength": "up to {} characters",
    "maxItems": "up to {} of them",
}


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "commands.md": _commands(),
        "configuration.md": _models("Configuration", CONFIGURATION_HEAD, CONFIGURATION),
        "jobs.md": _models("A job's keys", JOB_HEAD, JOB),
        "environment.md": _environment(),
        "http.md": _http(),
        "metrics.md": metrics_reference.table(),
    }


def _commands() -> str:
    parts = [f"# Commands\n\n{MADE}\n\n{COMMANDS_HEAD}"]
    for words, command in _leaves(get_command(app), ("fleet",)):
        given = [_placeholder(one) for one in command.params if not one.opts[0].startswith("-")]
        options = [one for one in command.params if one.opts[0].startswith("-")]
        parts.append(f"\n## {' '.join(words)}\n\n{command.help}\n")
        parts.append(f"`{' '.join([*words, *given, *(['[OPTIONS]'] if options else [])])}`")
        rows = [(_flag(one), _default_of(one), one.help or "") for one in options]
        rows = [(f"`{_placeholder(one)}`", "", one.help or "") for one in command.params if one not in options] + rows
        if rows:
            parts.append("\n" + _table(("argument or option", "default", "what it is"), rows))
    return "\n".join(parts) + "\n"


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield words, command
        return
    for name in sorted(below):
        yield from _leaves(below[name], (*words, name))


def _placeholder(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return str(name if parameter.required else f"[{name}]")


def _flag(parameter: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in sorted(parameter.opts, key=len, reverse=True))
    if parameter.is_flag or parameter.is_bool_flag or parameter.type_descriptor.annotation is bool:
        return flags
    kind = parameter.type_descriptor.annotation
    value = "\\|".join(get_args(kind)) if get_origin(kind) is Literal else _PLACEHOLDERS.get(kind, "TEXT")
    bounds = [f"from {parameter.min:g}"] if parameter.min else []
    bounds += [f"up to {parameter.max:,}"] if parameter.max is not None else []
    needed = ["needed"] if parameter.required else []
    more = ", ".join([*needed, *bounds, *(["more than once"] if parameter.multiple else [])])
    return f"{flags} {parameter.metavar or value}" + (f" ({more})" if more else "")


def _default_of(parameter: Any) -> str:
    return "" if parameter.default in (None, "", False) else f"`{parameter.default}`"


def _models(title: str, head: str, sections: Mapping[str, type[BaseModel]]) -> str:
    parts = [f"# {title}\n\n{MADE}\n\n{head}"]
    for where, model in sections.items():
        said = inspect.cleandoc(model.__doc__ or "")
        parts.append(f"\n## `{where}`\n" if " " not in where else f"\n## {where.capitalize()}\n")
        if said:
            parts.append(f"{said}\n")
        schema, comments = model.model_json_schema(), comments_of(model)
        rows = []
        for name, shape in schema["properties"].items():
            needed = name in schema.get("required", ())
            rows.append((f"`{name}`", _type(shape, schema), "needed" if needed else _shown(shape), comments[name]))
        parts.append(_table(("key", "is", "default", "what it is"), rows))
    return "\n".join(parts) + "\n"


def _environment() -> str:
    rows = []
    for settings in (Environment, OAuth):
        prefix, comments = str(settings.model_config.get("env_prefix") or ""), comments_of(settings)
        for name, its in settings.model_fields.items():
            default = "" if its.default is None else f"`{its.default}`"
            rows.append((f"`{(prefix + name).upper()}`", default, comments[name]))
    return f"# Environment variables\n\n{MADE}\n\n{ENVIRONMENT_HEAD}\n\n{_table(('variable', 'default', 'what it is'), rows)}\n"


def _http() -> str:
    environment = Environment(fleet_redis_url="redis://127.0.0.1:1/0", fleet_config=shipped_file("fleet.yaml"))
    described = build(Runtime.from_environment(environment), loopback=True).openapi()
    by_tag: dict[str, list[tuple[str, ...]]] = {}
    for path, methods in described["paths"].items():
        for method, its in methods.items():
            takes = [f"`{one['name']}`" for one in its.get("parameters", ()) if one["in"] != "path"]
            what = " ".join(its.get("description", "").split("\n\n")[0].split())
            row = (f"`{method.upper()} {path}`", what, ", ".join(takes), " ".join(sorted(its["responses"])))
            by_tag.setdefault(its["tags"][0], []).append(row)
    parts = [f"# HTTP\n\n{MADE}\n\n{HTTP_HEAD}"]
    for tag, rows in by_tag.items():
        parts.append(f"\n## {tag[0].upper()}{tag[1:]}\n")
        parts.append(_table(("route", "what it does", "header or query", "answers"), rows))
    return "\n".join(parts) + "\n"


def comments_of(model: type[BaseModel] | type[BaseSettings]) -> dict[str, str]:
    """What the `#:` comment before each field says, '' where there is none; what a class says goes before its bases' words."""
    found = dict.fromkeys(model.model_fields, "")
    for one in reversed(model.__mro__):
        if issubclass(one, BaseModel) and not one.__module__.startswith("pydantic"):
            _read_comments(one, found)
    return found


def _read_comments(model: type[BaseModel], found: dict[str, str]) -> None:
    lines = inspect.getsource(model).splitlines()
    body = ast.parse("\n".join(lines)).body[0]
    for node in getattr(body, "body", ()):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in found:
            at, said = node.lineno - 2, list[str]()
            while lines[at].strip().startswith("#:"):
                said.insert(0, lines[at].strip().removeprefix("#:").strip())
                at -= 1
            found[node.target.id] = " ".join(said)


def _type(shape: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        below = schema["$defs"][name]
        return "mapping" if below.get("type") == "object" else _type(below, schema)
    if "anyOf" in shape:
        kinds = [_type(one, schema) for one in shape["anyOf"] if one.get("type") != "null"]
        # A Decimal is a number or the text of one.
        return (
            "number" + kinds[0][len("number") :] if kinds[0].startswith("number") else " or ".join(dict.fromkeys(kinds))
        )
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{value}`" for value in shape.get("enum", [shape.get("const")]))
    kind = {"string": "text", "object": "mapping", "array": "list"}.get(
        shape.get("type", ""), shape.get("type", "anything")
    )
    words = [
        text.format(f"{shape[key]:,}" if isinstance(shape[key], int) else f"{shape[key]:,.10g}")
        for key, text in _WORDS.items()
        if key in shape
    ]
    return " ".join([kind, *words])


def _shown(shape: Mapping[str, Any]) -> str:
    default = shape.get("default")
    if default in (None, "", [], {}) or isinstance(default, dict):
        return ""
    return f"`{', '.join(default)}`" if isinstance(default, list) else f"`{str(default).replace('False', 'false')}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns in which no row has anything."""
    kept = [at for at in range(len(head)) if any(row[at] for row in rows)]
    lines = [[head[at] for at in kept], ["---"] * len(kept), *([row[at] for at in kept] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("\n", " ") for cell in line) + " |" for line in lines)


def main() -> None:
    """Write the pages into the folder that is named, or docs/reference."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/reference")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
