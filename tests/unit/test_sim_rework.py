"""The simulated reviewer that sends subtasks back: only what it was shown, and only a well-formed verdict."""

from __future__ import annotations

import json
import random

import jsonschema

from fleet.reviewer import REVIEW_SCHEMA
from fleet.sim.produce import sent_back

ACCEPTED = json.dumps({"verdict": "accept", "result": "Fine.", "rework": [], "gaps": []})


def test_one_or_two_of_the_shown_subtasks_go_back_with_a_reason() -> None:
    prompt = "\n".join(json.dumps({"subtask": f"note/{i}", "item": "", "output": "x"}) for i in range(5))
    sizes = set()
    for seed in range(30):
        verdict = json.loads(sent_back(ACCEPTED, prompt, random.Random(seed)))
        jsonschema.validate(verdict, REVIEW_SCHEMA)
        assert verdict["verdict"] == "rework"
        named = [entry["subtask"] for entry in verdict["rework"]]
        assert set(named) <= {f"note/{i}" for i in range(5)}
        assert len(set(named)) == len(named)
        assert all(entry["reason"] for entry in verdict["rework"])
        sizes.add(len(named))
    assert sizes == {1, 2}


def test_the_same_dice_send_the_same_back() -> None:
    prompt = '{"subtask": "a/0"} {"subtask": "a/1"} {"subtask": "a/2"}'
    assert sent_back(ACCEPTED, prompt, random.Random(1)) == sent_back(ACCEPTED, prompt, random.Random(1))


def test_a_review_that_shows_no_subtask_is_left_as_it_is() -> None:
    assert sent_back(ACCEPTED, "Reduced outputs without names.", random.Random(0)) == ACCEPTED
