"""Model text in pages: nothing of it becomes HTML, a picture or a link that was not ours."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fleet.markdown import code, escape, link, paragraphs, targets

HOSTILE = [
    "</details><script>alert(1)</script>",
    "[x](../../etc/passwd)",
    "![](http://evil.example/pixel.png)",
    "![x][y]\n\n[y]: http://evil.example",
    "<http://evil.example>",
    "<img src=x onerror=alert(1)>",
    "see http://evil.example/a?b=c and www.evil.example or me@evil.example",
    "```\n</code><script>\n```",
    "````\n```\n<b>\n````\n<i>",
    "`` ` `` `<b>` \\`<i>",
    "&lt;script&gt; &#60;b&#62;",
    "[a](javascript:alert(1)) [b](<data:text/html,x>)",
    "# [x](y)\n> - <b>\n\n    <i>",
    "a\n===\n1. b\n+ c\n---\n#d",
    "| a | b |\n|---|---|\n| <b> `x|y` | [l](http://x) ![p](q) |",
    "\x1b]8;;http://evil\x1b\\x\x1b[31m\u202e",
    "[![x](y)](index.md)",
    "*[a](b)* **<b>** ***",
    "<!-- -->\n<?php ?>\n<![CDATA[x]]>",
]
text = st.text() | st.text(alphabet="[]()<>`*_#-=|\\ \n!x:/.&;1") | st.sampled_from(HOSTILE)


def known(target: str) -> str | None:
    return {"index.md": "../index.md", "fleet/jobs.py": "../src/fleet/jobs.py"}.get(target)


def assert_harmless(markdown: str) -> None:
    assert set(targets(markdown)) <= {"../index.md", "../src/fleet/jobs.py"}
    rendered = MarkdownIt("commonmark").enable("table").render(markdown)
    for tag in ("<script", "<img", "<i>", "<b>", "<!--", "<?"):
        assert tag not in rendered
    assert "\x1b" not in markdown


@given(text)
@settings(max_examples=300, deadline=None)
@example("`a|`\n-|-\n|")
def test_no_text_becomes_more_than_text(value: str) -> None:
    assert_harmless(paragraphs(value, known))
    assert_harmless(f"- {escape(value)}: {code(value)}\n")


def test_an_entity_stands_for_nothing_that_cannot_be_seen() -> None:
    assert paragraphs("a&#x202e;b&rlm;c&#8203;d", known) == "abcd"


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_text(value: str) -> None:
    assert_harmless(paragraphs(value, known))
    assert_harmless(paragraphs(f"before {value} after\n\n- {value}\n\n> {value}", known))
    assert_harmless(f"| {escape(value)} |\n")


@given(st.text(max_size=100))
@settings(max_examples=300, deadline=None)
def test_a_line_of_text_comes_out_as_it_went_in(value: str) -> None:
    shown = " ".join(value.split())
    # Only what is shown as it is: addresses become code, invisible characters go.
    if not value.isprintable() or "http" in shown.lower() or "@" in shown or "www" in shown.lower():
        return
    inline = MarkdownIt("commonmark").parse(f"x {escape(value)}")[1]
    assert inline.children is not None
    assert "".join(child.content for child in inline.children) == f"x {shown}".rstrip()


def test_what_a_model_may_write_stays() -> None:
    source = """# Title

## Part *one*

It is **bold**, `code` and `fleet/jobs.py`.
See [the index](index.md) and [elsewhere](https://x.example).

- first

  more
- second
  1. deep
  2. deeper

| a | b |
|---|:-:|
| 1 | `x` |

> quoted

```python
def f(): return "<b>"
```

```mermaid
click A "http://x"
```
"""
    assert (
        paragraphs(source, known)
        == """## Title

## Part *one*

It is **bold**, `code` and [`fleet/jobs.py`](../src/fleet/jobs.py).
See [the index](../index.md) and elsewhere.

- first

  more
- second

  1. deep
  2. deeper

| a | b |
| --- | --- |
| 1 | `x` |

> quoted

```python
def f(): return "<b>"
```

```text
click A "http://x"
```"""
    )


def test_odd_paths_in_links() -> None:
    assert link("x", "a b/(1) [x] #?%.py") == "[x](a%20b/%281%29%20%5Bx%5D%20%23%3F%25.py)"
    assert targets(link("x", "a b/(1)\n%.py")) == ["a%20b/%281%29%0A%25.py"]
    assert code("a`b``c") == "```a`b``c```"
    assert code("`") == "`` ` ``"
    assert code("") == "` `"


@pytest.mark.parametrize(
    "piece", ["[", "![", "*a ", "`" * 7 + "x", "> ", "- ", "[x](", "<", "|", "a@", "**_", "1.\n", "&"]
)
def test_long_hostile_text_is_harmless_and_comes_to_an_end(piece: str) -> None:
    # What takes longer than a second or two here takes for ever: the limit of every test ends it.
    assert_harmless(paragraphs(piece * 60_000, known))
