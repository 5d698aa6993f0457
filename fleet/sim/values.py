"""Texts and numbers bent to what a schema allows: lengths, patterns, formats, ranges, multiples."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fleet import patterns
from fleet.sim.asked import words_of
from fleet.sim.effort import Effort
from fleet.sim.evidence import Evidence
from fleet.sim.phrases import clipped

#: Where the prompt holds no such thing: values that say they are made up (RFC 2606 and 5737 names and addresses).
_FORMATS = {
    "date-time": (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", "2000-01-01T00:00:00Z"),
    "date": (r"\b\d{4}-\d\d-\d\d\b", "2000-01-01"),
    "time": (r"\b\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)", "00:00:00Z"),
    "duration": (r"\bP(?:\d+[YMWD])+\b", "P1D"),
    "email": (r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b", "nobody@example.com"),
    "hostname": (r"\b(?:[a-z0-9-]+\.)+[a-z]{2,}\b", "example.com"),
    "uri": (r"\bhttps?://[^\s\"'<>)]+", "https://example.com/"),
    "ipv4": (r"\b(?:\d{1,3}\.){3}\d{1,3}\b", "192.0.2.1"),
    "ipv6": (r"\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b", "2001:db8::1"),
    "uuid": (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "00000000-0000-4000-8000-000000000000"),
}
#: No answer has room for a longer text.
LONGEST = 500_000
_SHARES = words_of("confidence score probability certainty likelihood quality")


def text_that_fits(schema: Mapping[str, Any], text: str, evidence: Evidence, effort: Effort) -> str:
    """`text` within the schema's lengths; for a pattern or format the first thing of the prompt that matches, for the effort."""
    known = _FORMATS.get(schema.get("format", ""))
    if known is not None:
        found = re.search(known[0], evidence.prompt) if effort.affords(len(evidence.prompt)) else None
        return found.group(0) if found else known[1]
    least, most = min(schema.get("minLength", 0), LONGEST), schema.get("maxLength")
    if pattern := schema.get("pattern"):
        return _matching(pattern, text, least, most, evidence, effort)
    return _sized(text, least, most, evidence)


def number(schema: Mapping[str, Any], kind: str, name: str, evidence: Evidence, step: int = 0) -> int | float:
    """A count of what the prompt holds (nine tenths for a confidence), brought into range; `step` more of it."""
    words = set(name.lower().split("_"))
    value: float
    if words & _SHARES:
        value = 0.9 if schema.get("maximum", 1) <= 1 else 0.9 * schema.get("maximum", 1)
    elif words & {"lines", "line", "loc"}:
        value = evidence.material.count("\n") + 1
    else:
        value = len(evidence.records) or len(evidence.names)
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    unit = schema.get("multipleOf") or (1 if kind == "integer" else None)
    if unit is None:
        return _between(value + step / 1000, low, high, above, below)
    units = round(value / unit) + step
    for bound, strict in ((high, False), (below, True)):
        if bound < math.inf:
            units = min(units, math.ceil(bound / unit) - 1 if strict else math.floor(bound / unit))
    for bound, strict in ((low, False), (above, True)):
        if bound > -math.inf:
            units = max(units, math.floor(bound / unit) + 1 if strict else math.ceil(bound / unit))
    return int(units * unit) if kind == "integer" else units * unit


def _between(value: float, low: float, high: float, above: float, below: float) -> float:
    value = min(max(value, low), high)
    if above < value < below:
        return value
    floor, ceiling = max(low, above), min(high, below)
    if math.isinf(ceiling):
        return floor + 1
    return ceiling - 1 if math.isinf(floor) else (floor + ceiling) / 2


def _matching(pattern: str, text: str, least: int, most: int | None, evidence: Evidence, effort: Effort) -> str:
    """Best effort: a pattern nothing in the prompt matches, or that takes too long, gets a text that breaks it."""
    try:
        compiled = re.compile(pattern)
        for candidate in _candidates(text, evidence):
            fits = least <= len(candidate) and (most is None or len(candidate) <= most)
            if not fits or not effort.affords(patterns.steps(pattern, len(candidate))):
                continue
            if compiled.search(candidate):
                return candidate
    except (re.error, patterns.Unusable):
        pass
    return _sized(text, least, most, evidence)


def _candidates(text: str, evidence: Evidence) -> Iterator[str]:
    yield text
    for found in (evidence.names, evidence.keywords, [evidence.path], evidence.imports, evidence.sentences):
        yield from found
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    for made in (slug, slug.replace("-", "_"), slug.replace("-", "").upper()):
        for length in (len(made), 24, 16, 10, 8, 6, 5, 4, 3, 2, 1):
            yield made[:length].strip("-_")
    yield from re.findall(r"\S+", evidence.prompt[:4000])[:300]
    digits = "1234567890" * 3
    for length in range(1, 17):
        yield digits[:length]
        yield "ABCDEFGHIJKLMNOP"[:length]
    yield from ("unknown", "unknown.py", "unknown.md", "unknown.json", "unknown.txt")
    yield from (known[1] for known in _FORMATS.values())
    for left in range(1, 5):
        for right in range(1, 7):
            for sign in ("-", "_", ".", "", ":", "/", "#"):
                yield "ABCD"[:left] + sign + digits[:right]
                yield "abcd"[:left] + sign + digits[:right]
                yield digits[:left] + sign + digits[:right]
    yield "1.2.3"
    yield ""


def _sized(text: str, least: int, most: int | None, evidence: Evidence) -> str:
    if len(text) < least:
        filler = " ".join([*evidence.sentences, evidence.prompt.strip()]) or "-"
        text = f"{text} {filler}".strip()
        text = (
            (text + " " + filler * (least // len(filler) + 1))[: max(least, len(text))] if len(text) < least else text
        )
    if most is not None and len(text) > most:
        shorter = clipped(text, most)
        text = shorter if least <= len(shorter) <= most else text[:most]
    return text
