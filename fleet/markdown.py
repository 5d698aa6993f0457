"""Markdown that is safe to publish: text from models rewritten so that it can hold no HTML, picture or stray link.

The text is parsed as CommonMark and written anew from its parts; what is not known here comes out as plain text. It
knows no job and no recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote, unquote

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from fleet.display import clean

MAX_MARKDOWN_CHARS = 60_000
#: Languages a fence may name. Some others (mermaid, math, maps) are drawn by code hosts, with links in them.
_LANGUAGES = frozenset(
    "bash c cpp css diff go html ini java javascript js json python py rust sh sql toml ts yaml".split()  # noqa: SIM905
)
_SPECIAL = re.compile(r"[\\`*_\[\]|~$!]")
_LINE_START = re.compile(r"^([ \t]*)([#+\-=:]|\d+(?=[.)]))", re.MULTILINE)
_BARE_BAR = re.compile(r"(?<!\\)\|")
#: What code hosts turn into links without being asked.
_BARE_LINK = re.compile(
    r"\b(?:https?|ftp|mailto|xmpp):\S{1,2000}|\bwww\.\S{1,2000}|[\w.+-]{1,64}@[\w-]{1,64}\.\S{1,200}", re.IGNORECASE
)

#: The address for a target a model named (or a code span it wrote), or None when there is nothing to link to.
LinkOf = Callable[[str], str | None]


def escape(text: object, limit: int = 600) -> str:
    """Text of one line that means nothing in Markdown or HTML; addresses in it become code."""
    return _escape_lines(clean(text, limit))


def code(text: object, limit: int = 120) -> str:
    """Text of one line as a code span, whatever backticks it holds."""
    shown = clean(text, limit) or " "
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def link(label: str, target: str) -> str:
    """A link to a relative path; `label` is Markdown already."""
    return f"[{label}]({quote(target)})"


def paragraphs(text: str, link_of: LinkOf, *, limit: int = MAX_MARKDOWN_CHARS) -> str:
    """A model's Markdown, rewritten: headings from the second level down, lists, tables, code and emphasis stay.

    A link stays only where `link_of` knows its target; a code span it knows becomes a link. Pictures become their
    text. HTML comes out as text.
    """
    bounded = clean(text, min(limit, MAX_MARKDOWN_CHARS), keep_lines=True)
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    return _Writer(link_of).blocks(SyntaxTreeNode(parser.parse(bounded)))


def targets(text: str) -> list[str]:
    """The targets of all links and pictures in a page, and `<...>` for each piece of HTML in it."""
    found: list[str] = []
    for node in SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(text)).walk():
        if node.type in ("html_block", "html_inline"):
            found.append("<html>")
        elif node.type == "link":
            found.append(str(node.attrs.get("href", "")))
        elif node.type == "image":
            found.append(str(node.attrs.get("src", "")))
    return found


def _escape_lines(text: str) -> str:
    # Once more: an entity may have stood for what was not there before.
    text = clean(text, len(text), keep_lines=True)
    pieces: list[str] = []
    at = 0
    for found in _BARE_LINK.finditer(text):
        pieces += [_escape_plain(text[at : found.start()]), code(found.group(), 300)]
        at = found.end()
    pieces.append(_escape_plain(text[at:]))
    return _LINE_START.sub(_guard, "".join(pieces))


def _escape_plain(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\g<0>", text)


def _guard(found: re.Match[str]) -> str:
    # A number that would start a list: the full stop behind it is what has to be escaped.
    return f"{found[1]}{found[2]}\\" if found[2].isdigit() else f"{found[1]}\\{found[2]}"


class _Writer:
    """Writes a parsed text anew, node by node; the parser bounds how deep they nest."""

    def __init__(self, link_of: LinkOf) -> None:
        self._link_of = link_of

    def blocks(self, node: SyntaxTreeNode) -> str:
        return "\n\n".join(text for child in node.children if (text := self._block(child).strip("\n")))

    def _block(self, node: SyntaxTreeNode) -> str:
        match node.type:
            case "heading":
                level = min(max(int(node.tag[1:]), 2), 6)
                return f"{'#' * level} {self._inline(node).replace(chr(10), ' ')}"
            case "fence" | "code_block":
                return self._fence(node)
            case "bullet_list":
                return "\n".join(_hang("- ", self.blocks(child)) for child in node.children)
            case "ordered_list":
                return "\n".join(_hang(f"{i}. ", self.blocks(child)) for i, child in enumerate(node.children, start=1))
            case "blockquote":
                return "\n".join(f"> {line}".rstrip() for line in self.blocks(node).split("\n"))
            case "table":
                return self._table(node)
            case "hr":
                return "---"
            case "paragraph":
                return self._inline(node)
            case _:
                return _escape_lines(node.content)

    def _fence(self, node: SyntaxTreeNode) -> str:
        content = node.content.rstrip("\n")
        longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
        fence = "`" * max(3, longest + 1)
        language = node.info.strip().lower() if node.type == "fence" else ""
        return f"{fence}{language if language in _LANGUAGES else 'text'}\n{content}\n{fence}"

    def _table(self, node: SyntaxTreeNode) -> str:
        rows = [
            # A bar ends a cell even inside code.
            [_BARE_BAR.sub(r"\|", self._inline(cell).replace("\n", " ")) for cell in row.children]
            for part in node.children
            for row in part.children
        ]
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _inline(self, node: SyntaxTreeNode) -> str:
        return "".join(self._span(child) for part in node.children for child in part.children).strip()

    def _span(self, node: SyntaxTreeNode, *, linked: bool = False) -> str:
        inner = "".join(
            self._span(child, linked=linked or node.type == "link") for child in node.children if node.type != "image"
        )
        match node.type:
            case "code_inline":
                target = None if linked else self._link_of(node.content)
                return code(node.content, 300) if target is None else link(code(node.content, 300), target)
            case "em" | "strong":
                mark = "*" if node.type == "em" else "**"
                return f"{mark}{inner}{mark}" if inner.strip() == inner != "" else inner
            case "link":
                target = self._link_of(unquote(str(node.attrs.get("href", ""))))
                return inner if target is None or not inner else link(inner, target)
            case "image":
                return _escape_lines(clean(node.content, 300))
            case "softbreak":
                return "\n"
            case "hardbreak":
                return "\\\n"
            case _:
                return _escape_lines(node.content)


def _hang(mark: str, text: str) -> str:
    """`text` behind a list's mark, its further lines below its first."""
    return mark + re.sub(r"\n(?=[^\n])", "\n" + " " * len(mark), text)
