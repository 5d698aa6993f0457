"""Ready-made jobs. A recipe builds a job from parameters and turns its outcomes into files; to add one, add it here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.jobs import JobSpec, Outcome
from fleet.recipes.document_codebase import NAME as DOCUMENT_CODEBASE
from fleet.recipes.document_codebase import document_codebase, write
from fleet.sources import Skipped


class Write(Protocol):
    def __call__(
        self,
        spec: JobSpec,
        outcomes: Iterable[Outcome],
        result: Any,
        out: Path,
        *,
        simulated: bool = False,
        skipped: Sequence[Skipped] = (),
    ) -> list[Path]:
        """Write the result's files below `out` and return them. Outcomes come in any order, each once.

        Args:
            result: the accepted review: text, JSON, or None without one.
            simulated: say in the files that the simulated provider made the text up.
            skipped: inputs that could not become items.
        """


@dataclass(frozen=True, slots=True)
class Recipe:
    """A job with parameters, and what its result looks like."""

    #: `build(**parameters) -> JobSpec`, whose `recipe` is this recipe's name; BadInputError for a bad parameter.
    build: Callable[..., JobSpec]
    write: Write


RECIPES: dict[str, Recipe] = {DOCUMENT_CODEBASE: Recipe(build=document_codebase, write=write)}


def recipe(name: str) -> Recipe:
    """The recipe of that name; BadInputError with the nearest valid one."""
    if name not in RECIPES:
        raise BadInputError(f'There is no recipe "{name}"{nearest(name, RECIPES)}.')
    return RECIPES[name]
