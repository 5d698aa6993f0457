"""What every provider keeps, over each wire, against the simulated provider as a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleet.config import ProviderConfig
from fleet.errors import ProviderError
from fleet.prices import cost_nano_usd
from fleet.providers.base import Completion, Image, ModelRequest
from fleet.providers.openai import OpenAIProvider
from fleet.sim.settings import Faults, SimSettings
from fleet.tokens import image_tokens
from tests.conformance.conftest import Sims
from tests.support.sim import MODELS, RunningSim, fleet_config

KEY = "sk-never-to-be-shown"
SECRET = "xyzzy-prompt"
PROMPT = f"Summarise this note {SECRET}.\n\nThe pump in hall 3 leaks. It was repaired in May. Parts are on order."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["role", "relevant", "reason"],
    "properties": {
        "role": {"enum": ["library", "test", "other"]},
        "relevant": {"type": "boolean"},
        "reason": {"type": "string"},
    },
}


@pytest.fixture(params=["responses", "chat"])
def wire(request: pytest.FixtureRequest) -> Any:
    return request.param


def ask(sim: RunningSim | str, wire: Any, **fields: Any) -> Completion:
    async def call() -> Completion:
        url = sim if isinstance(sim, str) else sim.url
        provider = OpenAIProvider(ProviderConfig(wire=wire), url, KEY)
        try:
            given = {"call_id": "call", "model": MODELS[0], "prompt": PROMPT, "timeout_s": 30.0, **fields}
            return await provider.complete(ModelRequest(**given))
        finally:
            await provider.aclose()

    return asyncio.run(call())


def refused(sim: RunningSim | str, wire: Any, **fields: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        ask(sim, wire, **fields)
    error = caught.value
    shown = f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert KEY not in shown
    assert SECRET not in shown
    return error


def faulty(sims: Sims, **rates: float) -> RunningSim:
    return sims(SimSettings(speed=100, faults=Faults(**rates), invalid_output=dict.fromkeys(MODELS, 0.0)))


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x7f" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_an_answer_comes_with_usage_that_was_billed_to_the_nano_dollar(sim: RunningSim, wire: Any) -> None:
    answer = ask(sim, wire, call_id=f"billed-{wire}", instructions="You are brief.", reasoning_effort="low")

    assert answer.finish == "stop"
    assert "pump in hall 3" in answer.text
    assert answer.model == "gpt-5.4-nano-simulated"
    assert answer.usage_reported
    assert answer.usage.reasoning_tokens == 64
    charge = sim.charge_of(f"billed-{wire}")
    assert charge["request_id"] == answer.request_id
    assert {name: charge[name] for name in answer.usage.model_dump()} == answer.usage.model_dump()
    assert charge["cost_nano_usd"] == cost_nano_usd(MODELS[0], fleet_config().models[MODELS[0]], answer.usage)


def test_structured_output_keeps_its_schema(sim: RunningSim, wire: Any) -> None:
    text = ask(sim, wire, prompt="Path: tests/test_x.py\n```\ndef test_x(): ...\n```", schema=SCHEMA).text

    answer = json.loads(text)
    Draft202012Validator(SCHEMA).validate(answer)
    assert (answer["role"], answer["relevant"]) == ("test", False)
    assert "tests/test_x.py" in answer["reason"]


def test_a_schema_outside_strict_mode_is_asked_for_without_it(sim: RunningSim, wire: Any) -> None:
    loose = {"type": "object", "required": ["topic"], "properties": {"topic": {"enum": ["billing", "bug", "other"]}}}

    answer = ask(sim, wire, prompt="Topic of this ticket? I was charged twice.", schema=loose)

    assert json.loads(answer.text) == {"topic": "billing"}


def test_a_picture_is_sent_and_counted(sim: RunningSim, wire: Any) -> None:
    picture = Image("image/png", png(640, 320))

    without = ask(sim, wire).usage.input_tokens
    with_picture = ask(sim, wire, images=(picture,)).usage.input_tokens

    assert with_picture - without == image_tokens(640, 320) == 200


def test_a_long_prompt_sent_again_is_cached(sim: RunningSim, wire: Any) -> None:
    prompt = f"{wire}: " + "The pump in hall 3 leaks. " * 400

    first = ask(sim, wire, prompt=prompt).usage
    second = ask(sim, wire, prompt=prompt, call_id=f"cached-{wire}").usage

    assert first.cached_tokens == 0
    assert second.cached_tokens >= 1024
    assert second.cached_tokens % 128 == 0
    assert sim.charge_of(f"cached-{wire}")["cached_tokens"] == second.cached_tokens


def test_an_answer_cut_at_its_limit_says_so(sim: RunningSim, wire: Any) -> None:
    answer = ask(sim, wire, max_output_tokens=5)

    assert answer.finish == "length"
    assert answer.usage.output_tokens <= 5


def test_truncation_and_refusal_are_outcomes_and_billed(sims: Sims, wire: Any) -> None:
    for fault, finish in (("truncation", "length"), ("refusal", "refusal")):
        sim = faulty(sims, **{fault: 1.0})
        answer = ask(sim, wire, call_id=f"{fault}-{wire}", schema=SCHEMA)
        assert answer.finish == finish
        assert sim.charge_of(f"{fault}-{wire}")["output_tokens"] == answer.usage.output_tokens


def test_invalid_output_breaks_its_schema_and_is_billed(sims: Sims, wire: Any) -> None:
    sim = sims(SimSettings(speed=100, invalid_output=dict.fromkeys(MODELS, 1.0)))

    for number in range(6):
        call_id = f"invalid-{wire}-{number}"
        answer = ask(sim, wire, call_id=call_id, schema=SCHEMA)
        assert answer.finish == "stop"
        assert not _keeps(answer.text)
        assert sim.charge_of(call_id)["output_tokens"] == answer.usage.output_tokens


def _keeps(text: str) -> bool:
    try:
        return bool(Draft202012Validator(SCHEMA).is_valid(json.loads(text)))
    except ValueError:
        return False


def test_a_wrong_key_is_told_by_the_variable_to_set(sims: Sims, wire: Any) -> None:
    sim = sims(SimSettings(api_key="another"))

    error = refused(sim, wire)

    assert (error.kind, error.retryable, error.maybe_billed) == ("auth", False, False)
    assert "OPENAI_API_KEY" in str(error)
    assert not sim.charges()


def test_an_unknown_model_is_told_by_name(sim: RunningSim, wire: Any) -> None:
    error = refused(sim, wire, model="gpt-0")

    assert (error.kind, error.retryable) == ("not_found", False)
    assert "gpt-0" in str(error)


def test_a_request_the_vendor_does_not_accept_is_not_tried_again(sims: Sims, wire: Any) -> None:
    small = fleet_config().model_dump()
    small["models"][MODELS[0]]["context_tokens"] = 10
    sim = sims(None, type(fleet_config()).model_validate(small))

    error = refused(sim, wire)

    assert (error.kind, error.retryable) == ("bad_request", False)
    assert "context_length_exceeded" in str(error)


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1}, {"tokens_per_minute": 4500}])
def test_over_a_limit_the_wait_is_told(sims: Sims, wire: Any, limits: dict[str, int]) -> None:
    # One model per wire: the two share the server and its minute.
    model = MODELS[0] if wire == "chat" else MODELS[1]
    sim = sims(None, fleet_config(**limits))
    ask(sim, wire, model=model, call_id=f"first-{wire}")

    error = refused(sim, wire, model=model, call_id=f"second-{wire}")

    assert (error.kind, error.retryable, error.maybe_billed) == ("rate_limit", True, False)
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 60
    assert error.request_id is not None
    assert [charge["call_id"] for charge in sim.charges()].count(f"second-{wire}") == 0


def test_more_than_the_places_in_flight_is_over_a_limit(sims: Sims, wire: Any) -> None:
    sim = sims(SimSettings(faults=Faults(hang=1.0)), fleet_config(in_flight=1))

    async def calls() -> list[ProviderError]:
        provider = OpenAIProvider(ProviderConfig(wire=wire), sim.url, KEY)
        try:
            asked = (ModelRequest(call_id=f"{wire}-{n}", model=MODELS[0], prompt="x", timeout_s=1.0) for n in (1, 2))
            answers = await asyncio.gather(*map(provider.complete, asked), return_exceptions=True)
        finally:
            await provider.aclose()
        return [error for error in answers if isinstance(error, ProviderError)]

    assert sorted(error.kind for error in asyncio.run(calls())) == ["rate_limit", "timeout"]


def test_a_server_error_may_pass_and_is_not_billed(sims: Sims, wire: Any) -> None:
    sim = faulty(sims, error_5xx=1.0)

    kinds = set()
    for number in range(8):
        error = refused(sim, wire, call_id=f"5xx-{number}")
        assert (error.retryable, error.maybe_billed) == (True, False)
        kinds.add(error.kind)

    assert kinds == {"server", "overloaded"}
    assert not sim.charges()


@pytest.mark.parametrize(("fault", "background"), [("error_5xx", False), ("reset", False), ("error_5xx", True)])
def test_a_failed_call_leaves_its_prompt_to_nobody(sims: Sims, wire: Any, fault: str, background: bool) -> None:
    """Workers let the garbage collector come seldom: what only it could free would stay, and a prompt may be large."""
    sim = faulty(sims, **{fault: 1.0})
    call_id = f"left-{wire}-{fault}-{background}"

    async def left() -> list[Any]:
        provider = OpenAIProvider(ProviderConfig(wire=wire), sim.url, KEY)
        failed = False
        try:
            await provider.complete(ModelRequest(call_id, MODELS[0], PROMPT, timeout_s=30.0, background=background))
        except ProviderError:
            failed = True
        await provider.aclose()
        assert failed
        # Not isinstance: Celery's proxies among them would begin to work.
        return [one for one in gc.get_objects() if type(one) is ModelRequest and one.call_id == call_id]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(left()) == []
    finally:
        gc.enable()


def test_no_answer_in_time_may_have_been_billed(sims: Sims, wire: Any) -> None:
    sim = faulty(sims, hang=1.0)

    error = refused(sim, wire, call_id=f"hang-{wire}", timeout_s=1.0)

    assert (error.kind, error.retryable, error.maybe_billed) == ("timeout", True, True)
    assert sim.charge_of(f"hang-{wire}")["output_tokens"] > 0


def test_a_broken_connection_may_have_been_billed(sims: Sims, wire: Any) -> None:
    sim = faulty(sims, reset=1.0)

    error = refused(sim, wire, call_id=f"reset-{wire}")

    assert (error.kind, error.retryable, error.maybe_billed) == ("connection", True, True)
    assert sim.charge_of(f"reset-{wire}")["output_tokens"] > 0


def test_a_connection_broken_within_the_answer_may_have_been_billed(sims: Sims, wire: Any) -> None:
    sim = faulty(sims, reset_in_body=1.0)

    error = refused(sim, wire, call_id=f"within-{wire}")

    assert (error.kind, error.retryable, error.maybe_billed) == ("connection", True, True)
    assert sim.charge_of(f"within-{wire}")["output_tokens"] > 0


def test_an_answer_that_came_before_the_connection_broke_counts(sims: Sims, wire: Any) -> None:
    sim = faulty(sims, reset_after_body=1.0)

    answer = ask(sim, wire, call_id=f"behind-{wire}")

    assert answer.finish == "stop"
    assert sim.charge_of(f"behind-{wire}")["output_tokens"] == answer.usage.output_tokens


def test_a_refusal_by_chance_says_when_to_come_again_and_is_not_billed(sims: Sims, wire: Any) -> None:
    sim = faulty(sims, rate_limited=1.0)

    error = refused(sim, wire)

    assert (error.kind, error.retryable, error.maybe_billed) == ("rate_limit", True, False)
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 1
    assert not sim.charges()


def test_a_bad_day_comes_and_goes(sims: Sims, wire: Any, tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    sim = sims(SimSettings(speed=100, faults_file=path))

    assert ask(sim, wire).finish == "stop"
    path.write_text(Faults(rate_limited=1.0).model_dump_json())
    assert refused(sim, wire).kind == "rate_limit"
    path.unlink()
    assert ask(sim, wire).finish == "stop"


def test_a_vendor_changes_what_it_allows(sims: Sims, wire: Any, tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    sim = sims(SimSettings(speed=100, limits_file=path))

    assert ask(sim, wire).finish == "stop"
    path.write_text(json.dumps({MODELS[0]: {"requests_per_minute": 1}}))
    assert refused(sim, wire).kind == "rate_limit"
    path.unlink()
    assert ask(sim, wire).finish == "stop"


def test_half_an_answer_is_malformed_and_was_billed(sims: Sims, wire: Any) -> None:
    sim = faulty(sims, malformed_json=1.0)

    error = refused(sim, wire, call_id=f"malformed-{wire}")

    assert (error.kind, error.retryable, error.maybe_billed) == ("malformed", True, True)
    assert error.request_id == sim.charge_of(f"malformed-{wire}")["request_id"]


def test_nobody_listening_was_surely_not_billed(wire: Any) -> None:
    # Port 9 (discard, RFC 863) is below those the system hands out: nothing of this run listens there.
    error = refused("http://127.0.0.1:9/v1", wire)

    assert (error.kind, error.retryable, error.maybe_billed) == ("connection", True, False)


def test_the_same_calls_fare_the_same_whatever_their_order(sims: Sims, wire: Any) -> None:
    rates = {"error_5xx": 0.2, "refusal": 0.2, "truncation": 0.2}
    runs = [sims(SimSettings(speed=speed, seed=7, faults=Faults(**rates))) for speed in (100, 101)]

    def fate(sim: RunningSim, number: int) -> tuple[str, str]:
        try:
            answer = ask(sim, wire, call_id=f"fate-{number}", schema=SCHEMA)
        except ProviderError as error:
            return error.kind, str(error.request_id)
        return answer.finish, answer.text

    first = {number: fate(runs[0], number) for number in range(12)}
    second = {number: fate(runs[1], number) for number in reversed(range(12))}

    assert first == second
    assert len({kind for kind, _ in first.values()}) > 2
