"""A store that hangs: it takes connections and answers nothing. The fleet says so, stands still nowhere, and goes on after it."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

from fleet.health import LIVE, STALE_S
from tests.support.api import JOB
from tests.support.processes import FleetProcess
from tests.support.sim import fleet_config, running_sim
from tests.support.valkey import Valkey, free_port
from tests.support.worker import until

#: A probe and a scrape wait no longer.
PATIENCE_S = 9.5


def _asked(url: str, body: object = None) -> tuple[int, str]:
    """The status and the text."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_while_the_store_hangs_every_process_lives_and_says_so_and_then_the_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    valkey, config = Valkey(tmp_path / "valkey"), fleet_config()
    metrics, port = f"127.0.0.1:{free_port()}", free_port()
    api = f"http://127.0.0.1:{port}"
    commands = {
        "coordinator": ["coordinator"],
        "nano": ["worker", "--tier", "nano"],
        "api": ["api", "--port", str(port)],
    }
    started: dict[str, FleetProcess] = {}
    health = tmp_path / "health"
    with running_sim(tmp_path / "sim", config=config) as sim:
        try:
            for name, words in commands.items():
                more = {"FLEET_METRICS_ADDRESS": metrics} if name == "coordinator" else {}
                if name == "api":
                    more["OPENAI_API_KEY"] = "none of the fleet's"
                more["FLEET_HEALTH"] = str(health / name)
                started[name] = FleetProcess(valkey, tmp_path, config, sim.url, *words, **more)
            for name, process in started.items():
                until((health / name / "ready").exists, f"{name} to be ready", process, 120)

            valkey.process.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            ages: list[tuple[float, str]] = []

            def shown() -> bool:
                ages.extend((time.time() - (health / name / LIVE).stat().st_mtime, name) for name in commands)
                return "tierfleet_store_up 0.0" in _asked(f"http://{metrics}/metrics")[1]

            until(shown, "the coordinator to show that the store does not answer")
            for path in ("/readyz", "/v1/jobs", "/v1/files", "/jobs"):
                status, text = _asked(api + path)
                assert (status, "has not answered" in text) == (503, True), path
            until(lambda: shown() and time.monotonic() - stopped > STALE_S + 1, "a probe to have failed, had it to")
            assert max(ages) < (STALE_S, ""), "no loop stands still for long"
            assert all(process.process.poll() is None for process in started.values())

            valkey.process.send_signal(signal.SIGCONT)
            until(lambda: _asked(f"{api}/readyz")[0] == 200, "the API to be ready again")
            status, text = _asked(f"{api}/v1/jobs", JOB)
            assert status == 202, text
            job = f"{api}/v1/jobs/{json.loads(text)['id']}"
            until(lambda: json.loads(_asked(job)[1])["status"] == "completed", "the job", started["nano"], 60)
            assert json.loads(_asked(job)[1])["simulated"], "the coordinator has said so, whatever the API has"
        finally:
            valkey.process.send_signal(signal.SIGCONT)
            for process in started.values():
                process.stop()
            valkey.stop()
