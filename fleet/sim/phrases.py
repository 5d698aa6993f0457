"""Cutting text into sentences, clipping and listing: plain string work without any meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_SENTENCES = 120
MAX_PROSE_CHARS = 30_000

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[A-Z0-9`\"'(*])|\n\s*\n|\n(?=\s*(?:[-*#>|]|\d+[.)])\s)")


def first_sentence(text: str) -> str:
    """The first sentence on one line, at most 240 characters."""
    flat = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    return clipped(re.split(r"(?<=[.!?])\s+(?=[A-Z`\"'(])", flat, maxsplit=1)[0], 240)


def sentences(text: str) -> list[str]:
    """Sentences and list entries, without their Markdown marks, at most 120 of them."""
    found: list[str] = []
    for part in _SENTENCE_END.split(text[:MAX_PROSE_CHARS]):
        flat = " ".join(part.split()).lstrip("#>*-| ").strip()
        if len(flat) > 2 and re.search(r"\w", flat):
            found.append(clipped(flat, 300))
        if len(found) >= MAX_SENTENCES:
            break
    return unique(found)


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters, cut between words."""
    if len(text) <= limit:
        return text
    return text[: limit - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…" if limit > 1 else text[:limit]


def listing(names: Iterable[str], quote: str = "`") -> str:
    """`a`, `b` and `c`."""
    quoted = [f"{quote}{name}{quote}" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}" if quoted else ""


def unique(found: Iterable[str]) -> list[str]:
    """Without repetitions and blanks, in the order given."""
    return list(dict.fromkeys(text.strip() for text in found if text.strip()))
