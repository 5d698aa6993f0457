"""A simulated provider with flex, batches and a day that can be made bad, and the fleet's configuration for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.config import FleetConfig
from fleet.prices import Usage, cost_nano_usd
from fleet.sim.settings import Faults, SimSettings
from tests.support.bench import BREAKS, DEAR, GOOD, config
from tests.support.sim import RunningSim, running_sim

#: A model that is neither served as flex nor in batches.
PLAIN = "plain"
#: What a day is worth: everything that depends on time is quick.
LANES = {
    "flex_from_s": 60,
    "batch_from_s": 600,
    "back_s": 300,
    "gather_s": 0.01,
    "poll_s": 0.02,
}


def lanes_config(
    *, nano: str = GOOD, batch: bool = True, lanes: dict[str, Any] | None = None, **others: Any
) -> FleetConfig:
    """`config` with models that are served as flex and in batches, and have cached input at a tenth."""
    plain = config(**others).model_dump(mode="json")
    plain["tiers"]["nano"]["model"] = nano
    for name in (GOOD, DEAR, BREAKS):
        model = plain["models"][name]
        model["price"]["cached_input"] = str(float(model["price"]["input"]) / 10)
        model |= {"service_tiers": ["flex"], "batch": batch}
    plain["models"][PLAIN] = {"context_tokens": 400_000, "price": {"input": "1", "output": "1"}}
    # The fleet may be told that a model is taken in batches although it is not.
    plain["models"][PLAIN]["batch"] = nano == PLAIN
    return FleetConfig.model_validate(plain | {"lanes": LANES | (lanes or {})})


@dataclass(frozen=True)
class LanesSim:
    """The provider, and where its faults are written."""

    sim: RunningSim
    faults_file: Path

    @contextmanager
    def faults(self, **shares: float) -> Iterator[None]:
        """A bad day, as long as the block runs."""
        self.faults_file.write_text(Faults(**shares).model_dump_json())
        try:
            yield
        finally:
            self.faults_file.unlink()

    def charges(self, job_id: str) -> list[dict[str, Any]]:
        return [line for line in self.sim.charges() if str(line["call_id"]).startswith(f"{job_id}/")]


@contextmanager
def lanes_sim(folder: Path, **settings: Any) -> Iterator[LanesSim]:
    """Its model `breaks` breaks every schema; 1,000 times faster than life unless `settings` say otherwise."""
    faults = folder / "faults.json"
    given: dict[str, Any] = {
        "speed": 1000,
        "batch_s": 100,
        "invalid_output": {GOOD: 0.0, DEAR: 0.0, PLAIN: 0.0, BREAKS: 1.0},
    } | settings
    with running_sim(folder, SimSettings(**given, faults_file=faults), lanes_config()) as running:
        yield LanesSim(running, faults)


def price_of(charge: dict[str, Any], lane: str) -> int:
    """What a line of the charge log would have cost by a lane."""
    usage = Usage.model_validate({name: charge[name] for name in Usage.model_fields})
    return cost_nano_usd(charge["model"], lanes_config().models[charge["model"]], usage, lane)
