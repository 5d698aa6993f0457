"""`-o json` or text: one way to print what a command found."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType

Output = Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="text or json")]


def print_data(data: BaseModel | Sequence[BaseModel] | dict[str, Any], output: str, text: RenderableType) -> None:
    """Print `data` as JSON, or `text` for people."""
    if output == "json":
        sys.stdout.write(for_terminals(json.dumps(_plain(data), ensure_ascii=False, indent=2)) + "\n")
    else:
        Console().print(text, markup=False)


def for_terminals(text: str) -> str:
    """JSON that means the same, with whatever is not printable (escapes, bidirectional marks, lone surrogates) as `\\uXXXX`."""
    if text.isascii():
        return text
    return "".join(one if one.isascii() or one.isprintable() else json.dumps(one)[1:-1] for one in text)


def _plain(data: Any) -> Any:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return data
