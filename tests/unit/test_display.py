"""What may reach a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.display import clean, inert


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("\x1b(Bplain\x1bc", "plain"),
        ("\x1b\x1b[31m[31mx", "[31mx"),
        ("a\u202eb\u2066c\ufeff\u200b\u00ad", "abc"),
        ("a\r\nb\tc\u2028d\x07", "a b c d"),
        ("a\ud800", "a\ufffd"),
        ("👩\u200d🚀", "👩\u200d🚀"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_lines_are_kept_where_asked() -> None:
    assert clean("a\r\n  b\x1b[1m\n\tc", keep_lines=True) == "a\n  b\n\tc"


@given(st.text() | st.text(alphabet="\x1b\x9b[]0;m\x07\\Pa"), st.integers(min_value=1, max_value=50), st.booleans())
def test_nothing_dangerous_is_left(text: str, limit: int, keep_lines: bool) -> None:
    shown = clean(text, limit, keep_lines=keep_lines)
    assert len(shown) <= limit
    allowed = "\n\t\u200c\u200d" if keep_lines else "\u200c\u200d"
    assert all(c in allowed or unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in shown)


@given(
    st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
    st.sampled_from([None, 2]),
)
def test_an_inert_document_says_the_same(value: object, indent: int | None) -> None:
    document = inert(json.dumps(value, ensure_ascii=False, indent=indent))
    assert json.loads(document) == value
    assert all(c in "\n\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in document)


def test_an_inert_document_is_readable_where_nothing_hides() -> None:
    assert inert('{"a": "é 文 👩\u200d🚀"}') == '{"a": "é 文 👩\u200d🚀"}'
    assert inert('"\x9b2J\u202e\U000e0041\x7f\u2028"') == '"\\u009b2J\\u202e\\udb40\\udc41\\u007f\\u2028"'
