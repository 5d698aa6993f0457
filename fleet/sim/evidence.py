"""What a prompt holds that an answer can be drawn from: the material, its path, code names, sentences, records.

Light parsing by regular expressions over a bounded part of the prompt; it knows no schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: Analysis is bounded, so that a huge prompt cannot hold up other calls.
MAX_CHARS = 60_000
MAX_RECORD_CHARS = 400_000
MAX_RECORDS = 400
MAX_SENTENCES = 120

_FENCE = re.compile(r"^(?:`{3,}|~{3,})[^\n]*\n", re.M)
_FENCE_END = re.compile(r"^(?:`{3,}|~{3,})[ \t]*$", re.M)
_TAG = re.compile(r"<(file|content|document|source|text|ticket|item|code|input)\b[^>]*>\n?(.*?)</\1>", re.S | re.I)
_LABEL = re.compile(
    r"^[^\S\n]*(?:the )?(?:file )?(?:content|text|source|code|body|ticket|document|input)s?[^\n:?]{0,30}:", re.I | re.M
)
_CODE_START = re.compile(
    r'^(?:[rRuU]?"""|\'\'\'|import \w|from [\w.]+ import |(?:async )?def \w|class \w|@\w|#!)', re.M
)
#: What a prompt asks, where what it asks about simply follows: a question, an order with a colon, a first paragraph.
_ASKING = re.compile(
    r"\A(?:[^\n?]{0,300}\?[ \t]*\n?|(?:summari[sz]e|describe|classify|explain|extract|list|name|pick)\b[^\n:]{0,120}:|"
    r"[^\n]{1,400}\n[ \t]*\n(?=\S))",
    re.I,
)
_PATH_LINE = re.compile(r"\A\s*(?:path|file(?:[ _]?name)?)\s*:[^\n]*(?:\n|\Z)", re.I)
_LABELLED_PATH = re.compile(
    r"^[ \t]*(?:path|file(?:[ _]?name)?)\s*[:=]\s*[\"'`]?([^\s\"'`]+)|"
    r"\b(?:path|file(?:name)?|module)\b[\"'*`]*\s*[:=]?\s*[\"'`]*((?:[\w.@-]+/)*[\w@.-]*\w\.\w{1,8}|(?:[\w.@-]+/)+\w+)\b",
    re.I | re.M,
)
_PATH = re.compile(
    r"\b(?:path|file(?:name)?|module)\b[\"'*`]*\s*[:=]?\s*[\"'`]*((?:[\w.@-]+/)*[\w@.-]*\w\.\w{1,8}|(?:[\w.@-]+/)+\w+)\b",
    re.I,
)
_PATH = re.compile(
    r"(?<![\w/.-])((?:[\w.@-]+/)*[\w@-][\w.@-]*\.(?:pyi?|md|rst|txt|toml|ya?ml|json|ini|cfg|js|tsx?|go|rs|lua|sql|sh|java|c|h|cpp|html|css|png|jpe?g|webp))\b"
)
_DEFINED = re.compile(
    r"^(?:export\s+|pub\s+|local\s+|default\s+|async\s+|abstract\s+)*(?:def|class|function|func|fn|interface|struct|enum|trait)\s+(\w+)",
    re.M,
)
_CONSTANT = re.compile(r"^([A-Z][A-Z0-9_]{2,})\s*(?::[^=\n]+)?=", re.M)
_IMPORT = re.compile(r"^(?:from\s+(\.*[\w.]*)\s+import\b|import\s+([\w.]+))", re.M)
_DOCSTRING = re.compile(r"""\A(?:[ \t]*#[^\n]*\n|\s)*[rRuU]?(\"{3}|'{3})(.*?)(?:\1|\Z)""", re.S)
_INNER_DOC = re.compile(
    r'^\s*(?:async def|def|class) (\w+)[^"\']{0,400}?:\s*\n\s+[rRuU]?"""(.*?)(?:"""|\n\s*\n)', re.S | re.M
)
_COMMENT = re.compile(r"\A\s*((?:(?:#|--|//)(?!!)[^\n]*\n)+)")
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S[^\n]*?)[ \t#]*$", re.M)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[A-Z0-9`\"'(*])|\n\s*\n|\n(?=\s*(?:[-*#>|]|\d+[.)])\s)")
_GOAL = re.compile(r"^[\W_]*goal\b[^\n:]{0,20}(?::\**[ \t]*|\n+)(?=\S)([^\n]+)", re.I | re.M)
_BACKTICKED = re.compile(r"`([^`\n]{2,60})`")
_IDENTIFIER = re.compile(r"\b(?:[a-z]+(?:_[a-z0-9]+)+|[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+)\b")
_WORD = re.compile(r"[A-Za-z][a-z]{3,}")
_LOWER_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object found in a prompt, as far as prose can be made of it."""

    label: str
    sentence: str
    names: tuple[str, ...]
    value: dict[str, Any]


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
            starts.append((tag.start(), "\n".join(text for _, text in _TAG.findall(prompt))))
        if label := _LABEL.search(prompt):
            starts.append((label.start(), prompt[label.end() :]))
        if code := _CODE_START.search(prompt):
            starts.append((code.start(), prompt[code.start() :]))
        if starts:
            text = min(starts)[1]
            inner = _FENCE.match(text.lstrip())
            return _fenced(text.lstrip()[inner.end() :]) if inner else text
        asking = _ASKING.match(prompt)
        return _PATH_LINE.sub("", prompt[asking.end() :] if asking else prompt)

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
        found = _unique(_DEFINED.findall(self.material))
        public = [name for name in found if not name.startswith("_")]
        return _unique([*public, *_CONSTANT.findall(self.material)]) or found

    @cached_property
    def imports(self) -> list[str]:
        found = (left or right for left, right in _IMPORT.findall(self.material))
        return _unique(name for name in found if name not in ("__future__", ""))

    @cached_property
    def headings(self) -> list[str]:
        return [] if self.is_code else _unique(_HEADING.findall(self.material))

    @cached_property
    def names(self) -> list[str]:
        """Names worth listing: what code defines; else headings, quoted and code-like words, frequent words."""
        if self.names_defined:
            return self.names_defined
        found = _unique(
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
        if found := _DOCSTRING.match(self.material):
            return first_sentence(found.group(2))
        if self.is_code and (found := _COMMENT.match(self.material)):
            return first_sentence(re.sub(r"^(?:#|--|//)+ ?", "", found.group(1), flags=re.M))
        return ""

    @cached_property
    def docs(self) -> dict[str, str]:
        """First sentence of the docstring of each class and function that has one."""
        return {name: first_sentence(text) for name, text in _INNER_DOC.findall(self.material)}

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences of the material as prose: docstrings where it is code."""
        if self.is_code:
            return _unique(filter(None, [self.docstring, *self.docs.values()]))
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
        return list(_records(self._whole))


def _fenced(text: str) -> str:
    """The text up to the last fence: what is fenced may hold fences of its own."""
    ends = list(_FENCE_END.finditer(text))
    return text[: ends[-1].start()] if ends else text


def first_sentence(text: str) -> str:
    """The first sentence on one line, at most 240 characters."""
    flat = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    return clipped(re.split(r"(?<=[.!?])\s+(?=[A-Z`\"'(])", flat, maxsplit=1)[0], 240)


def sentences(text: str) -> list[str]:
    """Sentences and list entries, without their Markdown marks, at most 120 of them."""
    found: list[str] = []
    for part in _SENTENCE_END.split(text[:30_000]):
        flat = " ".join(part.split()).lstrip("#>*-| ").strip()
        if len(flat) > 2 and re.search(r"\w", flat):
            found.append(clipped(flat, 300))
        if len(found) >= MAX_SENTENCES:
            break
    return _unique(found)


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters, cut between words."""
    if len(text) <= limit:
        return text
    return text[: limit - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…" if limit > 1 else text[:limit]


def listing(names: Iterable[str], quote: str = "`") -> str:
    """`a`, `b` and `c`."""
    quoted = [f"{quote}{name}{quote}" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}" if quoted else ""


def _unique(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text.strip() for text in found if text.strip()))


_LABEL_KEYS = ("path", "item", "file", "page", "id", "subtask", "subtask_id", "name", "key")
_SENTENCE_KEYS = ("purpose", "summary", "description", "text", "reason", "result", "answer", "output", "title")


def _records(text: str) -> Iterable[Record]:
    decode = json.JSONDecoder().raw_decode
    joined: dict[str, Record] = {}
    at, end, attempts = text.find("{"), 0, 0
    while at >= 0 and attempts < 4 * MAX_RECORDS and len(joined) < MAX_RECORDS:
        attempts += 1
        try:
            value, stop = decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if isinstance(value, dict) and value and "$schema" not in value and "properties" not in value:
            before = text[end:at].strip().rsplit("\n", 1)[-1].strip("#*-:,[]> `")
            record = _record(value, before if 0 < len(before) <= 120 else "")
            old = joined.get(record.label)
            joined[record.label] = record if old is None or _told(record) >= _told(old) else old
        end = stop
        at = text.find("{", stop)
    return joined.values()


def _told(record: Record) -> int:
    return len(record.sentence) + 40 * bool(record.names)


def _record(value: dict[str, Any], before: str) -> Record:
    leaves = list(_leaves(value, 0))
    label = next((text for key in _LABEL_KEYS for at, text in leaves if at == key and isinstance(text, str)), before)
    told = [(at, text) for at, text in leaves if isinstance(text, str) and text != label]
    sentence = next((text for key in _SENTENCE_KEYS for at, text in told if at == key and len(text) > 12), "")
    if not sentence:
        sentence = max((text for _, text in told), key=len, default="")
    names = next((tuple(texts) for _, texts in leaves if isinstance(texts, list)), ())
    return Record(clipped(label or "item", 120), first_sentence(sentence), names[:8], value)


def _leaves(value: Any, depth: int, key: str = "") -> Iterable[tuple[str, str | list[str]]]:
    if isinstance(value, str) and value.strip():
        yield key, value
    elif isinstance(value, dict) and depth < 5:
        for name, below in value.items():
            yield from _leaves(below, depth + 1, str(name))
    elif isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        yield key, value
