"""OpenAI's models: the tiers of the fleet, `auto`, and the names of the tiers' models, which stand for their tiers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from fleet.api.auth import Reader
from fleet.api.openai_errors import REFUSALS, OpenAIRoute
from fleet.api.parameters import tier_of
from fleet.config import FleetConfig, Frozen

router = APIRouter(prefix="/v1/models", tags=["OpenAI-compatible"], route_class=OpenAIRoute)

#: When models were made is for vendors to say; clients want a number.
CREATED = 1_700_000_000


class Model(Frozen):
    """A name to ask for answers by."""

    id: str
    object: str = "model"
    created: int = CREATED
    owned_by: str = "tierfleet"


class Models(Frozen):
    """All of them."""

    object: str = "list"
    data: tuple[Model, ...]


@router.get("", responses=REFUSALS)
async def listing(request: Request, _: Reader) -> Models:
    """The names that an answer can be asked by."""
    return Models(data=tuple(Model(id=name) for name in _config(request).names))


@router.get("/{model_id}", responses=REFUSALS)
async def look(request: Request, _: Reader, model_id: Annotated[str, Path(max_length=200)]) -> Model:
    """One of them."""
    tier_of(model_id, _config(request))
    return Model(id=model_id)


def _config(request: Request) -> FleetConfig:
    config: FleetConfig = request.app.state.desk.runtime.config
    return config
