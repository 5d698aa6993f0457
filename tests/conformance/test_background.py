"""Calls in the background against the simulated provider: begun once, collected by anybody, billed once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from fleet.config import ProviderConfig
from fleet.errors import ProviderError
from fleet.prices import Usage
from fleet.providers import background
from fleet.providers.base import Completion, ModelRequest
from fleet.providers.openai import OpenAIProvider
from fleet.sim.settings import Faults, Latency, SimSettings
from tests.conformance.conftest import Sims
from tests.support.sim import MODELS, RunningSim

T = TypeVar("T")
KEY = "sk-never-to-be-shown"
SECRET = "xyzzy-prompt"
PROMPT = f"Summarise this note {SECRET}.\n\nThe pump in hall 3 leaks. It was repaired in May. Parts are on order."
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["relevant"],
    "properties": {"relevant": {"type": "boolean"}},
}
#: Takes 20 s, so that whoever waits for it sees it in progress.
SLOW = SimSettings(queued_s=0, latency={MODELS[0]: Latency(base_s=20, per_output_token_s=0, per_1k_input_s=0)})
#: Everything that can befall a request, more often than not.
STORM = Faults(error_5xx=0.2, rate_limited=0.1, reset=0.1, reset_in_body=0.1, malformed_json=0.05)


def request(call_id: str, **fields: Any) -> ModelRequest:
    given = {"model": MODELS[0], "prompt": PROMPT, "timeout_s": 30.0, "background": True, **fields}
    return ModelRequest(call_id=call_id, **given)


class Watched(OpenAIProvider):
    """Notes what it sends, and what came of it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.sent: list[str] = []
        self.failed_looks = 0

    async def _send(self, method: str, *given: Any) -> Any:
        self.sent.append(method)
        try:
            return await super()._send(method, *given)
        except ProviderError:
            self.failed_looks += method == "GET"
            raise


def with_provider(url: str, work: Callable[[Watched], Awaitable[T]], wire: Any = "responses") -> T:
    async def run() -> T:
        provider = Watched(ProviderConfig(wire=wire), url, KEY)
        try:
            return await work(provider)
        finally:
            await provider.aclose()

    return asyncio.run(run())


class Journal:
    """Remembers the handles it was told, in order."""

    def __init__(self) -> None:
        self.handles: list[str] = []
        self.told = asyncio.Event()

    async def __call__(self, handle: str) -> None:
        self.handles.append(handle)
        self.told.set()


def abandoned(url: str, asked: ModelRequest) -> str:
    """Begins a call and leaves as soon as its handle is known, as a worker does that is killed."""
    journal = Journal()

    async def work(provider: Watched) -> str:
        waiting = asyncio.create_task(provider.complete(asked, journal))
        await asyncio.wait_for(journal.told.wait(), 20)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return journal.handles[0]

    return with_provider(url, work)


def failed(url: str, work: Callable[[Watched], Awaitable[Completion]]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        with_provider(url, work)
    shown = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert KEY not in shown
    assert SECRET not in shown
    return caught.value


def test_the_handle_is_told_before_the_answer_and_the_answer_is_the_direct_one(sim: RunningSim) -> None:
    seen: list[str] = []

    async def work(provider: Watched) -> tuple[Completion, Completion]:
        assert provider.reattaches

        async def started(handle: str) -> None:
            # Nothing goes on in the caller until it has been journalled.
            await asyncio.sleep(0.05)
            assert provider.sent == ["POST"]
            seen.append(handle)

        answer = await provider.complete(request("told", reasoning_effort="low"), started)
        seen.append("answer")
        direct = await provider.complete(request("direct", reasoning_effort="low", background=False), started)
        return answer, direct

    answer, direct = with_provider(sim.url, work)

    assert seen == [answer.request_id, "answer"]
    assert answer.finish == "stop"
    assert (answer.text, answer.model) == (direct.text, direct.model)
    charge = sim.charge_of("told")
    assert answer.usage_reported
    assert answer.usage == Usage.model_validate({name: charge[name] for name in Usage.model_fields})


def test_without_anybody_to_tell_it_works_too(sim: RunningSim) -> None:
    assert with_provider(sim.url, lambda provider: provider.complete(request("untold"))).finish == "stop"
    assert sim.charge_of("untold")


def test_another_process_collects_what_a_killed_one_began_and_it_is_billed_once(sims: Sims) -> None:
    sim = sims(SimSettings(speed=10, queued_s=2))
    asked = request("reattached")

    handle = abandoned(sim.url, asked)
    first = with_provider(sim.url, lambda provider: provider.collect(handle, asked))
    again = with_provider(sim.url, lambda provider: provider.collect(handle, asked))

    assert first == again
    assert (first.finish, first.request_id) == ("stop", handle)
    assert sim.charge_of("reattached")["output_tokens"] == first.usage.output_tokens


def test_what_nobody_collects_is_billed_once_all_the_same(sims: Sims) -> None:
    sim = sims(SimSettings(speed=100))

    handle = abandoned(sim.url, request("orphan"))
    with_provider(sim.url, lambda provider: provider.collect(handle, request("somebody else")))

    assert sim.charge_of("orphan")
    assert not [charge for charge in sim.charges() if charge["call_id"] == "somebody else"]


def test_what_the_journal_raises_passes_through_and_the_call_can_be_collected(sim: RunningSim) -> None:
    told: list[str] = []

    async def broken(handle: str) -> None:
        told.append(handle)
        raise RuntimeError("The store is gone.")

    with pytest.raises(RuntimeError, match="store is gone"):
        with_provider(sim.url, lambda provider: provider.complete(request("unjournalled"), broken))

    answer = with_provider(sim.url, lambda provider: provider.collect(told[0], request("unjournalled")))
    assert answer.finish == "stop"
    assert sim.charge_of("unjournalled")


def test_cancelled_before_it_began_costs_nothing_and_says_so_to_who_collects(sims: Sims) -> None:
    sim = sims(SimSettings(queued_s=60))
    asked = request("unbegun")
    handle = abandoned(sim.url, asked)

    with_provider(sim.url, lambda provider: provider.cancel(handle))
    with_provider(sim.url, lambda provider: provider.cancel(handle))
    error = failed(sim.url, lambda provider: provider.collect(handle, asked))

    assert (error.kind, error.retryable, error.request_id) == ("cancelled", False, handle)
    assert not sim.charges()


def test_cancelled_while_it_is_written_costs_what_was_written(sims: Sims) -> None:
    sim = sims(SLOW)
    asked = request("cut", timeout_s=1.5)
    handle = abandoned(sim.url, asked)
    # It is in progress, so there is no answer in time, and it is on the bill.
    late = failed(sim.url, lambda provider: provider.collect(handle, asked))
    whole = sim.charge_of("cut")

    with_provider(sim.url, lambda provider: provider.cancel(handle))
    error = failed(sim.url, lambda provider: provider.collect(handle, asked))

    assert (late.kind, late.retryable, late.maybe_billed, late.request_id) == ("timeout", True, True, handle)
    assert (error.kind, error.maybe_billed) == ("cancelled", True)
    assert sim.charge_of("cut")["output_tokens"] < whole["output_tokens"]


def test_cancelling_what_has_ended_or_is_unknown_or_unreachable_is_fine(sim: RunningSim) -> None:
    answer = with_provider(sim.url, lambda provider: provider.complete(request("ended")))
    assert answer.request_id is not None
    handle = answer.request_id

    with_provider(sim.url, lambda provider: provider.cancel(handle))
    with_provider(sim.url, lambda provider: provider.cancel("resp_unknown"))
    # Port 9 (discard, RFC 863) is below those the system hands out: nothing of this run listens there.
    with_provider("http://127.0.0.1:9/v1", lambda provider: provider.cancel(handle))

    assert with_provider(sim.url, lambda provider: provider.collect(handle, request("ended"))) == answer


def test_a_handle_the_vendor_does_not_know_is_lost(sim: RunningSim) -> None:
    for handle in ("resp_unknown", "../models", "a/../b?c#d"):
        error = failed(sim.url, lambda provider, handle=handle: provider.collect(handle, request("lost")))  # type: ignore[misc]
        assert (error.kind, error.retryable, error.maybe_billed) == ("not_found", False, True)


def test_errors_while_it_is_asked_for_are_survived_and_pay_nothing(sims: Sims, monkeypatch: pytest.MonkeyPatch) -> None:
    # The vendor is 20 times faster than life, and so are the looks.
    monkeypatch.setattr(background, "FIRST_WAIT_S", 0.25 / 20)
    monkeypatch.setattr(background, "LONGEST_WAIT_S", 5.0 / 20)
    sim = sims(SimSettings(speed=20, faults=STORM))

    async def work(provider: Watched) -> dict[str, str]:
        async def one(call_id: str) -> tuple[str, str]:
            journal = Journal()
            try:
                return call_id, (await provider.complete(request(call_id), journal)).finish
            except ProviderError as error:
                lost = "begun" if journal.handles else "create"
                return call_id, f"{lost} {error.kind} {'maybe' if error.maybe_billed else 'not'} billed"

        found = dict(await asyncio.gather(*(one(f"storm-{number}") for number in range(40))))
        assert provider.failed_looks > 10
        assert provider.sent.count("POST") == 40
        return found

    fates = with_provider(sim.url, work)
    charges = [charge["call_id"] for charge in sim.charges()]

    assert len(charges) == len(set(charges))
    by_fate = {fate: [call_id for call_id, came in fates.items() if came == fate] for fate in set(fates.values())}
    assert len(by_fate["stop"]) > 10
    assert set(by_fate["stop"]) <= set(charges)
    # What fails is the creating request, or the model itself: never a look.
    assert set(by_fate) <= {
        "stop",
        "create server not billed",
        "create overloaded not billed",
        "create rate_limit not billed",
        "create connection maybe billed",
        "create malformed maybe billed",
        "begun server not billed",
    }
    unbilled = [call_id for fate, ids in by_fate.items() if fate.endswith("not billed") for call_id in ids]
    assert not set(unbilled) & set(charges)
    assert by_fate["begun server not billed"]


@pytest.mark.parametrize(("fault", "finish"), [("truncation", "length"), ("refusal", "refusal")])
def test_truncation_and_refusal_are_outcomes_and_billed(sims: Sims, fault: str, finish: str) -> None:
    sim = sims(SimSettings(speed=100, faults=Faults(**{fault: 1.0}), invalid_output=dict.fromkeys(MODELS, 0.0)))

    answer = with_provider(sim.url, lambda provider: provider.complete(request(f"bg-{fault}", schema=SCHEMA)))

    assert answer.finish == finish
    assert sim.charge_of(f"bg-{fault}")["output_tokens"] == answer.usage.output_tokens


def test_an_answer_cut_at_its_limit_says_so(sim: RunningSim) -> None:
    answer = with_provider(sim.url, lambda provider: provider.complete(request("limit", max_output_tokens=5)))
    assert answer.finish == "length"


def test_a_call_that_hangs_times_out_and_stays_collectable(sims: Sims) -> None:
    sim = sims(SimSettings(speed=100, faults=Faults(hang=1.0)))
    journal = Journal()

    error = failed(sim.url, lambda provider: provider.complete(request("bg-hang", timeout_s=1.0), journal))
    again = failed(sim.url, lambda provider: provider.collect(journal.handles[0], request("bg-hang", timeout_s=0.5)))

    assert (error.kind, error.maybe_billed, error.request_id) == ("timeout", True, journal.handles[0])
    assert again.kind == "timeout"
    assert sim.charge_of("bg-hang")


@pytest.mark.parametrize("fault", ["reset", "reset_in_body", "malformed_json"])
def test_a_beginning_whose_answer_is_lost_may_have_been_billed(sims: Sims, fault: str) -> None:
    sim = sims(SimSettings(speed=100, faults=Faults(**{fault: 1.0})))
    journal = Journal()

    error = failed(sim.url, lambda provider: provider.complete(request(f"lost-{fault}"), journal))

    assert error.kind == ("malformed" if fault == "malformed_json" else "connection")
    assert (error.retryable, error.maybe_billed) == (True, True)
    assert not journal.handles


def test_chat_runs_nothing_in_the_background(sim: RunningSim) -> None:
    journal = Journal()

    async def work(provider: Watched) -> Completion:
        assert not provider.reattaches
        await provider.cancel("resp_1")
        with pytest.raises(ProviderError) as caught:
            await provider.collect("resp_1", request("chat"))
        assert (caught.value.kind, caught.value.maybe_billed) == ("not_found", True)
        return await provider.complete(request("chat"), journal)

    assert with_provider(sim.url, work, wire="chat").finish == "stop"
    assert not journal.handles
    assert sim.charge_of("chat")
