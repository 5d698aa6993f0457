"""The JSON objects in a prompt, as far as prose can be made of them: a label, a sentence, names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fleet.sim.phrases import clipped, first_sentence

MAX_RECORDS = 400
MAX_RECORD_SIZE = 20_000
#: Braces that begin no object: past so many the text is something else.
MAX_FAILURES = 150

_OBJECT = re.compile(r'\{\s*"')
_LABEL_KEYS = ("path", "item", "file", "page", "id", "subtask", "subtask_id", "name", "key")
_SENTENCE_KEYS = ("purpose", "summary", "description", "text", "reason", "result", "answer", "output", "title")


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object found in a prompt, as far as prose can be made of it."""

    label: str
    sentence: str
    names: tuple[str, ...]
    value: dict[str, Any]


def records(text: str) -> Iterable[Record]:
    """The objects in order, those with the same label joined into the one that says most."""
    decode = json.JSONDecoder().raw_decode
    joined: dict[str, Record] = {}
    end = failures = 0
    for start in islice(_OBJECT.finditer(text), 4 * MAX_RECORDS):
        at = start.start()
        if at < end:
            continue
        try:
            # A slice, because an error of the decoder counts all lines of what it was given.
            value, length = decode(text[at : at + MAX_RECORD_SIZE])
        except (ValueError, RecursionError):
            failures += 1
            if failures > MAX_FAILURES:
                break
            continue
        if "$schema" not in value and "properties" not in value:
            before = text[max(end, at - 300) : at].strip().rsplit("\n", 1)[-1].strip("#*-:,[]> `")
            record = _record(value, before if 0 < len(before) <= 120 else "")
            old = joined.get(record.label)
            joined[record.label] = record if old is None or _told(record) >= _told(old) else old
        end = at + length
    return joined.values()


def _told(record: Record) -> int:
    return len(record.sentence) + 40 * bool(record.names)


def _record(value: dict[str, Any], before: str) -> Record:
    leaves = list(_leaves(value, 0))
    label = next((text for key in _LABEL_KEYS for at, text in leaves if at == key and isinstance(text, str)), before)
    told = [(at, text) for at, text in leaves if isinstance(text, str) and text != label]
    sentence = next((text for key in _SENTENCE_KEYS for at, text in told if at == key and len(text) > 12), "")
    if not sentence:
        sentence = max((text for _, text in told), key=len, default="")
    # One word is a label of some kind, no sentence.
    sentence = sentence if " " in sentence.strip() else ""
    names = next((tuple(texts) for _, texts in leaves if isinstance(texts, list)), ())
    return Record(clipped(label or "item", 120), first_sentence(sentence), names[:8], value)


def _leaves(value: Any, depth: int, key: str = "") -> Iterable[tuple[str, str | list[str]]]:
    if isinstance(value, str) and value.strip():
        yield key, value
    elif isinstance(value, dict) and depth < 5:
        for name, below in value.items():
            yield from _leaves(below, depth + 1, str(name))
    elif isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        yield key, value
