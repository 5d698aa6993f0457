"""What a user asks for (JobSpec, Step, Review) and what becomes of it (JobStatus, Outcome), as frozen data.

It owns the rules a job has to keep before anything is spent; it knows no store, no queue and no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator, model_validator

from fleet import templates
from fleet.config import AUTO, Count, Frozen
from fleet.conversation import Conversation
from fleet.deadlines import Deadline
from fleet.documents import nearest, parse, read_yaml
from fleet.entitlements import Usd
from fleet.errors import BadInputError
from fleet.flaws import Flaw
from fleet.prices import NANO_PER_USD, Usage
from fleet.quality_config import HoldoutConfig
from fleet.rules import StepCheck
from fleet.schemas import check_schema
from fleet.stored import KEPT

_ID = re.compile(r"[a-z][a-z0-9_]{0,63}")
#: Names a template has besides the outputs of its needs.
TEMPLATE_NAMES = frozenset({"item", "items", "goal"})
MAX_STEPS = 50


class JobStatus(StrEnum):
    """Where a job stands, and who moves it on.

    | status | moved on by |
    |---|---|
    | planning | `tasks.plan_job`: plan checked and expanded -> running; no usable plan -> failed |
    | running | the gate: all subtasks final -> reviewing; without a review -> completed or failed |
    | reviewing | `tasks.review_job`: accept or finish -> completed; rework -> running, in a new round |
    | paused, cancelled | a user's command |
    | completed, failed | nobody: final |
    """

    PLANNING = "planning"
    RUNNING = "running"
    PAUSED = "paused"
    REVIEWING = "reviewing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class FilesSource(Frozen):
    """One item per text file below `root`: `{path, text, bytes}`."""

    #: The folder.
    root: Path
    #: Patterns of paths below it that are taken.
    include: tuple[str, ...] = ("**/*",)
    #: Patterns of those that are not.
    exclude: tuple[str, ...] = ()
    #: Larger files are left out.
    max_bytes: Count = 1_000_000


class ImagesSource(Frozen):
    """One item per picture below `root`: `{path, bytes, media_type}`, with the picture sent along."""

    #: The folder.
    root: Path
    #: Patterns of paths below it that are taken.
    include: tuple[str, ...] = ("**/*.png", "**/*.jpg", "**/*.jpeg", "**/*.webp", "**/*.gif")
    #: Patterns of those that are not.
    exclude: tuple[str, ...] = ()
    #: Larger pictures are left out.
    max_bytes: Count = 20_000_000


class Items(Frozen):
    """Where the items come from: exactly one of the four."""

    #: A file of items.
    path: Path | None = None
    #: Text files.
    files: FilesSource | None = None
    #: Pictures.
    images: ImagesSource | None = None
    #: The id of a file that was uploaded to the fleet.
    file: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Items:
        given = [name for name in ("path", "files", "images", "file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, files, images and file (given: {', '.join(given) or 'none'})")
        return self


class Step(Frozen):
    """One entry of a plan; with `each` it stands for one subtask per item."""

    #: Its name in needs, templates and results.
    id: str
    #: One subtask per item; left out: one subtask.
    each: Literal["items"] | None = None
    #: A tier, or `auto`: the one to start on is found by what its kind has cost and come to (`fleet routes`).
    tier: str = AUTO
    #: What routing and quality figures are kept by; the id when left out.
    kind: str | None = None
    #: Steps that come first, item by item where both have `each`.
    needs: tuple[str, ...] = ()
    #: An expression over needs and item; where it is false the subtask is skipped.
    when: str | None = None
    #: What the model is told before the prompt; the same for every item, so that vendors cache it.
    instructions: str = ""
    #: A template over `item`, `items`, `goal` and the outputs of needs.
    prompt: str = ""
    #: Asked instead of a prompt: a whole conversation; `item`: that of each item, which has it as its `body`.
    conversation: Literal["item"] | Conversation | None = None
    #: JSON schema of the answer; left out: free text.
    output: dict[str, Any] | None = None
    #: The step's own check of an answer that keeps its schema: a name, a rule, or a judge.
    check: StepCheck | None = None
    #: The highest tier that it may climb to.
    max_tier: str | None = None
    #: The tiers that it may use, upwards from where it starts; left out: all up to `max_tier`.
    ladder: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    #: Tokens of an answer, at most.
    max_output_tokens: Annotated[int, Field(gt=0, le=200_000)] = 2_000
    #: When its answers are due, from the job's submission on: seconds, or `30m`, `24h`. What has time costs less.
    deadline: Deadline | None = None

    @property
    def label(self) -> str:
        return self.kind or self.id

    @field_validator("id")
    @classmethod
    def _identifier(cls, value: str) -> str:
        if not _ID.fullmatch(value) or value in TEMPLATE_NAMES:
            raise ValueError(
                f'"{value}" is no step id: lower-case letters, digits and _, a letter first; not item, items or goal'
            )
        return value

    @field_validator("output")
    @classmethod
    def _schema(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if value is not None and info.context is not KEPT:
            check_schema(value)
        return value

    @model_validator(mode="after")
    def _templates(self, info: ValidationInfo) -> Step:
        if info.context is KEPT:
            return self
        allowed = TEMPLATE_NAMES | set(self.needs)
        if self.each is None:
            allowed -= {"item"}
        texts = {"prompt": templates.names_used, "when": templates.check_expression}
        for field, names in texts.items():
            text = getattr(self, field)
            if text is None:
                continue
            try:
                unknown = names(text) - allowed
            except BadInputError as error:
                raise ValueError(f"{field}: {error}") from error
            if unknown:
                name = min(unknown)
                hint = "; add it to needs if it is a step" if name not in TEMPLATE_NAMES else "; it needs each: items"
                raise ValueError(f'{field} uses "{name}"{nearest(name, allowed)}{hint}')
        return self


class Review(Frozen):
    """The flagship's one look at the gathered outputs."""

    #: What to make of the outputs.
    prompt: str
    #: How often it may send subtasks back.
    rounds: Annotated[int, Field(ge=0, le=10)] = 1
    #: Tokens of its answer, at most.
    max_output_tokens: Annotated[int, Field(gt=0, le=200_000)] = 16_000


class JobSpec(Frozen):
    """A job as it is submitted. Without `steps` the flagship plans them from goal and items."""

    #: For people.
    name: Annotated[str, Field(min_length=1, max_length=200)]
    #: What planner and reviewer aim at.
    goal: Annotated[str, Field(max_length=20_000)] = ""
    #: A list, or where they come from.
    items: Items | tuple[Any, ...] = ()
    #: The plan; left out: the flagship makes it.
    steps: Annotated[tuple[Step, ...], Field(max_length=MAX_STEPS)] = ()
    #: Left out: nobody looks at the whole.
    review: Review | None = None
    #: A hard cap.
    budget_usd: Usd | None = None
    #: Which accepted subtasks are also asked of the flagship, to measure what it alone would cost; left out: as configured.
    holdout: HoldoutConfig | None = None
    #: Its weight beside other jobs of the tenant.
    priority: Literal["interactive", "normal", "background"] = "normal"
    #: When its outputs are due, from its submission on: seconds, or `30m`, `24h`.
    deadline: Deadline | None = None
    #: An address that is told of its end.
    webhook: str | None = None
    #: A ready-made renderer of the result, set by recipes.
    recipe: str | None = None

    @property
    def budget_nano_usd(self) -> int | None:
        return None if self.budget_usd is None else int(self.budget_usd * NANO_PER_USD)

    @field_validator("budget_usd", mode="wrap")
    @classmethod
    def _countable(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Decimal | None:
        """An earlier version took any number."""
        return Decimal(str(value)) if info.context is KEPT and value is not None else check(value)

    @model_validator(mode="after")
    def _whole(self) -> JobSpec:
        if not self.steps and not self.goal.strip():
            raise ValueError("give steps, or a goal to plan them from")
        check_steps(self.steps)
        return self


def check_steps(steps: Iterable[Step]) -> None:
    """ValueError when an id stands twice, a need does not exist, or needs run in a circle."""
    by_id: dict[str, Step] = {}
    for step in steps:
        if step.id in by_id:
            raise ValueError(f'the step "{step.id}" stands twice')
        by_id[step.id] = step
    for step in by_id.values():
        for need in step.needs:
            if need not in by_id:
                raise ValueError(f'steps.{step.id}.needs names "{need}"{nearest(need, by_id.keys() - {step.id})}')
        _check_fields(step, by_id)
    in_order(by_id)


def _check_fields(step: Step, by_id: Mapping[str, Step]) -> None:
    """ValueError when a template asks a need for a field that its output does not have."""
    texts = {"prompt": step.prompt} | ({"when": templates.as_template(step.when)} if step.when else {})
    for field, text in texts.items():
        for name, attribute in sorted(templates.attributes_used(text)):
            need = by_id.get(name) if name in step.needs else None
            # A step over all items gets a list of outputs, and lists have no fields of ours.
            if need is None or (step.each is None and need.each is not None) or hasattr(dict, attribute):
                continue
            if need.output is None:
                raise ValueError(
                    f"steps.{step.id}.{field} asks for {name}.{attribute}, but {name} gives plain text; "
                    f"give steps.{name} an output with that property"
                )
            properties = need.output.get("properties")
            if isinstance(properties, dict) and attribute not in properties:
                raise ValueError(f"steps.{step.id}.{field} asks for {name}.{attribute}{nearest(attribute, properties)}")


def in_order(steps: Mapping[str, Step]) -> list[Step]:
    """The steps with every need before what needs it; ValueError naming the circle when there is one."""
    ordered: dict[str, Step] = {}
    while len(ordered) < len(steps):
        free = [step for step in steps.values() if step.id not in ordered and ordered.keys() >= set(step.needs)]
        if not free:
            step = next(step for step in steps.values() if step.id not in ordered)
            path = [step.id]
            while path.count(path[-1]) == 1:
                path.append(next(need for need in steps[path[-1]].needs if need not in ordered))
            raise ValueError(f"needs run in a circle: {' -> '.join(path[path.index(path[-1]) :])}")
        ordered.update((step.id, step) for step in free)
    return list(ordered.values())


class Attempt(Frozen):
    """One model call for a subtask that was not accepted: the answer and why, kept for the next tier up."""

    tier: str
    model: str
    answer: str
    reason: str
    flaw: Flaw | None = None


class Outcome(Frozen):
    """What became of a subtask: one line of `results.jsonl`."""

    item: Any = None
    step: str
    status: Literal["ok", "failed", "skipped"]
    output: Any = None
    error: str | None = None
    #: Where programs have to tell one failure from another: a flaw of the last answer (`fleet.flaws`), `budget`, `too_large`, or
    #: what a vendor's was. Beside `ok`: the flaw of a reply that was passed on and not accepted.
    error_kind: str | None = None
    #: When a budget that was short begins anew, in seconds since 1970.
    until: float | None = Field(default=None, exclude=True)
    tier: str | None = None
    model: str | None = None
    attempts: int = 0
    #: Calls that were made for it, those without an answer too; no part of the line.
    asked: Annotated[int, Field(exclude=True)] = 0
    usage: Usage = Usage()
    cost_usd: float = 0.0


def load_job(path: Path) -> JobSpec:
    """The job in a YAML file, relative item paths resolved against the file's folder.

    Raises:
        BadInputError: file, key, value and the nearest valid one.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise BadInputError(f"{path} holds no job; it needs at least name and steps, or name and goal.")
    return resolve_paths(parse(JobSpec, data, str(path)), path.parent)


def resolve_paths(spec: JobSpec, base: Path) -> JobSpec:
    """`spec` with relative item paths taken from `base`."""
    items = spec.items
    if not isinstance(items, Items):
        return spec
    if items.path is not None:
        items = items.model_copy(update={"path": base / items.path})
    for name in ("files", "images"):
        source: BaseModel | None = getattr(items, name)
        if source is not None:
            resolved = source.model_copy(update={"root": base / source.root})  # type: ignore[attr-defined]
            items = items.model_copy(update={name: resolved})
    return spec.model_copy(update={"items": items})
