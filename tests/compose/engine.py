"""A Docker Engine of this test's own: its data, its socket and its network are nobody else's, and it ends with the test.

It runs containers in a network namespace of its own, with nothing in it but what the engine makes: they listen as they would
anywhere, and nothing outside reaches them. The image is built in the machine's, for a build fetches packages.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.compose.parts import docker_cli, run

START_S, END_S = 60.0, 90.0
#: No bridge, and no rule of a firewall: nothing of the machine's network is touched.
IN_THE_MACHINE_S = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
#: The engine would raise limits that not every machine lets it raise.
LIMITS = ["--default-ulimit", "nofile=1024:1024", "--default-ulimit", "nproc=4096:4096"]


@dataclass(frozen=True)
class Engine:
    """A running engine."""

    folder: Path
    process: subprocess.Popen[bytes]
    cli_config: Path

    @property
    def environment(self) -> dict[str, str]:
        """With which the client speaks to this engine."""
        return {
            "DOCKER_HOST": f"unix://{self.folder}/d.sock",
            "DOCKER_CONFIG": str(self.cli_config),
            "DOCKER_BUILDKIT": "1",
            "BUILDKIT_PROGRESS": "plain",
        }

    def docker(self, *arguments: str, timeout_s: float = 1800.0, more: Mapping[str, str] = MappingProxyType({})) -> str:
        """A command of the client; its output."""
        return run(docker_cli(), *arguments, timeout_s=timeout_s, more={**self.environment, **more})

    def inside(self, *command: str) -> tuple[str, ...]:
        """A command as it is given in the engine's network."""
        return ("nsenter", f"--net=/proc/{self.process.pid}/ns/net", "--", *command)


@contextlib.contextmanager
def engine(folder: Path, cli_config: Path, *, apart: bool) -> Iterator[Engine]:
    """An engine on what is in `folder`. `apart`: in a network of its own, for containers; else in the machine's, for a build."""
    flags = [
        "--host",
        f"unix://{folder}/d.sock",
        "--data-root",
        str(folder / "data"),
        "--exec-root",
        str(folder / "exec"),
    ]
    flags += ["--pidfile", str(folder / "pid"), "--storage-driver", "overlay2", *LIMITS]
    command = ["dockerd", *flags, *([] if apart else IN_THE_MACHINE_S)]
    if apart:
        command = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    (folder / "exec").mkdir(parents=True, exist_ok=True)
    with (folder / "dockerd.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    started = Engine(folder, process, cli_config)
    try:
        _await(started)
        yield started
    finally:
        # It ends what it has started: containerd, and through it the containers.
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(started: Engine) -> None:
    deadline = time.monotonic() + START_S
    while True:
        answer = subprocess.run(
            [docker_cli(), "version"], env=os.environ | started.environment, capture_output=True, check=False
        )
        if answer.returncode == 0:
            return
        if started.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The engine did not start:\n{(started.folder / 'dockerd.log').read_text()[-4000:]}")
        time.sleep(0.2)
