"""What workers and carriers of batches write down for each other is read back as it was, also by other versions."""

from __future__ import annotations

import json

from fleet.entries import Purpose, Worst, draft
from fleet.lines import Route, Sent, _places, line_blob, lot_blob
from fleet.outcomes import Trail
from fleet.prices import Usage
from fleet.providers.base import Completion
from fleet.vendor_batches import State
from queues.subtasks import Claim

CLAIM = Claim("j/sort/0", "nano", 7, "", "", 0, 1)
PURPOSE = Purpose("j", "j/sort/0", CLAIM, "sort", "sort", "work", "nano", record="j/1.0.0", lane="batch", due=9.0)
ENTRY = draft(
    PURPOSE, "j/sort/0.7.batch", model="m", provider="p", waited_ms=0, worst=Worst(Usage(), 9), lane="batch"
).entry
ANSWER = Completion(
    'said "so"\n\u2028', "stop", Usage(input_tokens=3, cached_tokens=1), True, "m-1", "req", message={"content": "x"}
)


def test_what_became_of_a_line_is_read_back() -> None:
    for sent in (Sent(ENTRY, "j/1.0.0", ANSWER), Sent(ENTRY, "j/1.0.0", None)):
        assert Sent.of(sent.written()) == sent
        assert b"\n" not in sent.written()


def test_each_line_is_found_in_the_blob_of_its_lot() -> None:
    others = [Sent(ENTRY.model_copy(update={"call_id": f"call-{number}"}), "r", ANSWER) for number in range(3)]
    data = b"".join(sent.written() + b"\n" for sent in others)
    for sent in others:
        start, length = _places(data)[sent.entry.call_id]
        assert Sent.of(data[start : start + length]) == sent


def test_the_state_of_a_lot_and_its_route_are_read_back() -> None:
    state = State(since=5.5, handle="batch_1", failed=2, answers="j/lots/x.jsonl", files=("file-1",))
    assert State.of(state.written()) == state
    assert State.of("") == State()
    assert State.of(json.dumps(json.loads(state.written()) | {"later": 1})) == state
    route = Route("j", "openai", "m", "/v1/responses", 99.5)
    assert Route.of(route.written()) == route


def test_a_trail_tells_of_its_line_only_while_there_is_one() -> None:
    trail = Trail(line="j/sort/0.7.batch")
    assert Trail.load(trail.dump()).line == "j/sort/0.7.batch"
    assert "line" not in json.loads(Trail().dump()), "an earlier version knows no such thing"
    assert Trail.load(Trail().dump()).line is None


def test_names_of_blobs_are_no_words_of_users() -> None:
    assert line_blob("j", "j/../../x.7").startswith("j/lines/")
    assert ".." not in line_blob("j", "j/../../x.7")
    assert lot_blob("acme.j1", "lots/acme.j1.0f.2", 7) == "acme.j1/lots/acme.j1.0f.2.7.jsonl"
