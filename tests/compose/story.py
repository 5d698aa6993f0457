"""What a fleet of containers has to stand: looked over for what is open, worked, robbed of a worker, ended.

Each step asserts; what it measures comes back as figures.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.compose.engine import Engine
from tests.compose.fleet import Fleet, until

Say = Callable[[str], None]
Figures = dict[str, float]

WORKERS = ("worker-nano", "worker-mini", "worker-flagship")
PROCESSES = ("api", "coordinator", *WORKERS, "flower", "sim")
ITEMS = 3000
JOB = {
    "name": "notes",
    "items": [f"Note {i}: the pump in hall {i} leaks." for i in range(ITEMS)],
    "steps": [{"id": "note", "each": "items", "tier": "nano", "prompt": "Note this: {{ item }}"}],
}
#: Tools that could fetch or build something, which an image that runs has no use for.
TOOLS = ("pip", "pip3", "gcc", "cc", "make", "git", "curl", "wget")


def told(engine: Engine, fleet: Fleet, say: Say) -> Figures:
    """The whole story."""
    figures: Figures = {}
    began = time.monotonic()
    say("docker compose up --wait")
    fleet.compose("up", "--detach", "--wait", "--no-build")
    figures["up_s"] = time.monotonic() - began
    say("what the containers can do")
    _shut(fleet)
    say("what answers without a key")
    _closed(fleet)
    key = json.loads(fleet.cli("keys", "create", "--scope", "admin", "-o", "json"))["key"]
    assert fleet.ask("GET", "http://127.0.0.1:8080/v1/jobs", key)[0] == 200
    say("the demo job")
    began = time.monotonic()
    printed = fleet.cli("demo", "--out", "/tmp/demo")  # noqa: S108  the container's own
    figures["demo_s"] = time.monotonic() - began
    assert "completed in" in printed, printed[-3000:]
    assert "0 failed" in printed, printed[-3000:]
    say("a worker that runs out of memory")
    figures |= _out_of_memory(fleet, key)
    figures |= _memory(fleet)
    refused = fleet.store("ACL", "LOG")
    assert refused == "", refused
    say("docker compose stop")
    began = time.monotonic()
    fleet.compose("stop")
    figures["stop_s"] = time.monotonic() - began
    codes = {name: container["State"]["ExitCode"] for name, container in fleet.containers().items()}
    # uvicorn ends what it does and then by the signal that it was sent; 137 would be who was killed.
    assert set(codes.values()) <= {0, 128 + signal.SIGTERM}, f"they drain when they are asked to: {codes}"
    assert not any(codes[name] for name in ("valkey", "coordinator", *WORKERS)), codes
    return figures


def _shut(fleet: Fleet) -> None:
    """Each container runs as nobody, on a root that nobody can write, with no way to more rights."""
    containers = fleet.containers()
    assert set(PROCESSES) | {"valkey"} <= set(containers)
    for name, container in containers.items():
        host = container["HostConfig"]
        assert container["State"]["Health"]["Status"] == "healthy", name
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"] and not host["Privileged"], name
        status = fleet.execute(name, "sh", "-c", "cat /proc/self/status; id -u; touch /app/x /usr/x /etc/x 2>&1")
        assert "CapEff:\t0000000000000000" in status.stdout and "NoNewPrivs:\t1" in status.stdout, status.stdout
        assert status.stdout.count("Read-only file system") >= 2, status.stdout
        assert f"\n{999 if name == 'valkey' else 10001}\n" in status.stdout, status.stdout
    for tool in TOOLS:
        assert fleet.execute("api", "sh", "-c", f"command -v {tool}").returncode != 0, tool
    assert fleet.execute("api", "python", "-c", "import pip").returncode != 0
    assert fleet.execute("api", "python", "-m", "fleet.health", "live").returncode == 0


def _closed(fleet: Fleet) -> None:
    """Every port that a container listens on, as who has no key finds it from beside the containers."""
    published = {
        binding["HostPort"]: name
        for name, container in fleet.containers().items()
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or ()
    }
    assert published == {"8080": "api", "5555": "flower"}
    for path in ("/v1/jobs", "/v1/models", "/metrics", "/v1/files", "/v1/batches"):
        assert fleet.ask("GET", f"http://127.0.0.1:8080{path}")[0] == 401, path
    assert fleet.ask("POST", "http://127.0.0.1:8080/v1/jobs", body="{}")[0] == 401
    assert fleet.ask("GET", "http://127.0.0.1:8080/healthz") == (200, '{"status":"ok"}')
    for path in ("/", "/tasks", "/api/workers", "/broker", "/metrics"):
        assert fleet.ask("GET", f"http://127.0.0.1:5555{path}")[0] in (401, 403), path
    nobody = fleet.execute("valkey", "env", "--unset=REDISCLI_AUTH", "valkey-cli", "GET", "fleet:keys")
    assert "NOAUTH" in nobody.stdout + nobody.stderr


def _out_of_memory(fleet: Fleet, key: str) -> Figures:
    """The kernel ends the nano worker in the middle of a job; it starts again, and the job ends whole."""
    status, text = fleet.ask("POST", "http://127.0.0.1:8080/v1/jobs", key, json.dumps(JOB))
    assert status == 202, text
    job_id = json.loads(text)["id"]

    def job() -> dict[str, Any]:
        return dict(json.loads(fleet.ask("GET", f"http://127.0.0.1:8080/v1/jobs/{job_id}", key)[1]))

    until(lambda: job()["counts"]["done"] >= 100, "a job under way")
    limit = fleet.containers()["worker-nano"]["HostConfig"]["Memory"]
    # What is written into a tmpfs is the container's memory; the kernel ends who has most of the rest, which is the worker.
    fleet.execute("worker-nano", "dd", "if=/dev/zero", "of=/tmp/fill", "bs=1M", f"count={limit // 2**20}")
    until(lambda: fleet.containers()["worker-nano"]["RestartCount"] == 1, "the worker to be started again", 60)
    killed = job()
    assert killed["status"] == "running" and killed["counts"]["done"] < ITEMS, killed
    ended = until(
        lambda: (now := job())["status"] not in ("planning", "running", "reviewing") and now, "the end of the job", 600
    )
    assert ended["status"] == "completed", ended
    lines = fleet.ask("GET", f"http://127.0.0.1:8080/v1/jobs/{job_id}/results?limit=1", key)
    assert lines[0] == 200, lines
    results = fleet.cli("jobs", "get", job_id, "-o", "json")
    counts = json.loads(results)["counts"]
    assert (counts["done"], counts["failed"]) == (ITEMS, 0), counts
    return {"oom_killed_workers": 1, "done_before_the_kill": killed["counts"]["done"], "done": counts["done"]}


def _memory(fleet: Fleet) -> Figures:
    """The most that each container has used so far, in MiB, as the kernel counts it."""
    found: Figures = {}
    for name in (*PROCESSES, "valkey"):
        container = fleet.containers()[name]["Id"]
        for path in (
            Path("/sys/fs/cgroup/memory/docker") / container / "memory.max_usage_in_bytes",
            Path("/sys/fs/cgroup/system.slice") / f"docker-{container}.scope" / "memory.peak",
            Path("/sys/fs/cgroup/docker") / container / "memory.peak",
        ):
            if path.exists():
                found[f"memory_mib_{name.replace('-', '_')}"] = int(path.read_text()) / 2**20
    return found
