"""The form of OpenAI's chat completions: what an outcome of a conversation is to who asked for it there.

Pure functions (the vendor's API reference, "The chat completion object"). They know no route and no file.
"""

from __future__ import annotations

from typing import Any

from fleet.jobs import Outcome
from fleet.prices import Usage


def head(id_: str, object_: str, created: int, model: str) -> dict[str, Any]:
    """What a completion and its chunks begin with. `created`: seconds since 1970."""
    return {
        "id": f"chatcmpl-{id_}",
        "object": object_,
        "created": created,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": None,
    }


def completion(id_: str, created: int, model: str, outcome: Outcome) -> dict[str, Any]:
    """The `chat.completion` of an outcome whose output is `{"message", "finish_reason"}`."""
    choice = {
        "index": 0,
        "message": outcome.output["message"] | {"annotations": []},
        "logprobs": None,
        "finish_reason": outcome.output["finish_reason"],
    }
    return head(id_, "chat.completion", created, model) | {"choices": [choice], "usage": usage_of(outcome.usage)}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Usage as completions tell it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
