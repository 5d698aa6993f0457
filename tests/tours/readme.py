"""The examples in the READMEs of the vendor's clients, as they come with the installed packages: found and run as they are.

Nothing of them is changed; the server is told by OPENAI_BASE_URL and OPENAI_API_KEY, and has to know the models they name.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.node import node

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.M)
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Example:
    """One block of code: under which heading, the how-manyeth there (from 0)."""

    heading: str
    number: int
    language: str
    code: str

    @property
    def name(self) -> str:
        return f"{self.heading}/{self.number}"


def python_readme() -> str:
    """The README of the installed Python package."""
    return str(importlib.metadata.metadata("openai").get_payload())


def examples(readme: str, *languages: str) -> dict[str, Example]:
    """The blocks of code in one of these languages, by name."""
    found: dict[str, Example] = {}
    headings = [(heading.start(), heading.group(1).strip("`")) for heading in _HEADING.finditer(_masked(readme))]
    counts: dict[str, int] = {}
    for block in _FENCE.finditer(readme):
        if block.group(1) in languages:
            heading = [text for at, text in headings if at < block.start()][-1]
            number = counts.get(heading, 0)
            counts[heading] = number + 1
            example = Example(heading, number, block.group(1), block.group(2))
            found[example.name] = example
    return found


def models_of(example: Example) -> set[str]:
    """The models that an example asks for."""
    return set(re.findall(r"""model\s*[:=]\s*["']([^"']+)["']""", example.code))


def run_python(code: str, folder: Path, url: str, key: str) -> subprocess.CompletedProcess[str]:
    """Run an example in a folder that has the files it reads."""
    return _run([sys.executable, "-c", code], folder, url, key)


def run_node(code: str, folder: Path, url: str, key: str) -> subprocess.CompletedProcess[str]:
    """Run an example in a folder that has the packages and the files it reads."""
    program = folder / "example.mjs"
    program.write_text(code)
    return _run([node(), str(program)], folder, url, key)


def _run(command: list[str], folder: Path, url: str, key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "OPENAI_BASE_URL": url, "OPENAI_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _masked(readme: str) -> str:
    """The README with its code blanked out: a comment there is no heading."""
    return _FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block.group()), readme)
