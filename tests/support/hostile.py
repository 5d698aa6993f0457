"""Texts of somebody who wants a page or a terminal to do something, and how to tell that they did nothing."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

from fleet.api.rendering import STYLE

ELEMENT = '<script>document.title="owned";alert("element")</script>'
BREAKOUT = "\"'><img src=http://evil.example/a.png onerror=alert('breakout')><svg onload=alert(1)>"
TEMPLATE = "{{ 7 * 191 }}{% raw %}${alert(1)}</textarea></title></style>"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\x9b5mC1\x9d8;;http://evil.example\x9clink\x1b]52;c;b3duZWQ=\x07"
BIDI = "\u202e\u2066resu\u2069\u202d \u200f\u061c\ufeff\U000e0041\u200b\u2060\u00ad"
EMOJI = "👩\u200d🚀 naïve 文字 Z\u0335\u0321a\u0336\u0322l\u0337\u0323g\u0338o"
NAME = f"{ELEMENT} {BREAKOUT} {BIDI}{ESCAPES}{EMOJI} {TEMPLATE}"
MARKDOWN = "\n\n".join(
    (
        f"# Heading {ELEMENT}",
        BREAKOUT,
        "[run](javascript:alert('link')) [data](data:text/html,<script>alert(1)</script>) <javascript:alert(1)>",
        "[sign in again](https://evil.example/login) ![pixel](https://evil.example/pixel.png) <https://evil.example>",
        "[ref]: javascript:alert(1)\n\n[ref] ![ref]",
        f"```html onclick=alert(1)\n{ELEMENT}\n```",
        f"| a | b |\n|:--|--:|\n| {ELEMENT} | `{BREAKOUT}` |",
        "&#x202e;&lt;script&gt;alert(1)&lt;/script&gt; &#x2066; &rlm;",
        '<iframe src="https://evil.example"></iframe><form action="https://evil.example"><base href="https://evil.example">',
        f"- a\n- {ESCAPES}{BIDI}\n\n1. x\n2. {EMOJI}\n\n> quoted **{TEMPLATE}** _{ELEMENT}_\n\n---\n\nend  \nbreak",
        "<style>*{display:none}</style><meta http-equiv=refresh content='0;url=https://evil.example'><!-- <b> -->",
    )
)
#: Elements that a page of ours is made of.
ELEMENTS = frozenset(
    "html head meta title link script noscript body a header div svg path nav form span button main h1 h2 h3 h4 h5 h6 p dl dt dd "  # noqa: SIM905
    "rect section ul ol li table thead tbody tfoot tr th td time g defs marker text strong em code pre br hr blockquote article "
    "details summary label input".split()
)
ADDRESSES = ("href", "src", "action", "content", "formaction", "srcset", "xlink:href", "data")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.findings: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ELEMENTS:
            self.findings.append(f"the element {tag}")
        for name, value in attrs:
            shown = value or ""
            if name.startswith("on") or name in ("style", "srcdoc"):
                self.findings.append(f"the attribute {name} of {tag}")
            if name in ADDRESSES and tag not in ("meta", "link") and not shown.startswith(("/", "#")):
                self.findings.append(f"{tag} leads to {shown!r}")
        if tag == "script" and not dict(attrs).get("src", ""):
            self.findings.append("a script in the page")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def findings(html: str) -> list[str]:
    """What in a page is not ours, or acts, or hides."""
    page = _Page()
    page.feed(html.replace(f"<style>{STYLE}</style>", "", 1))
    page.close()
    return page.findings + [f"the character U+{ord(character):04X}" for character in sorted(set(acting(html)))]


def acting(text: str) -> str:
    """The characters of a text that a terminal or a reader's eye would be led by."""
    harmless = "\n\t\u200c\u200d"
    return "".join(c for c in text if c not in harmless and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp"))


def words(html: str) -> str:
    """The text of a page, its elements left out."""
    page = _Page()
    page.feed(html.replace(f"<style>{STYLE}</style>", "", 1))
    page.close()
    return "".join(page.text)
