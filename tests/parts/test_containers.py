"""The Dockerfile and docker-compose.yml as the tools of their trade read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
SCHEMA = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")


def ran(*command: str) -> subprocess.CompletedProcess[str]:
    """A tool of `.venv-parts`, to its end."""
    return subprocess.run(
        [TOOLS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_hadolint_has_nothing_to_say_of_the_dockerfile(tmp_path: Path) -> None:
    clean = ran("hadolint", "--no-color", "--failure-threshold", "style", "k8s/Dockerfile")
    assert (clean.returncode, clean.stdout) == (0, ""), clean.stdout + clean.stderr
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN apt-get install curl\n")
    assert "DL3008" in ran("hadolint", str(bad)).stdout, "it would say so"


def test_the_compose_file_keeps_the_schema_of_its_specification(tmp_path: Path) -> None:
    kept = ran(*SCHEMA, "docker-compose.yml")
    assert kept.returncode == 0, kept.stdout
    bad = tmp_path / "compose.yml"
    bad.write_text((ROOT / "docker-compose.yml").read_text().replace("read_only: true", "read_only: {}", 1))
    assert ran(*SCHEMA, str(bad)).returncode == 1, "it would say so"
