"""What a simulated provider can be told: speed, faults, seed, where it writes. Data only."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fleet.config import FleetConfig, ModelConfig
from fleet.prices import Usage, cost_nano_usd

Rate = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latency(_Frozen):
    """How long an answer takes: the sum of the three, give or take a fifth."""

    base_s: NotNegative
    per_output_token_s: NotNegative
    per_1k_input_s: NotNegative


class Faults(_Frozen):
    """How often a call goes wrong, each a share of all calls. One call has at most one of them.

    In the background half of `error_5xx` are begun and end as failed (not billed), `hang` stays in progress, and what
    befalls the connection befalls that of the creating request while the call runs on; refusals, resets and
    `malformed_json` also befall each request that asks for a response or cancels it, at the same rates.
    """

    #: HTTP 500 or 503 before any work: not billed.
    error_5xx: Rate = 0
    #: HTTP 429 that asks to come again within a second, whatever the limits: not billed.
    rate_limited: Rate = 0
    #: The answer never comes; billed.
    hang: Rate = 0
    #: The connection is reset instead of answered; billed.
    reset: Rate = 0
    #: The connection is reset when half of the answer's body was sent; billed.
    reset_in_body: Rate = 0
    #: The connection is reset behind the answer's body, which the client may have or not; billed.
    reset_after_body: Rate = 0
    #: Status 200 with half a JSON body; billed.
    malformed_json: Rate = 0
    #: The model declines; billed.
    refusal: Rate = 0
    #: The answer is cut at half its length as if it had reached its limit; billed.
    truncation: Rate = 0
    #: Of the calls that ask for flex: HTTP 429 `resource_unavailable`: not billed.
    flex_unavailable: Rate = 0
    #: Of those that are left: served, and billed, as the standard.
    flex_as_standard: Rate = 0


class Manner(_Frozen):
    """How one model behaves."""

    latency: Latency
    #: Share of structured answers that break the schema they were asked to keep.
    invalid_output: Rate


CHEAPEST = Manner(
    latency=Latency(base_s=0.12, per_output_token_s=0.0015, per_1k_input_s=0.005),
    invalid_output=0.04,
)
MIDDLE = Manner(
    latency=Latency(base_s=0.35, per_output_token_s=0.003, per_1k_input_s=0.01),
    invalid_output=0.005,
)
DEAREST = Manner(
    latency=Latency(base_s=0.8, per_output_token_s=0.002, per_1k_input_s=0.01),
    invalid_output=0,
)


class SimSettings(_Frozen):
    """One simulated provider."""

    #: Address to listen on. Whoever reaches it is answered; it costs nothing and knows nothing.
    host: str = "127.0.0.1"
    #: 0 lets the system choose; the address is then in `ready_file`.
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    #: Appended to, a line per billed call.
    charges: Path | None = None
    #: Gets the base URL (`http://127.0.0.1:PORT/v1`) once requests are answered.
    ready_file: Path | None = None
    #: Any other key gets a 401; left out, every key is welcome.
    api_key: str | None = None
    seed: int = 0
    #: How many times faster than `latency` says.
    speed: Annotated[float, Field(gt=0)] = 1
    #: By model; left out, by the model's rank in price.
    latency: dict[str, Latency] = {}
    #: By model; left out, by the model's rank in price.
    invalid_output: dict[str, Rate] = {}
    faults: Faults = Faults()
    #: Faults as JSON that hold instead of `faults` as long as there is such a file: a bad day that comes and goes.
    faults_file: Path | None = None
    #: Limits by model as JSON that hold instead of the configuration's as long as there is such a file: a vendor that changes
    #: what it allows.
    limits_file: Path | None = None
    #: Share of reviews that send one or two of the shown subtasks back, while the prompt leaves a round for it.
    rework: Rate = 0
    #: How long a call in the background is queued before its answer begins (and is billed), in the model's time.
    queued_s: NotNegative = 0.2
    #: How many times as long an answer takes at the service tier flex.
    flex_slower: Annotated[float, Field(ge=1)] = 4
    #: How long a batch takes from its validation until all its lines are done, in the model's time.
    batch_s: NotNegative = 60
    #: A correctness table (`fleet.sim.table`): prompts that name a case of it are answered as it says.
    table: Path | None = None
    #: Lines of batches that may wait at a time, over all batches; one with more is no good (the vendor counts tokens).
    batch_lines: Annotated[int, Field(gt=0)] = 1_000_000
    #: Refuse parameters that are unknown or not simulated, as the vendor refuses unknown ones; else they are ignored.
    strict: bool = True

    def manners(self, config: FleetConfig) -> dict[str, Manner]:
        """How each model of the configuration behaves: as told, else as models of its rank in price do."""
        ranked = sorted(config.models, key=lambda name: _price(name, config.models[name]))
        found: dict[str, Manner] = {}
        for rank, name in enumerate(ranked):
            usual = CHEAPEST if rank == 0 else DEAREST if rank == len(ranked) - 1 else MIDDLE
            found[name] = Manner(
                latency=self.latency.get(name, usual.latency),
                invalid_output=self.invalid_output.get(name, usual.invalid_output),
            )
        return found


def _price(name: str, model: ModelConfig) -> Decimal:
    return Decimal(cost_nano_usd(name, model, Usage(output_tokens=1_000_000)))
