"""Flex, prompt caching, files and batches of the simulated provider are what the vendor's own client expects."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.support.bench import DEAR, GOOD
from tests.support.lanes import PLAIN, LanesSim, lanes_sim, price_of
from tests.support.sim import RunningSim

PROMPT = "Summarise: The pump in hall 3 leaks. It was repaired in May."
LONG = "Rules of the house. " + " ".join(f"Rule {number}: keep valve {number} shut." for number in range(400))


def client_of(sim: RunningSim) -> OpenAI:
    return OpenAI(base_url=sim.url, api_key="any", max_retries=0)


def line(custom_id: str, prompt: str = PROMPT, model: str = GOOD, **more: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], **more}
    asked = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(asked).encode() + b"\n"


def begin(client: OpenAI, data: bytes, **more: Any) -> Batch:
    file = client.files.create(file=("lines.jsonl", data), purpose="batch")
    assert (file.purpose, file.bytes, file.status) == ("batch", len(data), "processed")
    return client.batches.create(
        input_file_id=file.id, endpoint=more.pop("endpoint", "/v1/chat/completions"), completion_window="24h", **more
    )


def ended(client: OpenAI, batch: Batch) -> Batch:
    deadline = time.monotonic() + 30
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        batch = client.batches.retrieve(batch.id)
    return batch


def content(client: OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [] if file is None else [json.loads(one) for one in client.files.content(file).text.splitlines()]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanesSim]:
    """Its batches take ten seconds."""
    with lanes_sim(tmp_path_factory.mktemp("slow"), batch_s=10_000) as running:
        yield running


def test_flex_is_slower_half_the_price_and_says_so_on_both_wires(vendor: LanesSim) -> None:
    sim = vendor.sim
    with client_of(sim) as client:
        said = client.chat.completions.with_raw_response.create(
            model=GOOD,
            messages=[{"role": "user", "content": PROMPT}],
            service_tier="flex",
            extra_headers={"X-Client-Request-Id": "flex-chat"},
        ).parse()
        answered = client.responses.create(
            model=GOOD, input=PROMPT, service_tier="flex", extra_headers={"X-Client-Request-Id": "flex-responses"}
        )
        usual = client.responses.create(model=GOOD, input=PROMPT, service_tier="auto")
        with pytest.raises(openai.BadRequestError) as unfit:
            client.responses.create(model=PLAIN, input=PROMPT, service_tier="flex")
        with pytest.raises(openai.BadRequestError) as unknown:
            client.responses.create(model=GOOD, input=PROMPT, extra_body={"service_tier": "cheap"})
    assert (said.service_tier, answered.service_tier, usual.service_tier) == ("flex", "flex", "default")
    assert unfit.value.param == unknown.value.param == "service_tier"
    for call in ("flex-chat", "flex-responses"):
        charge = sim.charge_of(call)
        assert (charge["lane"], charge["cost_nano_usd"]) == ("flex", price_of(charge, "flex"))
        assert 2 * charge["cost_nano_usd"] - price_of(charge, "standard") in (0, 1)


def test_flex_without_room_is_refused_for_nothing_and_may_be_served_as_the_standard(vendor: LanesSim) -> None:
    before = len(vendor.sim.charges())
    with client_of(vendor.sim) as client:
        with vendor.faults(flex_unavailable=1):
            with pytest.raises(openai.RateLimitError) as refused:
                client.responses.create(model=GOOD, input=PROMPT, service_tier="flex")
            client.responses.create(model=GOOD, input=PROMPT)
        with vendor.faults(flex_as_standard=1):
            assert client.responses.create(model=GOOD, input=PROMPT, service_tier="flex").service_tier == "default"
    assert refused.value.code == "resource_unavailable"
    assert [charge["lane"] for charge in vendor.sim.charges()[before:]] == ["standard"] * 2


def test_a_prefix_is_cached_among_calls_with_the_same_key(vendor: LanesSim) -> None:
    def cached(client: OpenAI, number: int, key: str) -> int:
        answer = client.responses.create(
            model=GOOD, instructions=LONG, input=f"Which rule is number {number}?", prompt_cache_key=key
        )
        assert answer.usage is not None
        return answer.usage.input_tokens_details.cached_tokens

    with client_of(vendor.sim) as client:
        assert cached(client, 1, "a") == 0
        assert cached(client, 2, "a") >= 1024
        assert cached(client, 3, "b") == 0
        assert cached(client, 4, "b") >= 1024


def test_a_batch_from_upload_to_answers(vendor: LanesSim) -> None:
    sim = vendor.sim
    with client_of(sim) as client:
        data = b"".join(line(f"call-{number}", f"{PROMPT} Part {number}.") for number in range(5))
        batch = begin(client, data + line("call-bad", max_tokens=-1), metadata={"ours": "1"})
        assert (batch.status, batch.metadata) == ("validating", {"ours": "1"})
        seen = client.batches.retrieve(batch.id)
        assert seen.output_file_id is None, "no answer can be read before its batch has ended"
        batch = ended(client, batch)
        assert (batch.status, batch.request_counts and batch.request_counts.to_dict()) == (
            "completed",
            {"total": 6, "completed": 5, "failed": 1},
        )
        outputs, errors = content(client, batch.output_file_id), content(client, batch.error_file_id)
        assert {one["custom_id"] for one in outputs} == {f"call-{number}" for number in range(5)}
        assert all("pump" in one["response"]["body"]["choices"][0]["message"]["content"] for one in outputs)
        assert [(one["custom_id"], one["response"]["status_code"]) for one in errors] == [("call-bad", 400)]
        assert next(iter(client.batches.list(limit=1))).id == batch.id
        assert client.files.delete(batch.input_file_id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.content(batch.input_file_id)
        with pytest.raises(openai.BadRequestError):
            client.batches.cancel(batch.id)
    for one in outputs:
        charge = sim.charge_of(one["custom_id"])
        assert (charge["lane"], charge["cost_nano_usd"]) == ("batch", price_of(charge, "batch"))


def test_a_batch_of_responses(vendor: LanesSim) -> None:
    with client_of(vendor.sim) as client:
        body = {"model": DEAR, "input": PROMPT, "max_output_tokens": 100}
        asked = {"custom_id": "one", "method": "POST", "url": "/v1/responses", "body": body}
        batch = ended(client, begin(client, json.dumps(asked).encode(), endpoint="/v1/responses"))
        (said,) = content(client, batch.output_file_id)
    assert said["response"]["body"]["status"] == "completed"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"no json\n", "invalid_json_line"),
        (line("a") + line("a"), "duplicate_custom_id"),
        (line("a") + line("b", model=DEAR), "mismatched_model"),
        (line("a", model="gpt-0"), "model_not_found"),
        (line("a", model=PLAIN), "model_not_supported"),
        (line("a", colour="red"), "unknown_parameter"),
        (line("a", stream=True), "invalid_request"),
        (b"", "empty_file"),
    ],
)
def test_a_batch_with_a_bad_line_is_not_begun(vendor: LanesSim, data: bytes, code: str) -> None:
    sim = vendor.sim
    before = len(sim.charges())
    with client_of(sim) as client:
        batch = ended(client, begin(client, data))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].code == code
    assert (batch.output_file_id, len(sim.charges())) == (None, before)


def test_a_batch_that_is_cancelled_keeps_what_was_done(slow: LanesSim) -> None:
    sim = slow.sim
    with client_of(sim) as client:
        batch = begin(client, b"".join(line(f"cut-{number}") for number in range(100)))
        while not (seen := client.batches.retrieve(batch.id)).request_counts or seen.request_counts.completed < 3:
            time.sleep(0.01)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = ended(client, batch)
        outputs, errors = content(client, batch.output_file_id), content(client, batch.error_file_id)
    assert batch.status == "cancelled"
    assert 3 <= len(outputs) < 100
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    assert len(outputs) + len(errors) == 100
    assert {charge["call_id"] for charge in sim.charges()} == {one["custom_id"] for one in outputs}


def test_a_batch_that_takes_too_long_expires_and_says_which_lines(tmp_path: Path) -> None:
    # A day is 0.2 s; the lines would take three times as long.
    with lanes_sim(tmp_path, speed=432_000, batch_s=3 * 86_400) as hasty, client_of(hasty.sim) as client:
        batch = ended(client, begin(client, b"".join(line(f"late-{number}") for number in range(60))))
        outputs, errors = content(client, batch.output_file_id), content(client, batch.error_file_id)
        charges = hasty.sim.charges()
    assert batch.status == "expired"
    assert {one["error"]["code"] for one in errors} == {"batch_expired"}
    assert len(outputs) + len(errors) == 60
    assert 0 < len(outputs) < 60
    assert len(charges) == len(outputs)


def test_faults_befall_requests_about_batches_too(vendor: LanesSim) -> None:
    with client_of(vendor.sim) as client, vendor.faults(reset=1), pytest.raises(openai.APIConnectionError):
        client.files.create(file=("lines.jsonl", line("a")), purpose="batch")
