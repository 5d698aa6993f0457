"""The pages of a documented codebase: an overview, the architecture, a page per package, and what was left out.

It owns the pages' form and their links. Everything a model wrote goes through `fleet.markdown`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from fleet.atomic import write_text
from fleet.display import clean
from fleet.jobs import JobSpec, Outcome
from fleet.markdown import MAX_MARKDOWN_CHARS, LinkOf, code, escape, link, paragraphs, targets
from fleet.sources import Skipped

CLASSIFY = "classify"
SUMMARISE = "summarise"
ROLES = ("library", "entry point", "test", "configuration", "generated", "example", "other")
MAX_NAMES = 30
MAX_PATH_CHARS = 500
TOP_LEVEL = "top-level"
_NO_TEXT = "The review gave no text for this page."
_SIMULATED = "> **Simulated:** no model was asked. The simulated provider made up every sentence of these pages."


@dataclass(frozen=True, slots=True)
class Module:
    """A file that was summarised."""

    path: str
    role: str
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file without a summary, and why."""

    path: str
    what: str
    reason: str


def write_pages(
    spec: JobSpec,
    outcomes: Iterable[Outcome],
    review_text: str,
    source_root: Path,
    out: Path,
    *,
    simulated: bool = False,
    skipped: Sequence[Skipped] = (),
) -> list[Path]:
    """Write the pages below `out`: index.md, architecture.md, left-out.md and packages/<dotted>.md.

    Pages of packages that an earlier run left there are removed. Links lead to pages and to files below `source_root`
    that exist; nothing else is ever linked.

    Returns:
        The pages, the index first.

    Raises:
        OSError: `out` cannot be written to.
    """
    modules, left_out = _sorted(outcomes)
    left_out += [LeftOut(entry.path, "not read", entry.reason) for entry in skipped]
    # Links are reckoned between real places, whatever links lead to the folder.
    home = out.resolve()
    pages = _Pages(modules, left_out, source_root.resolve(), home, simulated)
    overview, architecture = _split(clean(review_text, MAX_MARKDOWN_CHARS, keep_lines=True))
    texts = {home / "index.md": pages.index(spec, overview, left_out)}
    texts[home / "architecture.md"] = pages.architecture(architecture)
    texts[home / "left-out.md"] = pages.left_out(left_out)
    texts.update((page, pages.package(page)) for page in pages.packages)
    for page, text in texts.items():
        write_text(page, text.rstrip() + "\n")
    for old in (home / "packages").glob("*.md"):
        if old not in texts:
            old.unlink()
    return [out / page.relative_to(home) for page in texts]


def check_links(out: Path) -> list[str]:
    """`page: target` for each link or picture in the Markdown below `out` that leads to no file here, or outside."""
    return [
        f"{page.relative_to(out)}: {target}"
        for page in sorted(out.rglob("*.md"))
        for target in targets(page.read_text(encoding="utf-8", errors="replace"))
        if not _leads_to_file(page, target)
    ]


def _leads_to_file(page: Path, target: str) -> bool:
    try:
        parts = urlsplit(target)
        path = unquote(parts.path)
        return not (parts.scheme or parts.netloc) and path != "" and (page.parent / path).exists()
    except (OSError, ValueError):
        # No address, or no name a file could have.
        return False


class _Pages:
    """Renders the pages over one set of modules; `source_root` and `out` are real, absolute paths."""

    def __init__(
        self, modules: Sequence[Module], left_out: Sequence[LeftOut], source_root: Path, out: Path, simulated: bool
    ) -> None:
        self._source_root = source_root
        self._out = out
        self._notice = [_SIMULATED, ""] if simulated else []
        by_package: dict[str, list[Module]] = {}
        for module in modules:
            by_package.setdefault(self._package_of(module.path), []).append(module)
        self.packages: dict[Path, tuple[str, list[Module]]] = {}
        taken: set[str] = set()
        #: What a model may call a page -> where it is.
        self._known: dict[str, Path] = {name: self._out / name for name in ("index.md", "architecture.md")}
        for name, members in sorted(by_package.items()):
            page = out / "packages" / f"{_slug(name, taken)}.md"
            self.packages[page] = (name, members)
            self._known[f"packages/{page.name}"] = self._known[name] = page
            for module in members:
                for dotted in _dotted(module.path, name):
                    self._known.setdefault(dotted, page)
        paths = [module.path for module in modules] + [entry.path for entry in left_out]
        found = {path: self._source(path) for path in paths}
        self._sources = {path: source for path, source in found.items() if source is not None}

    def index(self, spec: JobSpec, overview: str, left_out: Sequence[LeftOut]) -> str:
        page = self._out / "index.md"
        modules = [module for _, members in self.packages.values() for module in members]
        counts = Counter(entry.what for entry in left_out)
        roles = Counter(module.role for module in modules)
        lines = [f"# {escape(spec.name, 200)}", "", *self._notice]
        lines += [paragraphs(overview, self._link_of(page)) or _NO_TEXT, "", "## In numbers", ""]
        lines += ["| | files |", "|---|---|", f"| documented | {len(modules):,} |"]
        lines += [f"| - {escape(role, 40)} | {count:,} |" for role, count in sorted(roles.items())]
        lines += [f"| {what} | {count:,} |" for what, count in sorted(counts.items())]
        lines += ["", "## Pages", "", f"- {link('Architecture', 'architecture.md')}"]
        for path, (name, members) in self.packages.items():
            files = "1 file" if len(members) == 1 else f"{len(members):,} files"
            lines.append(f"- {link(code(name, MAX_PATH_CHARS), f'packages/{path.name}')}: {files}")
        lines.append(f"- {link('Left out', 'left-out.md')}: files without a summary, and why")
        return "\n".join(lines)

    def architecture(self, text: str) -> str:
        page = self._out / "architecture.md"
        body = paragraphs(text, self._link_of(page)) or _NO_TEXT
        return "\n".join(["# Architecture", "", *self._notice, body, "", link("All pages", "index.md")])

    def package(self, page: Path) -> str:
        name, members = self.packages[page]
        lines = [f"# {code(name, MAX_PATH_CHARS)}", "", *self._notice, link("All pages", "../index.md"), ""]
        for module in members:
            lines += [f"## {self._file(module.path, page)}", "", f"*{escape(module.role, 40)}*", ""]
            lines += [escape(module.summary.get("purpose") or "No purpose was given.", 1_500), ""]
            main, needs = _names(module.summary.get("main_names")), _names(module.summary.get("depends_on"))
            if main:
                lines.append(f"- Main names: {', '.join(code(word, 80) for word in main)}")
            if needs:
                lines.append(f"- Depends on: {', '.join(self._reference(word, page) for word in needs)}")
            lines.append("")
        return "\n".join(lines)

    def left_out(self, entries: Sequence[LeftOut]) -> str:
        page = self._out / "left-out.md"
        lines = ["# Left out", "", *self._notice, link("All pages", "index.md"), ""]
        if not entries:
            lines.append("Nothing: every file was summarised.")
        for what in sorted({entry.what for entry in entries}):
            lines += [f"## {what.capitalize()}", ""]
            for entry in sorted((entry for entry in entries if entry.what == what), key=lambda entry: entry.path):
                lines.append(f"- {self._file(entry.path, page)}: {escape(entry.reason or 'no reason was given', 400)}")
            lines.append("")
        return "\n".join(lines)

    def _file(self, path: str, page: Path) -> str:
        """A file's path, linked when it is one below the source's root."""
        source = self._sources.get(path)
        shown = code(path, MAX_PATH_CHARS)
        return shown if source is None else link(shown, os.path.relpath(source, page.parent))

    def _reference(self, word: str, page: Path) -> str:
        target = self._link_of(page)(word)
        return code(word, 80) if target is None else link(code(word, 80), target)

    def _link_of(self, page: Path) -> LinkOf:
        def target(word: str) -> str | None:
            name = word.strip().removeprefix("./").removeprefix("../")
            known = self._known.get(name) or self._sources.get(name)
            return None if known is None or known == page else os.path.relpath(known, page.parent)

        return target

    def _source(self, path: str) -> Path | None:
        """The file itself; None when it is gone or not below the root, whatever the path says."""
        try:
            source = (self._source_root / path).resolve()
            return source if source.is_relative_to(self._source_root) and source.is_file() else None
        except (OSError, ValueError, RuntimeError):
            return None

    def _package_of(self, path: str) -> str:
        folders = PurePosixPath(path).parts[:-1]
        if (self._source_root / "__init__.py").is_file():
            folders = (self._source_root.name, *folders)
        return ".".join(folders) or TOP_LEVEL


def _sorted(outcomes: Iterable[Outcome]) -> tuple[list[Module], list[LeftOut]]:
    """Each file once: summarised, or left out with the reason."""
    classified: dict[str, Outcome] = {}
    summarised: dict[str, Outcome] = {}
    for outcome in outcomes:
        path = outcome.item.get("path") if isinstance(outcome.item, dict) else outcome.item
        if isinstance(path, str) and outcome.step in (CLASSIFY, SUMMARISE):
            (classified if outcome.step == CLASSIFY else summarised)[path] = outcome
    modules: list[Module] = []
    left_out: list[LeftOut] = []
    for path in sorted(classified.keys() | summarised.keys()):
        first, second = classified.get(path), summarised.get(path)
        answer = first.output if first is not None and isinstance(first.output, dict) else {}
        if second is not None and second.status == "ok" and isinstance(second.output, dict):
            role = answer.get("role")
            modules.append(Module(path, role if role in ROLES else "other", second.output))
        elif first is not None and first.status == "ok" and answer.get("relevant") is False:
            left_out.append(LeftOut(path, "not relevant", clean(answer.get("reason", ""), 400)))
        elif first is not None and first.status != "ok":
            left_out.append(LeftOut(path, f"not classified ({first.status})", first.error or ""))
        elif second is not None:
            left_out.append(LeftOut(path, f"not summarised ({second.status})", second.error or ""))
        else:
            left_out.append(LeftOut(path, "not summarised", "the job ended before"))
    return modules, left_out


def _split(text: str) -> tuple[str, str]:
    """The overview and the rest: at the heading "Architecture", else after the first paragraph."""
    found = re.search(r"^#{1,6}[ \t]+architecture\b.*$", text, re.IGNORECASE | re.MULTILINE)
    if found is not None:
        overview, rest = text[: found.start()], text[found.end() :]
    else:
        overview, rest = text.strip().partition("\n\n")[0], text
    return re.sub(r"^#{1,6}[ \t]+overview[ \t]*$", "", overview, count=1, flags=re.IGNORECASE | re.MULTILINE), rest


def _names(value: Any) -> list[str]:
    names = [clean(word, 80) for word in value[:MAX_NAMES] if isinstance(word, str)] if isinstance(value, list) else []
    return [name for name in names if name]


def _dotted(path: str, package: str) -> Iterable[str]:
    """The names a module is imported by, with and without the folder `src` or `lib` above it."""
    parts = [] if package == TOP_LEVEL else package.split(".")
    if (stem := PurePosixPath(path).stem) != "__init__":
        parts.append(stem)
    yield ".".join(parts)
    if len(parts) > 1 and parts[0] in ("src", "lib"):
        yield ".".join(parts[1:])


def _slug(name: str, taken: set[str]) -> str:
    """A file name for a package: plain characters, and unique even where case does not count."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "package"
    if plain != name or len(plain) > 100 or plain.lower() in taken:
        plain = f"{plain[:80]}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
    taken.add(plain.lower())
    return plain
