"""Text that came from outside, made fit for a terminal or a page: one function, used wherever such text is shown.

It knows nothing of what the text means, nor of Markdown.
"""

from __future__ import annotations

import json
import re
import unicodedata

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # operating system commands: titles, hyperlinks, clipboard
    r"|\x1b[PX^_][^\x1b]{0,4096}\x1b\\"  # device strings
    r"|(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,16}[@-~]"  # colours, cursor movement
    r"|\x1b[ -/]{0,16}[0-~]"
)
#: Joiners that words and emoji are written with; every other format character (bidi, tags, BOM) is dropped.
_JOINERS = frozenset("\u200c\u200d")
_BREAKS = frozenset("\n\u2028\u2029\x85")


def clean(text: object, limit: int = 200, *, keep_lines: bool = False) -> str:
    """`text` without terminal escapes, control, bidirectional and other invisible characters, at most `limit` long.

    Line breaks and tabs become single spaces unless `keep_lines`; text that is cut ends in `…`.
    """
    # Looked at only as far as could still be shown, so that a huge text costs no more than a long one.
    raw = _ESCAPES.sub("", str(text)[: 4 * limit + 1000])
    kept = "".join(_shown(character) for character in raw.replace("\r\n", "\n"))
    if not keep_lines:
        kept = " ".join(kept.split())
    return kept if len(kept) <= limit else kept[: max(limit - 1, 0)] + "…"


def inert(document: str) -> str:
    """A JSON document with what `clean` would drop written as escapes: it says the same, and does nothing to a terminal."""
    return document.translate(_INERT)


class _Inert(dict[int, str]):
    """What each character is written as, found when it is first asked for."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        # Between its tokens a document has line breaks; within a string they are escapes already.
        plain = character == "\n" or (_shown(character) == character and character not in _BREAKS)
        self[code] = character if plain else json.dumps(character)[1:-1]
        return self[code]


_INERT = _Inert()


def _shown(character: str) -> str:
    if character in _BREAKS:
        return "\n"
    if character == "\t":
        return character
    category = unicodedata.category(character)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    if category in ("Cc", "Cf") and character not in _JOINERS:
        return ""
    return character
