"""The fleet of docker-compose.yml on an engine: what is asked of it, and what is seen of its containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.compose.engine import Engine
from tests.compose.parts import docker_cli, run
from tests.support.cli import ROOT

FILE, OVERRIDE = ROOT / "docker-compose.yml", ROOT / "tests" / "compose" / "override.yml"
#: Sends one request and prints its status and its body: run in the network of the engine.
REQUEST = """\
import sys, urllib.error, urllib.request
method, url, key, body = sys.argv[1:]
headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
request = urllib.request.Request(url, body.encode() or None, headers, method=method)
try:
    answer = urllib.request.urlopen(request, timeout=30)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode(errors="replace"))
"""


class Fleet:
    """One Compose project: the repository's, with passwords of its own."""

    def __init__(self, engine: Engine, folder: Path, pip_config: Path) -> None:
        """`folder` gets the passwords."""
        self._engine = engine
        script = folder / "config" / "compose-secrets.sh"
        script.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "config" / "compose-secrets.sh", script)
        run("sh", str(script))
        self._env = folder / ".env"
        self._variables = {"COMPOSE_TEST_PIP": str(pip_config)}
        self.secrets = dict(line.split("=", 1) for line in self._env.read_text().splitlines())

    def compose(self, *arguments: str, files: Sequence[Path] = (FILE, OVERRIDE)) -> str:
        """A command of Compose; its output."""
        given = [part for file in files for part in ("--file", str(file))]
        project = ("--project-directory", str(ROOT), "--project-name", "tierfleet-test", "--env-file", str(self._env))
        return self._engine.docker("compose", *project, *given, *arguments, more=self._variables)

    def cli(self, *arguments: str) -> str:
        """A command of `fleet`; its output."""
        return self.compose("run", "--rm", "-T", "cli", *arguments)

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each service's container."""
        ids = self.compose("ps", "--all", "--quiet").split()
        found = json.loads(self._engine.docker("inspect", *ids))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def execute(self, service: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command in a container, whatever comes of it."""
        given = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        container = self.containers()[service]["Id"]
        return subprocess.run(
            [docker_cli(), "exec", *given, container, *command],
            env=os.environ | self._engine.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def ask(self, method: str, url: str, key: str = "", body: str = "") -> tuple[int, str]:
        """Status and body of a request from beside the containers."""
        done = subprocess.run(
            self._engine.inside(sys.executable, "-c", REQUEST, method, url, key, body),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        status, _, text = done.stdout.partition("\n")
        return int(status), text.removesuffix("\n")

    def store(self, *command: str) -> str:
        """A command to the store, with every right."""
        who = {"REDISCLI_AUTH": self.secrets["FLEET_STORE_PASSWORD_ADMIN"]}
        done = self.execute("valkey", "valkey-cli", "--user", "fleet-admin", "--no-auth-warning", *command, **who)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def until(look: Callable[[], Any], what: str, timeout_s: float = 240.0) -> Any:
    """What `look` gives, as soon as it gives something."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"Waited in vain for {what}."
        time.sleep(0.2)
    return found
