"""What a prompt holds that an answer can be drawn from: the material, its path, code names, sentences, records.

Light parsing by regular expressions over a bounded part of the prompt; it knows no schema.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cached_property
from itertools import islice

from fleet.sim.phrases import first_sentence, listing, sentences, unique
from fleet.sim.records import Record, records

#: Analysis is bounded, so that a huge prompt cannot hold up other calls.
MAX_CHARS = 60_000
MAX_RECORD_CHARS = 400_000
MAX_DOCS = 200
MAX_DOC_CHARS = 1200

_CONTENT_KEYS = ("content", "text", "body", "source", "code")
_FENCE = re.compile(r"^(?:`{3,}|~{3,})[^\n]*\n", re.M)
_FENCE_END = re.compile(r"^(?:`{3,}|~{3,})[ \t]*$", re.M)
_TAG = re.compile(r"<(file|content|document|source|text|ticket|item|code|input)\b[^>\n]{0,200}>\n?", re.I)
_LABEL = re.compile(
    r"^[^\S\n]*(?:the )?(?:file )?(?:content|text|source|code|body|ticket|document|input)s?[^\n:?]{0,30}:", re.I | re.M
)
_CODE_START = re.compile(
    r'^(?:[rRuU]?"""|\'\'\'|import \w|from [\w.]+ import |(?:async )?def \w|class \w|@\w|#!)', re.M
)
#: What a prompt asks, where what it asks about simply follows: a question, an order with a colon, a first paragraph.
_ASKING = re.compile(
    r"\A(?:(?:summari[sz]e|describe|classify|explain|extract|list|name|pick)\b[^\n:?]{0,120}:|[^\n?]{0,300}\?[ \t]*\n?|"
    r"[^\n]{1,400}\n[ \t]*\n(?=\S))",
    re.I,
)
_PATH_LINE = re.compile(r"\A\s*(?:path|file(?:[ _]?name)?)\s*:[^\n]*(?:\n|\Z)", re.I)
_LABELLED_PATH = re.compile(
    r"^[ \t]*(?:path|file(?:[ _]?name)?)\s*[:=]\s*[\"'`]?([^\s\"'`]{1,300})|"
    r"\b(?:path|file(?:name)?|module)\b[\"'*`]*\s*[:=]?\s*[\"'`]*"
    r"((?:[\w.@-]{1,60}/){0,12}[\w@.-]{0,80}\w\.\w{1,8}|(?:[\w.@-]{1,60}/){1,12}\w{1,80})\b",
    re.I | re.M,
)
_PATH = re.compile(
    r"(?<![\w/.-])((?:[\w.@-]{1,60}/){0,12}[\w@-][\w.@-]{0,80}"
    r"\.(?:pyi?|md|rst|txt|toml|ya?ml|json|ini|cfg|js|tsx?|go|rs|lua|sql|sh|java|c|h|cpp|html|css|png|jpe?g|webp))\b"
)
_DEFINED = re.compile(
    r"^(?:export\s+|pub\s+|local\s+|default\s+|async\s+|abstract\s+)*(?:def|class|function|func|fn|interface|struct|enum|trait)\s+(\w+)",
    re.M,
)
_CONSTANT = re.compile(r"^([A-Z][A-Z0-9_]{2,})\s*(?::[^=\n]+)?=", re.M)
_IMPORT = re.compile(r"^(?:from\s+(\.*[\w.]*)\s+import\b|import\s+([\w.]+))", re.M)
_DOCSTRING = re.compile(r"""\A(?:\s|#[^\n]*\n)*[rRuU]?(\"{3}|'{3})(.*?)(?:\1|\Z)""", re.S)
_ANY_DEFINED = re.compile(r"^[ \t]*(?:async def|def|class) (\w+)", re.M)
_INNER_DOC = re.compile(r':[ \t]*\n[ \t]+[rRuU]?"""(.*?)(?:"""|\n[ \t]*\n|\Z)', re.S)
_COMMENT = re.compile(r"\A\s*((?:(?:#|--|//)(?!!)[^\n]*\n)+)")
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S[^\n]*?)[ \t#]*$", re.M)
_GOAL = re.compile(r"^[^\w\n]{0,20}goal\b[^\n:]{0,20}(?::\**[ \t]*|\n{1,3})(?=\S)([^\n]+)", re.I | re.M)
_BACKTICKED = re.compile(r"`([^`\s]{2,60})`")
_IDENTIFIER = re.compile(r"\b(?:[a-z]+(?:_[a-z0-9]+)+|[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+)\b")
_WORD = re.compile(r"[A-Za-z][a-z]{3,}")
_LOWER_WORD = re.compile(r"[a-z0-9]+")


class Evidence:
    """The findings about one prompt, each worked out when first asked for."""

    def __init__(self, instructions: str, prompt: str) -> None:
        self.instructions = instructions[:MAX_CHARS]
        self.prompt = prompt[:MAX_CHARS]
        self._whole = prompt[:MAX_RECORD_CHARS]

    @cached_property
    def material(self) -> str:
        """What the prompt is about, without what it asks: fenced or tagged text, code, or what follows a label."""
        prompt = self.prompt
        starts: list[tuple[int, str]] = []
        if fence := _FENCE.search(prompt):
            starts.append((fence.start(), _fenced(prompt[fence.end() :])))
        if tag := _TAG.search(prompt):
            end = prompt.rfind(f"</{tag.group(1)}>")
            starts.append((tag.start(), prompt[tag.end() : end if end > 0 else None]))
        if label := _LABEL.search(prompt):
            starts.append((label.start(), prompt[label.end() :]))
        if code := _CODE_START.search(prompt):
            starts.append((code.start(), prompt[code.start() :]))
        if starts:
            text = min(starts)[1]
            inner = _FENCE.match(text.lstrip())
            return _fenced(text.lstrip()[inner.end() :]) if inner else text
        asking = _ASKING.match(prompt)
        return _unwrapped(_PATH_LINE.sub("", prompt[asking.end() :] if asking else prompt))

    @cached_property
    def path(self) -> str:
        """The path of the file in question, or empty."""
        head = self.prompt[:4000]
        if found := _LABELLED_PATH.search(head):
            return found.group(1) or found.group(2)
        return found.group(1) if (found := _PATH.search(head)) else ""

    @cached_property
    def is_code(self) -> bool:
        return not self.path.endswith((".md", ".rst", ".txt")) and bool(self.names_defined or self.imports)

    @cached_property
    def names_defined(self) -> list[str]:
        """Public top-level classes and functions, then constants; the private ones where there are no others."""
        found = unique(_DEFINED.findall(self.material))
        public = [name for name in found if not name.startswith("_")]
        return unique([*public, *_CONSTANT.findall(self.material)]) or found

    @cached_property
    def imports(self) -> list[str]:
        """Modules that code imports, without Python's own."""
        found = (left or right for left, right in _IMPORT.findall(self.material))
        return unique(name for name in found if name.split(".")[0] not in sys.stdlib_module_names)

    @cached_property
    def headings(self) -> list[str]:
        return [] if self.is_code else unique(_HEADING.findall(self.material))

    @cached_property
    def names(self) -> list[str]:
        """Names worth listing: what code defines; else headings, quoted and code-like words, frequent words."""
        if self.names_defined:
            return self.names_defined
        found = unique(
            [*self.headings, *_BACKTICKED.findall(self.material), *_IDENTIFIER.findall(self.material[:20_000])]
        )
        return found or self.keywords

    @cached_property
    def keywords(self) -> list[str]:
        counts: dict[str, int] = {}
        for word in _WORD.findall(self.material[:20_000]):
            counts[word.lower()] = counts.get(word.lower(), 0) + 1
        return sorted(counts, key=lambda word: (-counts[word], -len(word), word))[:12]

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of the material in lower case."""
        return frozenset(_LOWER_WORD.findall(self.material[:20_000].lower()))

    @cached_property
    def docstring(self) -> str:
        """First sentence of the module's docstring or leading comment, or empty."""
        return first_sentence(self.about)

    @cached_property
    def about(self) -> str:
        """The module's docstring or leading comment, or empty."""
        if found := _DOCSTRING.match(self.material):
            return found.group(2).strip()
        if self.is_code and (found := _COMMENT.match(self.material)):
            return re.sub(r"^(?:#|--|//)+ ?", "", found.group(1), flags=re.M).strip()
        return ""

    @cached_property
    def docs(self) -> dict[str, str]:
        """First sentence of the docstring of each class and function that has one."""
        found: dict[str, str] = {}
        starts = list(islice(_ANY_DEFINED.finditer(self.material), MAX_DOCS))
        ends = [start.start() for start in starts[1:]] + [len(self.material)]
        for start, end in zip(starts, ends, strict=False):
            if doc := _INNER_DOC.search(self.material, start.end(), min(end, start.end() + MAX_DOC_CHARS)):
                found[start.group(1)] = first_sentence(doc.group(1))
        return found

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences of the material as prose: docstrings where it is code."""
        if self.is_code:
            return unique(filter(None, [self.docstring, *self.docs.values()]))
        return sentences(self.material)

    @cached_property
    def goal(self) -> str:
        """What the prompt names as its goal, or empty."""
        for text in (self.prompt, self.instructions):
            if found := _GOAL.search(text):
                return found.group(1).strip().strip("*\"'").rstrip(".")
        return ""

    @cached_property
    def purpose(self) -> str:
        """One sentence on what the material is."""
        if self.docstring:
            return self.docstring
        if self.names_defined:
            named = listing(self.names_defined[:3], quote="")
            told = next((self.docs[name] for name in self.names_defined if self.docs.get(name)), "")
            return told or f"Defines {named}."
        for sentence in self.sentences:
            if len(sentence) > 25:
                return sentence
        return self.sentences[0] if self.sentences else ""

    @cached_property
    def records(self) -> list[Record]:
        """The JSON objects of the prompt, those with the same label joined."""
        return list(records(self._whole))


def _unwrapped(text: str) -> str:
    """The content of an item that is shown as a JSON object, else the text itself."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return next((value[key] for key in _CONTENT_KEYS if isinstance(value.get(key), str)), text)


def _fenced(text: str) -> str:
    """The text up to the last fence: what is fenced may hold fences of its own."""
    ends = list(_FENCE_END.finditer(text))
    return text[: ends[-1].start()] if ends else text
