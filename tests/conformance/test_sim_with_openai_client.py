"""The simulated provider is what the vendor's own client expects, typed answers and streams alike."""

from __future__ import annotations

import json
import time

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from fleet.sim.settings import Faults, SimSettings
from tests.conformance.conftest import Sims
from tests.support.sim import MODELS, RunningSim

PROMPT = "Summarise: The pump in hall 3 leaks. It was repaired in May. Parts are on order."


class Judged(BaseModel):
    relevant: bool
    reason: str


@pytest.fixture
def client(sim: RunningSim) -> OpenAI:
    return OpenAI(base_url=sim.url, api_key="any", max_retries=0)


def test_models_are_those_of_the_configuration(client: OpenAI) -> None:
    with client:
        assert [model.id for model in client.models.list()] == list(MODELS)
        assert client.models.retrieve(MODELS[1]).owned_by == "simulated"


def test_chat_completion(client: OpenAI) -> None:
    with client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODELS[0], messages=[{"role": "user", "content": PROMPT}], temperature=0, seed=3
        )
    answer = raw.parse()
    assert raw.headers["x-request-id"].startswith("req_")
    assert answer.model == f"{MODELS[0]}-simulated"
    assert answer.choices[0].finish_reason == "stop"
    assert "pump" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_completion_parsed_into_a_model(client: OpenAI) -> None:
    with client:
        answer = client.chat.completions.parse(
            model=MODELS[0],
            messages=[{"role": "user", "content": "Path: a/b.py\n```\nclass Pump: ...\n```"}],
            response_format=Judged,
        )
    assert answer.choices[0].message.parsed == Judged(relevant=True, reason="a/b.py defines Pump.")


def test_chat_completion_streamed(client: OpenAI) -> None:
    with client:
        chunks = list(
            client.chat.completions.create(
                model=MODELS[0],
                messages=[{"role": "user", "content": PROMPT}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        whole = client.chat.completions.create(model=MODELS[0], messages=[{"role": "user", "content": PROMPT}])
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert told == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == (whole.usage.completion_tokens if whole.usage else None)


def test_response_created_and_retrieved(client: OpenAI) -> None:
    with client:
        answer = client.responses.create(model=MODELS[1], input=PROMPT, instructions="Be brief.", metadata={"a": "b"})
        again = client.responses.retrieve(answer.id)
        unkept = client.responses.create(model=MODELS[1], input=PROMPT, store=False)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(unkept.id)
    assert answer.status == "completed"
    assert "pump" in answer.output_text
    assert again.output_text == answer.output_text
    assert again.metadata == {"a": "b"}
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


def test_response_in_the_background_created_retrieved_and_cancelled(sims: Sims, client: OpenAI) -> None:
    with client:
        answer = client.responses.create(model=MODELS[1], input=PROMPT, background=True, metadata={"a": "b"})
        assert (answer.status, answer.background, answer.output_text) == ("queued", True, "")
        deadline = time.monotonic() + 20
        seen = []
        while answer.status in ("queued", "in_progress") and time.monotonic() < deadline:
            answer = client.responses.retrieve(answer.id)
            seen.append(answer.status)
        ended = client.responses.cancel(answer.id)
        direct = client.responses.create(model=MODELS[1], input=PROMPT)
        with pytest.raises(openai.BadRequestError, match="in the background"):
            client.responses.cancel(direct.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.cancel("resp_unknown")
        with pytest.raises(openai.BadRequestError) as unstored:
            client.responses.create(model=MODELS[1], input=PROMPT, background=True, store=False)
    assert set(seen) <= {"queued", "in_progress", "completed"}
    assert (answer.status, answer.metadata, answer.error) == ("completed", {"a": "b"}, None)
    assert answer.output_text == direct.output_text
    assert answer.usage is not None
    assert ended == answer
    assert unstored.value.param == "store"

    patient = sims(SimSettings(queued_s=60))
    with OpenAI(base_url=patient.url, api_key="any", max_retries=0) as waiting:
        begun = waiting.responses.create(model=MODELS[0], input=PROMPT, background=True)
        assert waiting.responses.cancel(begun.id).status == "cancelled"
        assert waiting.responses.cancel(begun.id).status == "cancelled"
        assert waiting.responses.retrieve(begun.id).usage is None


def test_response_parsed_into_a_model(client: OpenAI) -> None:
    with client:
        answer = client.responses.parse(
            model=MODELS[0], input="Path: a/b.py\n```\nclass Pump: ...\n```", text_format=Judged
        )
    assert answer.output_parsed == Judged(relevant=True, reason="a/b.py defines Pump.")


def test_response_streamed(client: OpenAI) -> None:
    with client, client.responses.stream(model=MODELS[1], input=PROMPT) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert told == final.output_text
    assert final.usage is not None


def test_a_streamed_call_is_billed_once(client: OpenAI, sim: RunningSim) -> None:
    with client:
        list(
            client.chat.completions.create(
                model=MODELS[0],
                messages=[{"role": "user", "content": PROMPT}],
                stream=True,
                extra_headers={"X-Client-Request-Id": "streamed"},
            )
        )
    assert sim.charge_of("streamed")["model"] == MODELS[0]


def test_a_stream_that_breaks_off_lacks_its_finish(sims: Sims) -> None:
    broken = sims(SimSettings(speed=100, faults=Faults(malformed_json=1.0)))
    with OpenAI(base_url=broken.url, api_key="any", max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(model=MODELS[0], messages=[{"role": "user", "content": PROMPT}], stream=True)
        )
    assert chunks
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks)


def test_a_stream_can_break_within(sims: Sims) -> None:
    broken = sims(SimSettings(speed=100, faults=Faults(reset_in_body=1.0)))
    told: list[str] = []
    with (
        OpenAI(base_url=broken.url, api_key="any", max_retries=0) as client,
        client.responses.create(model=MODELS[0], input=PROMPT, stream=True) as stream,
        pytest.raises(openai.APIError),
    ):
        told.extend(event.type for event in stream)
    assert "response.completed" not in told


def test_errors_have_the_vendors_form(sims: Sims, client: OpenAI) -> None:
    with client:
        with pytest.raises(openai.BadRequestError) as unknown:
            client.responses.create(model=MODELS[0], input="x", extra_body={"tempature": 1})
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-0", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.NotFoundError) as nowhere:
            client.embeddings.create(model=MODELS[0], input="x")
        with pytest.raises(openai.BadRequestError) as schema:
            client.chat.completions.create(
                model=MODELS[0],
                messages=[{"role": "user", "content": "x"}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": {"type": "object", "properties": {}}},
                },
            )
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "tempature")
    assert (missing.value.code, missing.value.type) == ("model_not_found", "invalid_request_error")
    assert nowhere.value.code == "unknown_url"
    assert schema.value.code == "invalid_json_schema"

    locked = sims(SimSettings(api_key="right"))
    wrong = OpenAI(base_url=locked.url, api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with OpenAI(base_url=locked.url, api_key="right", max_retries=0) as friend:
        assert len(list(friend.models.list())) == len(MODELS)


def test_leniently_an_unknown_parameter_is_ignored(sims: Sims) -> None:
    lenient = sims(SimSettings(strict=False, speed=100))
    with OpenAI(base_url=lenient.url, api_key="any", max_retries=0) as client:
        answer = client.responses.create(model=MODELS[0], input=PROMPT, extra_body={"tempature": 1})
    assert answer.output_text


def test_json_mode(client: OpenAI) -> None:
    with client:
        answer = client.chat.completions.create(
            model=MODELS[0],
            messages=[{"role": "user", "content": PROMPT}],
            response_format={"type": "json_object"},
        )
    assert "pump" in json.loads(answer.choices[0].message.content or "")["summary"]
