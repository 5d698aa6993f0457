"""The simulated model: from what was asked to text, finish, usage and the time it takes. Pure, given its dice."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from fleet.prices import Usage
from fleet.sim import functions
from fleet.sim.answers import answer
from fleet.sim.asked import Asked
from fleet.sim.settings import Faults, Latency, Manner
from fleet.sim.tabled import Said
from fleet.tokens import estimate_tokens

Fault = Literal[
    "error_5xx",
    "rate_limited",
    "hang",
    "reset",
    "reset_in_body",
    "reset_after_body",
    "malformed_json",
    "refusal",
    "truncation",
]
Finish = Literal["stop", "length", "refusal", "tool_calls"]

REFUSAL = "I'm sorry, but I can't help with that request."
#: Reasoning tokens of one answer by `reasoning.effort`, an order of magnitude as seen from vendors.
REASONING = {"minimal": 16, "low": 64, "medium": 256, "high": 1024, "xhigh": 2048}

#: What a review's prompt says when nothing can be sent back any more, and how it names a subtask.
NO_ROUND_LEFT = "No round of rework is left"
_SUBTASK = re.compile(r'"subtask": "([^"]+)"')


@dataclass(frozen=True, slots=True)
class Produced:
    """One answer, as billed."""

    text: str
    finish: Finish
    usage: Usage
    #: Seconds until the first token, and from there to the last.
    first_s: float
    rest_s: float
    #: The functions it asks to call; then it has no text.
    calls: tuple[functions.FunctionCall, ...] = ()


def dice_for(seed: int, content: bytes, call_id: str | None, seen_before: int) -> random.Random:
    """Dice that fall the same for the same seed, request, call id and repetition, whatever else goes on."""
    digest = blake2b(f"{seed}/{seen_before}/{call_id}/".encode(), digest_size=16)
    digest.update(content)
    return random.Random(int.from_bytes(digest.digest(), "big"))  # noqa: S311  chance, not secrecy


def fault_of(faults: Faults, dice: random.Random) -> Fault | None:
    roll = dice.random()
    shares: dict[Fault, float] = {
        "error_5xx": faults.error_5xx,
        "rate_limited": faults.rate_limited,
        "hang": faults.hang,
        "reset": faults.reset,
        "reset_in_body": faults.reset_in_body,
        "reset_after_body": faults.reset_after_body,
        "malformed_json": faults.malformed_json,
        "refusal": faults.refusal,
        "truncation": faults.truncation,
    }
    for name, share in shares.items():
        if roll < share:
            return name
        roll -= share
    return None


def input_tokens(asked: Asked) -> int:
    texts = (asked.instructions, asked.prompt, asked.schema_text)
    return sum(map(estimate_tokens, texts)) + asked.image_tokens


def produce(
    asked: Asked,
    *,
    manner: Manner,
    rework: float,
    fault: Fault | None,
    dice: random.Random,
    tokens_in: int,
    tokens_cached: int,
    max_output_tokens: int,
    said: Said | None = None,
) -> Produced:
    """The answer to a request; `tokens_in` and `tokens_cached` are what its input counts as.

    `said`: what it is, where a correctness table has it; it is billed as the tokens that the table says.
    """
    # A vendor's model can spend all its output on reasoning; here three quarters are left for the answer.
    reasoning = min(REASONING.get(asked.effort or "", 0), max_output_tokens // 4)
    room = max_output_tokens - reasoning
    text = ""
    finish: Finish = "stop"
    calls: tuple[functions.FunctionCall, ...] = ()
    if fault == "refusal":
        text, finish = REFUSAL, "refusal"
    elif calls := functions.calls(asked, room):
        finish = "tool_calls"
    else:
        text = _text(asked, room, manner, rework, dice) if said is None else said.text
    if fault == "truncation":
        text, calls, finish = text[: len(text) // 2], functions.halved(calls), "length"
    if estimate_tokens(text) > room:
        text, finish = _cut(text, room), "length"
    while functions.tokens_of(calls) > room:
        calls, finish = functions.halved(calls), "length"
    written = estimate_tokens(text) + functions.tokens_of(calls)
    if said is not None and finish == "stop":
        written = max(written, min(said.tokens, room))
    usage = Usage(
        input_tokens=tokens_in,
        cached_tokens=tokens_cached,
        output_tokens=written + reasoning,
        reasoning_tokens=reasoning,
    )
    first, rest = _times(manner.latency, usage, written, dice)
    return Produced(text=text, finish=finish, usage=usage, first_s=first, rest_s=rest, calls=calls)


def _text(asked: Asked, room: int, manner: Manner, rework: float, dice: random.Random) -> str:
    """An answer in text, for a room of so many tokens, up to the first of its stop sequences."""
    if asked.results and asked.schema is None:
        text = functions.report(asked.results)
    else:
        text = answer(asked.instructions, asked.prompt, asked.schema, asked.schema_name, room)
    if rework and asked.schema_name == "review" and NO_ROUND_LEFT not in asked.prompt and dice.random() < rework:
        text = sent_back(text, asked.prompt, dice)
    if asked.schema is not None and dice.random() < manner.invalid_output:
        text = broken(text, asked.schema, dice)
    return text[: min((at for stop in asked.stop if (at := text.find(stop)) >= 0), default=len(text))]


def broken(text: str, schema: Mapping[str, Any], dice: random.Random) -> str:
    """An answer that breaks its schema, in one of the ways models do: a lost key, a cut end, chatter around it."""
    required = schema.get("required") or []
    way = dice.randrange(3)
    if way == 0 and schema.get("type") == "object" and required:
        value = json.loads(text)
        value.pop(required[-1], None)
        return json.dumps(value)
    if way == 1 and text[:1] in ("{", "["):
        return text[: -max(2, len(text) // 8)] + "\n"
    return f"Here is the answer you asked for:\n{text}"


def sent_back(text: str, prompt: str, dice: random.Random) -> str:
    """The review `text` as one that wants one or two of the subtasks done again; as it is when the prompt shows none."""
    shown = list(dict.fromkeys(_SUBTASK.findall(prompt)))
    if not shown:
        return text
    chosen = dice.sample(shown, min(len(shown), dice.randint(1, 2)))
    rework = [
        {"subtask": subtask, "reason": "It names no consequence; add what follows from it."} for subtask in chosen
    ]
    return json.dumps(json.loads(text) | {"verdict": "rework", "result": "", "rework": rework}, ensure_ascii=False)


def _cut(text: str, tokens: int) -> str:
    while (used := estimate_tokens(text)) > tokens:
        text = text[: min(len(text) - 1, len(text) * tokens // used)]
    return text


def _times(latency: Latency, usage: Usage, written: int, dice: random.Random) -> tuple[float, float]:
    jitter = 0.8 + 0.4 * dice.random()
    reading = usage.input_tokens / 1000 * latency.per_1k_input_s
    thinking = usage.reasoning_tokens * latency.per_output_token_s
    return (latency.base_s + reading + thinking) * jitter, written * latency.per_output_token_s * jitter
