"""Markdown of a model as HTML in which nothing of the model's can act: no HTML, no attribute, no address that is followed.

The text is parsed as CommonMark and written anew from a closed list of elements, none of which has an attribute; what is not
in the list comes out as plain text. It knows no job and no page.
"""

from __future__ import annotations

from html import escape

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from fleet.display import clean

#: Longest text that is laid out; a page names the place of the whole one.
MAX_CHARS = 40_000
#: Headings of the text stand below those of the page.
LOWERED = 2
_BLOCKS = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "th": "th",
    "td": "td",
}
_SPANS = {"em": "em", "strong": "strong", "s": "s"}


def as_html(text: str) -> str:
    """The HTML of a text in Markdown, of at most `MAX_CHARS` characters of it.

    A link shows its address beside its label and leads nowhere; a picture is its description.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    return _block(SyntaxTreeNode(parser.parse(clean(text, MAX_CHARS, keep_lines=True))))


def _block(node: SyntaxTreeNode) -> str:
    match node.type:
        case "root":
            return "".join(_block(child) for child in node.children)
        case "inline":
            return "".join(_span(child) for child in node.children)
        case "heading":
            return _in(f"h{min(int(node.tag[1:]) + LOWERED, 6)}", node)
        case "fence" | "code_block":
            return f"<pre><code>{_text(node.content)}</code></pre>"
        case "hr":
            return "<hr>"
        case "paragraph" if node.hidden:  # of a list whose entries stand close to each other
            return "".join(_block(child) for child in node.children)
        case kind if kind in _BLOCKS:
            return _in(_BLOCKS[kind], node)
        case _:
            return _text(node.content)


def _span(node: SyntaxTreeNode) -> str:
    match node.type:
        case "text" | "html_inline":
            return _text(node.content)
        case "code_inline":
            return f"<code>{_text(node.content)}</code>"
        case "softbreak":
            return "\n"
        case "hardbreak":
            return "<br>"
        case "image":
            return _text(node.content)
        case "link":
            label = "".join(_span(child) for child in node.children)
            address = escape(clean(node.attrs.get("href", ""), 300))
            return label if address in ("", label) else f"{label} <code>{address}</code>"
        case kind if kind in _SPANS:
            inner = "".join(_span(child) for child in node.children)
            return f"<{_SPANS[kind]}>{inner}</{_SPANS[kind]}>"
        case _:
            return _text(node.content)


def _text(content: str) -> str:
    # Once more: an entity may have stood for what was not there before.
    return escape(clean(content, len(content), keep_lines=True))


def _in(tag: str, node: SyntaxTreeNode) -> str:
    return f"<{tag}>{''.join(_block(child) for child in node.children)}</{tag}>"
