"""A real RabbitMQ for tests, Debian's: one node on free ports of loopback with its data in a folder, ended by its ids."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import amqp

from tests.support.valkey import free_port

#: The scripts that run as whoever calls them; those in /usr/sbin switch the user.
BIN = Path("/usr/lib/rabbitmq/bin")
NODE = "rabbit@localhost"
START_S, END_S, CONTROL_S = 90, 30, 60


class RabbitMQ:
    """A running node, and the port mapper of Erlang that belongs to it."""

    def __init__(self, folder: Path) -> None:
        """Start in `folder`."""
        assert (BIN / "rabbitmq-server").exists(), "RabbitMQ is not installed: it is Debian's package rabbitmq-server."
        self.folder = folder
        self.port = free_port()
        mapper, distribution = free_port(), free_port()
        # Everything on loopback and one scheduler; a channel looks every second for what was not acknowledged in time.
        erlang = "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1} -rabbit channel_tick_interval 1000"
        self._variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erlang,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
        }
        # Else RabbitMQ would start one that stays behind.
        self._mapper = subprocess.Popen(["epmd", "-address", "127.0.0.1", "-port", str(mapper)])
        self.start()

    def url(self, user: str, password: str, vhost: str) -> str:
        """Its address for one user."""
        parts = [quote(part, safe="") for part in (user, password, vhost)]
        return f"amqp://{parts[0]}:{parts[1]}@127.0.0.1:{self.port}/{parts[2]}"

    def start(self) -> None:
        """Start (again, after `stop` or `kill`) and wait until it lets clients in."""
        with (self.folder / "rabbitmq.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(BIN / "rabbitmq-server")], stdout=log, stderr=log, env=self._variables, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                with amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=5):
                    return
            except (OSError, amqp.AMQPError):
                assert self._process.poll() is None, (self.folder / "rabbitmq.log").read_text()[-3000:]
                assert time.monotonic() < deadline, "RabbitMQ did not come up in time."
                time.sleep(0.1)

    def control(self, *words: str) -> str:
        """What `rabbitmqctl` says. It starts a machine of its own: some seconds."""
        done = subprocess.run(
            [str(BIN / "rabbitmqctl"), "-q", "-n", NODE, *words],
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=CONTROL_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def define(self, vhost: str, users: Mapping[str, tuple[str, tuple[str, str, str]]]) -> None:
        """Make a virtual host, and users with a password and what they may configure, write and read there."""
        definitions: dict[str, Any] = {
            "vhosts": [{"name": vhost}],
            "users": [{"name": name, "password": password, "tags": ""} for name, (password, _) in users.items()],
            "permissions": [
                {"user": name, "vhost": vhost, "configure": configure, "write": write, "read": read}
                for name, (_, (configure, write, read)) in users.items()
            ],
        }
        path = self.folder / "definitions.json"
        path.write_text(json.dumps(definitions))
        self.control("import_definitions", str(path))

    def queues(self, vhost: str) -> dict[str, dict[str, Any]]:
        """The queues of a virtual host by name, with type and messages."""
        columns = ("name", "type", "durable", "messages", "arguments")
        rows = json.loads(self.control("-s", "list_queues", "-p", vhost, *columns, "--formatter", "json"))
        return {row["name"]: row for row in rows}

    def acknowledged(self, vhost: str) -> bool:
        """Whether its queues hold nothing, delivered or not. They tell every five seconds."""
        return not any(row["messages"] for row in self.queues(vhost).values())

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(END_S)

    def end(self) -> None:
        """Stop the node in order."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def stop(self) -> None:
        """End everything; idempotent."""
        self.end()
        self.kill()  # what the script has left behind, if anything
        self._mapper.terminate()
        self._mapper.wait(END_S)
