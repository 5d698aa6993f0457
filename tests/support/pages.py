"""Pages of docs/ as what can be run: their fenced blocks in order, in one shell and one folder for each page.

`sh` runs in the page's shell, `python` by itself, unless its first line names a file (`# check.py`): then it is that file, as
`yaml` with such a line is. `text` behind a block is what it has to print: these lines in this order, others may stand between
them; `…` is anything within a line. `console` is for what cannot run here, and a comment before it says why.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.support.cli import END_TIMEOUT_S, ROOT
from tests.support.worker import until

RUN = ("sh", "python")
KINDS = (*RUN, "yaml", "text", "console", "json")
BLOCK_S = 200.0
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
_NAMED = re.compile(r"# ([\w-]+\.(?:py|yaml))")


@dataclass(frozen=True)
class Block:
    """One fenced block, by the line of its page at which it begins; `before` is the line above it."""

    page: str
    line: int
    kind: str
    text: str
    before: str
    expected: list[str] = field(default_factory=list)

    @property
    def file(self) -> str | None:
        """The file that it is, where it is one."""
        found = _NAMED.fullmatch(self.text.partition("\n")[0])
        return found.group(1) if found and self.kind in ("python", "yaml") else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """The blocks of a page; the text behind one that is run is what it has to print."""
    found: list[Block] = []
    lines = iter(enumerate(path.read_text().splitlines(), 1))
    above = ""
    for number, line in lines:
        if line.startswith("```"):
            inside = []
            for _, within in lines:
                if within == "```":
                    break
                inside.append(within)
            block = Block(path.name, number, line[3:], "\n".join(inside), above)
            if block.kind == "text" and found and found[-1].kind in RUN:
                found[-1].expected.extend(inside)
            found.append(block)
        if line.strip():
            above = line
    return found


class PageShell:
    """A shell in a folder of its own, with nothing of the caller's environment but the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._out = folder / ".page"
        self._out.mkdir()
        for name, command in {"fleet": f'{sys.executable} -m fleet "$@"', "python": f'{sys.executable} "$@"'}.items():
            (self._out / name).write_text(f"#!/bin/sh\nexec {command}\n")
            (self._out / name).chmod(0o755)
        environment = {"PATH": f"{self._out}:{os.environ['PATH']}", "HOME": str(folder), "PYTHONPATH": str(ROOT)}
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environment | {"COLUMNS": "100", "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._number = 0
        # What the page left running ends with its shell, and drains.
        self._say("set -e; trap 'kill $(jobs -p) 2> /dev/null; wait' EXIT")

    def run(self, block: Block) -> str:
        """Run a block, or write the file that it is; what it printed. AssertionError: it failed, or printed something else."""
        if block.file is not None:
            (self.folder / block.file).write_text(block.text + "\n")
            return ""
        if block.kind not in RUN:
            return ""
        self._number += 1
        # In the page's folder: that is where Python looks for what a script imports.
        script = self.folder / f".block-{self._number}.{block.kind}"
        script.write_text(block.text + "\n")
        printed, done = self._out / f"{self._number}.out", self._out / f"{self._number}.done"
        command = f". {script}" if block.kind == "sh" else f"python {script}"
        self._say(f"{command} > {printed} 2>&1\ntouch {done}")
        with contextlib.suppress(AssertionError):
            until(lambda: done.exists() or self._bash.poll() is not None, f"the end of {block}", timeout=BLOCK_S)
        text = printed.read_text(errors="replace") if printed.exists() else ""
        ended = "failed" if self._bash.poll() is not None else f"did not end in {BLOCK_S:g} s"
        assert done.exists(), f"{block} {ended}:\n{block.text}\n\nIt printed:\n{text}"
        check_output(block, text)
        return text

    def close(self) -> None:
        """End the shell and what it started."""
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        try:
            self._bash.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, signal.SIGKILL)
            self._bash.wait()

    def _say(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(text + "\n")
        self._bash.stdin.flush()


@contextmanager
def shell(folder: Path) -> Iterator[PageShell]:
    """A page's shell until the block ends."""
    opened = PageShell(folder)
    try:
        yield opened
    finally:
        opened.close()


def check_output(block: Block, printed: str) -> None:
    """AssertionError naming the line that a block should have printed, behind the others, and did not."""
    left = iter(printed.splitlines())
    for line in block.expected:
        pattern = re.compile(".*".join(r"\s+".join(map(re.escape, part.split())) for part in line.split("…")))
        assert any(pattern.search(" ".join(one.split())) for one in left), (
            f"{block} did not print, in its place: {line}\nIt printed:\n{printed}"
        )


def well_formed(block: Block) -> None:
    """AssertionError when a block is of no kind, is not run and says no reason, or is YAML or Python that is none."""
    assert block.kind in KINDS, f"{block} is of the kind {block.kind!r}; there are {', '.join(KINDS)}"
    if block.kind == "console":
        assert NOT_RUN.fullmatch(block.before), f"{block} is not run; say why above it: <!-- not run: … -->"
    if block.kind == "yaml":
        yaml.safe_load(block.text)
    if block.kind == "python":
        compile(block.text, str(block), "exec")
