"""Markdown of a model as HTML: the form stays, and nothing in it acts."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.hypertext import MAX_CHARS, as_html
from tests.support.hostile import MARKDOWN, acting

#: Nothing else may come out: elements without attributes.
ELEMENT = re.compile(
    r"</?(?:p|ul|ol|li|blockquote|table|thead|tbody|tr|th|td|h[3-6]|pre|code|hr|br|em|strong)>",
)


def assert_harmless(html: str) -> None:
    rest = ELEMENT.sub("", html)
    assert "<" not in rest
    assert ">" not in rest
    assert not acting(html)


def test_the_form_of_a_text_stays() -> None:
    html = as_html(
        "# A\n\nb *c* **d** `e<`\n\n- f\n- g\n\n1. h\n\n> i\n\n```py\nj\n```\n\n| k |\n|---|\n| l |\n\n---\n\nm  \nn\no"
    )
    assert html == (
        "<h3>A</h3><p>b <em>c</em> <strong>d</strong> <code>e&lt;</code></p><ul><li>f</li><li>g</li></ul><ol><li>h</li></ol>"
        "<blockquote><p>i</p></blockquote><pre><code>j\n</code></pre><table><thead><tr><th>k</th></tr></thead><tbody><tr>"
        "<td>l</td></tr></tbody></table><hr><p>m<br>n\no</p>"
    )


def test_links_show_where_they_would_lead_and_lead_nowhere() -> None:
    assert as_html("[a](https://x.example/y) <https://z.example> ![b *c*](https://p.example/q.png)") == (
        "<p>a <code>https://x.example/y</code> https://z.example b *c*</p>"
    )
    assert as_html("[good.example](https://evil.example)") == "<p>good.example <code>https://evil.example</code></p>"


def test_what_is_hostile_is_text() -> None:
    html = as_html(MARKDOWN)
    assert_harmless(html)
    assert "&lt;script&gt;" in html, "it is shown as it was written"


@given(st.text() | st.text(alphabet="[]()<>`*_#-=|\\ \n!x:/.&;1\u202e\x1b") | st.just(MARKDOWN))
@settings(max_examples=100, deadline=None)
def test_no_text_becomes_more_than_text(text: str) -> None:
    assert_harmless(as_html(text))


#: What parsers are slow at.
TANGLED = ("[", "*_", "`", "> ", "![[](", "&#", "<", "- ", "\\", "**a ", "[a](", "* a\n", "|a")


@pytest.mark.parametrize(
    "text",
    [*(knot * MAX_CHARS for knot in TANGLED), "x" * 1_000_000, "|a|\n|-|\n" + "|a|\n" * MAX_CHARS],
    ids=lambda text: text[:5],
)
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    html = as_html(text)
    assert time.process_time() - began < 8
    assert_harmless(html)
