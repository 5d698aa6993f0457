"""JSON that is printed is the same data, and nothing to a terminal."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from fleet.output import for_terminals

TEXT = st.text() | st.text(alphabet='a\x1b\x9b\u202e\u2066\ud800\U000e0041é"\\')


def test_letters_stay_letters() -> None:
    assert for_terminals('"Größe 👩"') == '"Größe 👩"'


@given(TEXT)
def test_the_data_is_the_same_and_every_character_can_be_printed(text: str) -> None:
    shown = for_terminals(json.dumps([text], ensure_ascii=False))
    assert json.loads(shown) == [text]
    assert shown.replace("\x7f", "").isprintable()
