"""Extractive prose: the Markdown report over many outputs, and short texts, made of what a prompt says."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fleet.sim.choices import why_not_relevant
from fleet.sim.evidence import Evidence
from fleet.sim.phrases import clipped, listing
from fleet.sim.records import Record

MAX_TITLE_CHARS = 80
#: Members of a group that an overview names; a plain list names all.
MAX_SHOWN = 10


_SECTION = re.compile(r'"## ([^"\n]{1,60})"')


def report(evidence: Evidence, max_chars: int) -> str:
    """A Markdown report: title, what it covers, a section per group of outputs with a paragraph and a list.

    Whole lines only, so that it is well formed at any length; at least its title.
    """
    lines = _of_records(evidence) if len(evidence.records) > 1 else _of_material(evidence)
    kept: list[str] = []
    room = max_chars
    for line in lines:
        room -= len(line) + 1
        if room < 0 and kept:
            break
        kept.append(line)
    while kept and (kept[-1].startswith("#") or not kept[-1]) and len(kept) > 1:
        kept.pop()
    return "\n".join(kept) + "\n"


def paragraph(evidence: Evidence, count: int = 3) -> str:
    """A few sentences of the prompt."""
    told = [evidence.purpose, *(text for text in evidence.sentences if text != evidence.purpose)]
    return " ".join(_ended(text) for text in told[:count] if text) or _ended(clipped(evidence.prompt.strip(), 200))


def reason(evidence: Evidence) -> str:
    """Why a file or text was judged as it was: its path and what it holds."""
    subject = evidence.path
    if subject and (against := why_not_relevant(evidence)):
        return f"{subject} {against}."
    names = evidence.names_defined
    if subject and names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        told = f": {evidence.docstring}" if evidence.docstring else "."
        return f"{subject} defines {listing(names[:3], '') if not more else ', '.join(names[:3]) + more}{told}"
    purpose = evidence.purpose
    return f"{subject}: {purpose}" if subject and purpose else purpose or clipped(evidence.prompt.strip(), 160)


def _of_records(evidence: Evidence) -> Iterable[str]:
    records = evidence.records
    # Sections the prompt asks for by name: the first is the introduction, the last holds the groups.
    asked = _SECTION.findall(evidence.prompt[:8000])
    yield f"## {asked[0]}" if asked else f"# {_title(evidence)}"
    yield ""
    groups = _groups(records)
    if asked:
        yield f"{_ended(_title(evidence))} What follows is drawn from what was said of each."
        yield ""
    yield (
        f"This covers {len(records)} items"
        + (f" in {len(groups)} parts: {listing(list(groups)[:8])}." if len(groups) > 1 else ".")
    )
    telling = sorted(records, key=lambda record: -len(record.names))[:4]
    if asked and (told := [f"`{record.label}`: {_ended(record.sentence)}" for record in telling if record.sentence]):
        yield ""
        yield "Much of it is in these. " + " ".join(told)
    if len(asked) > 1:
        yield ""
        yield f"## {asked[-1]}"
    for group, members in groups.items():
        yield ""
        yield f"### {group}" if asked else f"## {group}"
        yield ""
        leading = [record.names[0] for record in members if record.names]
        if len(members) > 1 and leading:
            yield f"{len(members)} items, among them {listing(list(dict.fromkeys(leading))[:6])}."
            yield ""
        shown = sorted(members, key=lambda record: -len(record.names))[:MAX_SHOWN] if asked else members
        for record in (record for record in members if record in shown):
            names = f" Main names: {listing(record.names[:5])}." if record.names else ""
            sentence = f" — {_ended(record.sentence)}" if record.sentence else ""
            yield f"- `{record.label}`{sentence}{names}"
        if len(members) > len(shown):
            yield f"- {len(members) - len(shown)} more."


def _of_material(evidence: Evidence) -> Iterable[str]:
    yield f"# {_title(evidence)}"
    yield ""
    yield paragraph(evidence)
    if evidence.names:
        yield ""
        yield "## Main names"
        yield ""
        for name in evidence.names[:12]:
            told = evidence.docs.get(name, "") if evidence.names_defined else ""
            yield f"- `{name}`" + (f" — {told}" if told else "")
    rest = evidence.sentences[3:40]
    if rest:
        yield ""
        yield "## Further points"
        yield ""
        yield from (f"- {_ended(text)}" for text in rest)


def _groups(records: list[Record]) -> dict[str, list[Record]]:
    """Records by the folder of their label; those that are no paths by their kind (`step`, `topic`, `role`)."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        folder = record.label.rpartition("/")[0]
        loose = "Top level" if "." in record.label and " " not in record.label else _kind(record.value)
        groups.setdefault(folder or loose, []).append(record)
    return groups


def _kind(value: object) -> str:
    if isinstance(value, dict):
        for key in ("topic", "role", "category", "kind", "label"):
            if isinstance(value.get(key), str):
                return str(value[key]).capitalize()
        for below in value.values():
            if isinstance(below, dict) and (found := _kind(below)) != "Findings":
                return found
    return "Findings"


def _title(evidence: Evidence) -> str:
    for text in (evidence.goal, *evidence.headings[:1], evidence.path, evidence.purpose):
        if text:
            return clipped(text.strip("# "), MAX_TITLE_CHARS).rstrip(".")
    return "Result"


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
