"""How calls that may wait are asked for less: what `lanes` of the configuration says. Data only; `fleet.lanes` decides."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(gt=0)]


class LanesConfig(BaseModel):
    """When flex and batch are taken, and how batches are gathered. Only steps with a deadline take either."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Flex is taken while a subtask has so many seconds until its deadline, and twice the tier's `timeout_s`.
    flex_from_s: Seconds = 1_200
    #: How many times as long as the tier's `timeout_s` a flex call may take; it ends in time for a call at once.
    flex_patience: Annotated[float, Field(ge=1, le=20)] = 3
    #: A batch is taken while a subtask has so many seconds until its deadline; vendors promise an end within a day.
    batch_from_s: Seconds = 7_200
    #: So many seconds before its deadline what still is in a batch is taken back, and asked at once.
    back_s: Seconds = 1_800
    #: For how long lines of a job are gathered until a batch of them is sent.
    gather_s: Seconds = 20
    #: How often it is asked how a batch stands.
    poll_s: Seconds = 30
    #: Lines of a batch, at most.
    lines: Annotated[int, Field(ge=1, le=10_000)] = 2_000
    #: Bytes of its file, at most.
    bytes: Annotated[int, Field(ge=1_000, le=200_000_000)] = 50_000_000

    @model_validator(mode="after")
    def _in_time(self) -> LanesConfig:
        if self.batch_from_s <= self.back_s:
            raise ValueError("batch_from_s has to be above back_s, or what is sent in a batch is taken back at once")
        return self
