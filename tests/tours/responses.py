"""The stops of the tour at the Responses API: answers, items, parsed answers, events, work in the background."""

from __future__ import annotations

import openai

from tests.tours.chat import Leak
from tests.tours.target import FACTS, PICTURE, Target, refused, schema_of, until


def response(to: Target) -> None:
    answer = to.client.responses.create(model=to.model, input=FACTS, instructions="Be brief.", metadata={"tour": "1"})
    assert answer.object == "response", answer
    assert answer.id.startswith("resp_"), answer.id
    assert (answer.status, answer.error, answer.metadata) == ("completed", None, {"tour": "1"}), answer
    assert "pump" in answer.output_text.lower(), answer
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0, answer.usage
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens, answer.usage
    again = to.client.responses.retrieve(answer.id)
    assert again.output_text == answer.output_text, again


def items(to: Target) -> None:
    answer = to.client.responses.create(
        model=to.model,
        input=[
            {"role": "developer", "content": "You are a careful engineer."},
            {"role": "user", "content": "Which pump leaks?"},
            {"role": "assistant", "content": "The pump in hall 3."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": FACTS},
                    {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
                ],
            },
        ],
    )
    assert answer.output_text, answer
    (message,) = answer.output
    assert message.type == "message", message
    assert message.role == "assistant", message


def text_format(to: Target) -> None:
    answer = to.client.responses.create(
        model=to.model,
        input=FACTS,
        text={"format": {"type": "json_schema", "name": "leak", "strict": True, "schema": schema_of(Leak)}},
    )
    Leak.model_validate_json(answer.output_text)
    parsed = to.client.responses.parse(model=to.model, input=FACTS, text_format=Leak)
    assert isinstance(parsed.output_parsed, Leak), parsed


def events(to: Target) -> None:
    with to.client.responses.stream(model=to.model, input=FACTS) as stream:
        seen = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in seen]
    order = (
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    )
    assert [kind for kind in dict.fromkeys(kinds) if kind in order] == list(order), kinds
    assert (kinds[0], kinds[-1]) == (order[0], order[-1]), kinds
    numbers = [event.sequence_number for event in seen]
    assert numbers == sorted(set(numbers)), numbers
    told = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert told == final.output_text, (told, final)
    assert final.usage is not None

    raw = list(to.client.responses.create(model=to.model, input=FACTS, stream=True))
    assert raw[-1].type == "response.completed", raw[-1]


def background(to: Target) -> None:
    begun = to.client.responses.create(model=to.model, input=FACTS, background=True)
    assert begun.background, begun
    assert begun.status in ("queued", "in_progress", "completed"), begun
    ended = until(
        lambda: to.client.responses.retrieve(begun.id), lambda seen: seen.status not in ("queued", "in_progress")
    )
    assert ended.status == "completed", ended
    assert "pump" in ended.output_text.lower(), ended
    assert ended.usage is not None


def background_cancel(to: Target) -> None:
    begun = to.client.responses.create(model=to.model, input=FACTS, background=True)
    cancelled = to.client.responses.cancel(begun.id)
    # It may have been quicker.
    assert cancelled.status in ("cancelled", "completed"), cancelled
    assert to.client.responses.retrieve(begun.id).status == cancelled.status
    assert to.client.responses.cancel(begun.id).status == cancelled.status
    refused(openai.NotFoundError, lambda: to.client.responses.cancel("resp_unknown"))


def previous(to: Target) -> None:
    """Either it goes on from an earlier response, or the error names the parameter."""
    first = to.client.responses.create(model=to.model, input=FACTS)
    try:
        second = to.client.responses.create(
            model=to.model, input="When was it repaired?", previous_response_id=first.id
        )
    except openai.BadRequestError as error:
        assert error.param == "previous_response_id", error.body
        return
    assert second.previous_response_id == first.id, second
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens, (first.usage, second.usage)


def errors(to: Target) -> None:
    missing = refused(openai.NotFoundError, lambda: to.client.responses.create(model="gpt-0", input=FACTS))
    assert missing.code == "model_not_found", missing.body
    unknown = refused(
        openai.BadRequestError,
        lambda: to.client.responses.create(model=to.model, input=FACTS, extra_body={"tempature": 1}),
    )
    assert (unknown.code, unknown.param) == ("unknown_parameter", "tempature"), unknown.body
    without = refused(openai.BadRequestError, lambda: to.client.responses.create(model=to.model))
    assert without.param == "input", without.body
    refused(openai.NotFoundError, lambda: to.client.responses.retrieve("resp_unknown"))


STOPS = {
    "response": response,
    "response-items": items,
    "response-format": text_format,
    "response-events": events,
    "background": background,
    "background-cancel": background_cancel,
    "previous": previous,
    "response-errors": errors,
}
