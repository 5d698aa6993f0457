"""The files below a folder that match some patterns, in a fixed order, without following links.

It knows names and patterns, and opens nothing.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import BadInputError

#: Folders not entered unless an include pattern names them; the same goes for virtual environments.
DEFAULT_SKIPPED = frozenset({"__pycache__", "node_modules"})
MAX_PATTERN_PARTS = 50
MAX_PATTERN_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class Found:
    """A path below the root; `problem` says why it cannot be an item, when it cannot."""

    path: str
    problem: str | None = None


class Patterns:
    """Glob patterns over paths with `/`: `*`, `?`, `[...]` within a part, `**` for any number of folders.

    A pattern without `/` is about the name at any depth.

    Raises:
        BadInputError: a pattern is absolute, holds `..`, or is too long.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._compiled: list[list[re.Pattern[str] | None]] = []
        self._parts: set[str] = set()
        for pattern in patterns:
            parts = [part for part in pattern.split("/") if part not in ("", ".")]
            if pattern.startswith("/") or ".." in parts or not parts:
                raise BadInputError(f"The pattern {pattern!r} has to stay below the folder: no leading / and no .. .")
            if len(parts) > MAX_PATTERN_PARTS or len(pattern) > MAX_PATTERN_CHARS:
                raise BadInputError(
                    f"The pattern {pattern[:50]!r}... is too long; {MAX_PATTERN_PARTS} parts are the most."
                )
            if len(parts) == 1 and parts != ["**"]:
                parts = ["**", *parts]
            self._parts.update(parts)
            self._compiled.append([None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts])

    def match(self, path: str) -> bool:
        """Whether any of the patterns matches the whole of `path`."""
        return any(_matches(pattern, path.split("/")) for pattern in self._compiled)

    def name(self, name: str) -> bool:
        """Whether a part of a pattern is about this name itself: spelt out, or a hidden name for a hidden name."""
        return name in self._parts or any(
            part.startswith(".") and name.startswith(".") and fnmatch.fnmatchcase(name, part) for part in self._parts
        )


def _matches(pattern: list[re.Pattern[str] | None], parts: list[str]) -> bool:
    # Which prefixes of `parts` the pattern so far can stand for: parts * patterns steps, whatever the pattern.
    reached = {0}
    for piece in pattern:
        if piece is None:
            reached = set(range(min(reached), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and piece.match(parts[at])}
        if not reached:
            return False
    return len(parts) in reached


def walk(root: Path, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Found]:
    """Every file below `root` that matches `include` and not `exclude`, folder by folder, names sorted.

    Hidden files and folders (`.env`, `.git`), `__pycache__`, `node_modules` and virtual environments are passed over
    unless a part of an include pattern names them: `*` is no reason to send somebody's secrets to a vendor. Links are
    never followed. A link, an unreadable folder or anything that is no regular file comes with its problem.

    Raises:
        BadInputError: `root` is no folder that can be read, or a pattern is wrong.
    """
    wanted, unwanted = Patterns(include), Patterns(exclude)
    try:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise BadInputError(f"{root} {what}; give the folder the files are in.")
        os.scandir(root).close()
    except (OSError, ValueError) as error:
        raise BadInputError(f"{root} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    # Folders still to be read, the next one last; names within a folder come in order.
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(root / prefix) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Found(prefix.rstrip("/"), f"the folder cannot be read: {error.strerror or error}")
            continue
        folders: list[str] = []
        for entry in entries:
            path = prefix + entry.name
            if unwanted.match(path):
                continue
            if entry.is_dir(follow_symlinks=False):
                if wanted.name(entry.name) or not _passed_over(entry):
                    folders.append(path + "/")
            elif wanted.match(path) and (wanted.name(entry.name) or not entry.name.startswith(".")):
                yield Found(path, _problem(path, entry))
        waiting.extend(reversed(folders))


def _passed_over(folder: os.DirEntry[str]) -> bool:
    if folder.name in DEFAULT_SKIPPED or folder.name.startswith("."):
        return True
    try:
        return (Path(folder.path) / "pyvenv.cfg").exists()
    except OSError:
        return False


def _problem(path: str, entry: os.DirEntry[str]) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if entry.is_symlink():
        return "a symbolic link"
    return None if entry.is_file(follow_symlinks=False) else "not a regular file"
