"""The simulated vendor: admits a call, lets the model answer it, bills it. It speaks no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from fleet.config import FleetConfig, Limits, ModelConfig
from fleet.prices import Usage
from fleet.sim.asked import ApiError, Asked
from fleet.sim.caching import PrefixCache
from fleet.sim.charges import ChargeLog, Line
from fleet.sim.produce import Fault, Produced, dice_for, fault_of, input_tokens, produce
from fleet.sim.settings import Faults, SimSettings
from fleet.sim.table import load_table
from fleet.sim.tabled import Tabled
from fleet.sim.window import Refused, SlidingMinute

SUFFIX = "-simulated"
#: What a call that names no output limit is taken to write when its tokens are counted against the minute.
ASSUMED_OUTPUT_TOKENS = 1024
#: Seconds to wait, at least and at most, that a refusal by chance asks for.
AGAIN_S = (0.1, 1.0)
#: What befalls the answer to a look, not the response that is looked at.
OF_A_LOOK: frozenset[Fault] = frozenset(("reset", "reset_in_body", "reset_after_body", "malformed_json"))
#: What befalls a line of a batch: what the model does, not the connection.
OF_THE_MODEL: frozenset[Fault | None] = frozenset(("refusal", "truncation"))
MAX_REMEMBERED = 65_536
MAX_STORED = 1000


@dataclass(slots=True)
class Call:
    """One call that was let in; `leave` it when it has ended."""

    asked: Asked
    model: ModelConfig
    #: The minute it counts against; None: a line of a batch, which has limits of its own.
    window: SlidingMinute | None
    dice: random.Random
    fault: Fault | None
    request_id: str
    call_id: str | None
    tokens_in: int
    #: As what it is served and billed: `standard`, `flex` or `batch`.
    lane: str = "standard"
    #: Its line of the bill, once there is one.
    line: Line | None = None

    @property
    def ident(self) -> str:
        """What the ids of its answer have in common."""
        return self.request_id.removeprefix("req_")

    @property
    def answers_as(self) -> str:
        """The model's name in its answer."""
        return self.asked.model.removesuffix(SUFFIX) + SUFFIX

    @property
    def served(self) -> str:
        """The service tier that its answer names."""
        return "flex" if self.lane == "flex" else "default"

    def leave(self) -> None:
        if self.window is not None:
            self.window.leave()


class Vendor:
    """An account with every model of the configuration, its limits, its prompt cache and its bill."""

    def __init__(self, settings: SimSettings, config: FleetConfig, charges: ChargeLog) -> None:
        self.settings = settings
        self.config = config
        #: Answers kept for `GET /v1/responses/{id}`, the last 1,000, as JSON.
        self.stored: OrderedDict[str, str] = OrderedDict()
        self._manners = settings.manners(config)
        self._windows = {name: SlidingMinute(model.limits) for name, model in config.models.items()}
        self._cache = PrefixCache()
        self._tabled = None if settings.table is None else Tabled(load_table(settings.table), config)
        self._charges = charges
        self._seen: OrderedDict[tuple[str | None, int], int] = OrderedDict()

    def model(self, name: str) -> ModelConfig:
        """The model of that name, with or without the suffix that answers bear.

        Raises:
            ApiError: 404, there is none.
        """
        found = self.config.models.get(name.removesuffix(SUFFIX))
        if found is None:
            raise ApiError(
                404,
                f"The model '{name}' does not exist or you do not have access to it.",
                code="model_not_found",
            )
        return found

    def admit(self, asked: Asked, content: bytes, call_id: str | None) -> Call:
        """Lets a call in, or refuses it as the vendor would; nothing is billed yet.

        Raises:
            ApiError: 404 for the model, 400 for what does not fit it, 429 over a limit or by chance, 500 or 503 by chance.
        """
        model, tokens_in = self._fitting(asked)
        window = self._window(asked.model.removesuffix(SUFFIX))
        refused = window.enter(tokens_in + (asked.max_output_tokens or ASSUMED_OUTPUT_TOKENS), time.monotonic())
        if refused is not None:
            raise _over_limit(refused, asked.model, window.headers(time.monotonic()))
        faults = self._faults()
        dice = dice_for(self.settings.seed, content, call_id, self._repetition(content, call_id))
        fault = fault_of(faults, dice)
        request_id = f"req_{dice.getrandbits(128):032x}"
        if fault == "rate_limited":
            window.leave()
            raise _over_limit(_by_chance(dice), asked.model, window.headers(time.monotonic()))
        # In the background half of them are begun and fail later.
        if fault == "error_5xx" and not (asked.background and dice.random() < 0.5):
            window.leave()
            raise _out_of_order(dice, request_id)
        lane = "standard"
        if asked.service_tier == "flex":
            if dice.random() < faults.flex_unavailable:
                window.leave()
                raise _no_room(asked.model, request_id)
            lane = "standard" if dice.random() < faults.flex_as_standard else "flex"
        return Call(asked, model, window, dice, fault, request_id, call_id, tokens_in, lane)

    def admit_line(self, asked: Asked, content: bytes, custom_id: str) -> Call:
        """Lets a line of a batch in: no minute counts it, and of the faults only the vendor's own befall it.

        Raises:
            ApiError: 400 for what does not fit the model, 500 or 503 by chance.
        """
        model, tokens_in = self._fitting(asked)
        dice = dice_for(self.settings.seed, content, custom_id, self._repetition(content, custom_id))
        fault = fault_of(self._faults(), dice)
        request_id = f"req_{dice.getrandbits(128):032x}"
        if fault == "error_5xx":
            raise _out_of_order(dice, request_id)
        if fault not in OF_THE_MODEL:
            fault = None
        return Call(asked, model, None, dice, fault, request_id, custom_id, tokens_in, "batch")

    def _fitting(self, asked: Asked) -> tuple[ModelConfig, int]:
        """The model that was asked for, and the tokens of the input. Raises ApiError: the request does not fit it."""
        model = self.model(asked.model)
        wanted = asked.max_output_tokens
        if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
            raise ApiError(
                400, "Invalid value for the output limit: it must be a positive integer.", code="invalid_value"
            )
        tokens_in = input_tokens(asked)
        if tokens_in > model.context_tokens:
            raise ApiError(
                400,
                f"Your input of {tokens_in} tokens exceeds the model's context window of {model.context_tokens}.",
                code="context_length_exceeded",
            )
        if asked.service_tier is not None and asked.service_tier not in model.service_tiers:
            raise ApiError(
                400,
                f"Invalid service_tier argument: {asked.service_tier} is not available for {asked.model}.",
                param="service_tier",
            )
        return model, tokens_in

    def generate(self, call: Call) -> Produced:
        """The model's answer; billed from here on, whether or not it reaches the caller."""
        asked = call.asked
        name = asked.model.removesuffix(SUFFIX)
        text = f"{asked.schema_text}\n{asked.instructions}\n{asked.prompt}"
        cached = self._cache.cached_tokens(name, text, asked.cache_key)
        produced = produce(
            asked,
            manner=self._manners[name],
            rework=self.settings.rework,
            fault=call.fault,
            dice=call.dice,
            tokens_in=call.tokens_in,
            tokens_cached=min(cached, call.tokens_in),
            max_output_tokens=asked.max_output_tokens or call.model.max_output_tokens,
            said=None if self._tabled is None else self._tabled.answer(name, asked),
        )
        call.line = self._charges.bill(
            call_id=call.call_id,
            name=name,
            model=call.model,
            usage=produced.usage,
            request_id=call.request_id,
            lane=call.lane,
        )
        if call.lane == "flex":
            slower = self.settings.flex_slower
            produced = replace(produced, first_s=slower * produced.first_s, rest_s=slower * produced.rest_s)
        return produced

    def amend(self, call: Call, usage: Usage) -> None:
        """Bills a call for less than was billed when its answer began."""
        if call.line is not None:
            self._charges.amend(call.line, usage)

    def fault_of_look(self, ident: str) -> Fault | None:
        """What befalls a request about a response that exists: a fault of the connection or the front door, by chance.

        Raises:
            ApiError: 429, 500 or 503.
        """
        dice = dice_for(self.settings.seed, ident.encode(), "look", self._repetition(ident.encode(), "look"))
        fault = fault_of(self._faults(), dice)
        if fault == "rate_limited":
            raise _over_limit(_by_chance(dice), "responses", {})
        if fault == "error_5xx":
            raise _out_of_order(dice, f"req_{dice.getrandbits(128):032x}")
        return fault if fault in OF_A_LOOK else None

    async def pause(self, seconds: float) -> None:
        """Waits so many seconds of the model's time."""
        await asyncio.sleep(seconds / self.settings.speed)

    def model_time(self, seconds: float) -> float:
        """Seconds of the clock in the model's time."""
        return seconds * self.settings.speed

    def store(self, answer: dict[str, Any]) -> None:
        self.stored[answer["id"]] = json.dumps(answer)
        while len(self.stored) > MAX_STORED:
            self.stored.popitem(last=False)

    def headers(self, call: Call) -> dict[str, str]:
        limits = {} if call.window is None else call.window.headers(time.monotonic())
        return {"x-request-id": call.request_id, "openai-version": "2020-10-01", **limits}

    def _window(self, name: str) -> SlidingMinute:
        window = self._windows[name]
        if self.settings.limits_file is not None:
            window.limits = self.config.models[name].limits
            with contextlib.suppress(FileNotFoundError):
                now = json.loads(self.settings.limits_file.read_bytes())
                window.limits = Limits.model_validate(now[name]) if name in now else window.limits
        return window

    def _faults(self) -> Faults:
        path = self.settings.faults_file
        if path is None:
            return self.settings.faults
        try:
            return Faults.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return self.settings.faults

    def _repetition(self, content: bytes, call_id: str | None) -> int:
        """How often this very call was let in before, so that a caller's retry is not doomed to the same fault."""
        key = (call_id, hash(content))
        count = self._seen.pop(key, 0)
        self._seen[key] = count + 1
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return count


def _out_of_order(dice: random.Random, request_id: str) -> ApiError:
    overloaded = dice.random() < 0.5
    return ApiError(
        503 if overloaded else 500,
        "The engine is currently overloaded, please try again later."
        if overloaded
        else "The server had an error while processing your request.",
        kind="server_error",
        headers={"x-request-id": request_id},
    )


def _no_room(model: str, request_id: str) -> ApiError:
    return ApiError(
        429,
        f"There is no capacity for {model} at the service tier flex right now. Please try again later.",
        kind="resource_unavailable",
        code="resource_unavailable",
        headers={"x-request-id": request_id},
    )


def _by_chance(dice: random.Random) -> Refused:
    return Refused("requests", dice.uniform(*AGAIN_S))


def _over_limit(refused: Refused, model: str, headers: dict[str, str]) -> ApiError:
    what = {
        "requests": "requests per min (RPM)",
        "tokens": "tokens per min (TPM)",
        "in_flight": "concurrent requests",
    }[refused.limit]
    wait = max(refused.retry_after_s, 0.001)
    return ApiError(
        429,
        f"Rate limit reached for {model} on {what}. Please try again in {wait:.3f}s.",
        kind="tokens" if refused.limit == "tokens" else "requests",
        code="rate_limit_exceeded",
        headers={
            **headers,
            "x-request-id": f"req_{uuid.uuid4().hex}",
            "retry-after": str(math.ceil(wait)),
            "retry-after-ms": str(math.ceil(wait * 1000)),
        },
    )
