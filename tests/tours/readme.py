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

from tests.support.node import modules, node
from tests.tours.target import PICTURE_BYTES

#: The models that the examples below name.
MODELS = ("gpt-5.5", "gpt-4o")
#: Of Python's README, the programs about what an OpenAI-compatible server of ours has. The others are about fine-tuning,
#: audio, realtime, webhooks, identities, certificates and other vendors, ask for a picture at a museum, ask nothing, or are
#: no programs.
PYTHON = (
    "Usage/0",
    "Usage/1",
    "Vision/1",
    "Async usage/0",
    "With aiohttp/0",
    "Streaming responses/0",
    "Streaming responses/1",
    "Nested params/0",
    "File uploads/0",
    "Handling errors/0",
    "Retries/0",
    "Timeouts/0",
    "Accessing raw response data (e.g. headers)/0",
    "Managing HTTP resources/1",
)
#: Of Node's README the same. Some of them begin after the import and the client of the first.
NODE = (
    "Usage/0",
    "Multi-turn conversations/0",
    "Streaming responses/0",
    "Handling errors/0",
    "Retries/0",
    "Timeouts/0",
    "Request IDs/0",
    "Request IDs/1",
    "Accessing raw Response data (e.g., headers)/0",
)
NODE_BEGINNING = "import OpenAI from 'openai';\nglobalThis.client = globalThis.openai = new OpenAI();\n"

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
    return importlib.metadata.metadata("openai").json["description"]  # type: ignore[return-value]


def node_readme() -> str:
    """The README of the installed Node package."""
    return (modules() / "openai" / "README.md").read_text()


def with_files(folder: Path) -> Path:
    """A folder with the files that the examples read."""
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "image.png").write_bytes(PICTURE_BYTES)
    (folder / "input.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello."}]}\n')
    return folder


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


def run_python(example: Example, folder: Path, url: str, key: str) -> subprocess.CompletedProcess[str]:
    """Run an example in a folder that has the files it reads."""
    return _run([sys.executable, "-c", example.code], folder, url, key)


def run_node(example: Example, folder: Path, url: str, key: str) -> subprocess.CompletedProcess[str]:
    """Run an example in a folder whose programs find the packages."""
    program = folder / "example.mjs"
    begun = "import OpenAI" in example.code
    program.write_text(example.code if begun else NODE_BEGINNING + example.code)
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
