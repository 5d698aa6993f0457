"""The users of the store: each may do what its role needs, in every script, and nothing of what it must not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fleet.config import load_config
from tests.support.guarded import ROOT, START, GuardedValkey, passwords

LUA = sorted((ROOT / "queues" / "lua").glob("*.lua"))
#: Kinds of keys in scripts that are not for everybody who runs scripts.
PRIVATE = {"secret"}
#: Who runs all scripts on the fleet's keys but those on private ones.
WORKING = ("worker", "coordinator", "api", "operator")
#: Who has to do with queues.
QUEUEING = ("worker", "coordinator")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedValkey]:
    server = GuardedValkey(tmp_path_factory.mktemp("guarded"))
    yield server
    server.stop()


def may(guarded: GuardedValkey, role: str, *command: str) -> bool:
    with guarded.client() as admin:
        return bool(admin.execute_command("ACL", "DRYRUN", f"fleet-{role}", *command) == b"OK")


def kinds_in_scripts() -> set[str]:
    found = {kind for script in LUA for kind in re.findall(r"\bkey\('(\w+)'", script.read_text())}
    of_a_job = re.search(r"OF_A_JOB = \{(.*?)\}", (ROOT / "queues/lua/_common.lua").read_text())
    assert of_a_job is not None
    return found | set(re.findall(r"'(\w+)'", of_a_job[1]))


def commands_in_scripts() -> set[str]:
    found = set()
    for script in LUA:
        for line in script.read_text().splitlines():
            found |= set(re.findall(r"redis\.p?call\('([A-Z]+)'", line))
            if re.search(r"redis\.p?call\([^']*'", line):  # one of two
                found |= set(re.findall(r"'([LR]PUSH|[LR]POP)'", line))
    return found


@pytest.mark.parametrize("role", WORKING)
def test_who_runs_scripts_may_do_all_that_is_done_in_them(guarded: GuardedValkey, role: str) -> None:
    kinds, commands = kinds_in_scripts(), commands_in_scripts()
    assert {"s", "job", "told", "obe", "p", "secret"} <= kinds
    assert {"HSET", "LPUSH", "XADD", "PEXPIRE", "TIME"} <= commands
    with guarded.client() as admin:
        arity = {name: abs(info["arity"]) for name, info in admin.command().items()}
    refused = [
        name
        for name in sorted(commands)
        if not may(guarded, role, name, *(["fleet:s:job/1", *"1" * 9][: arity[name.lower()] - 1]))
    ]
    assert refused == []
    for kind in sorted(kinds - PRIVATE):
        assert may(guarded, role, "DEL", f"fleet:{kind}:x") or may(guarded, role, "DEL", f"fleet:{kind}"), kind
    assert may(guarded, role, "EVALSHA", "0" * 40, "1", "fleet"), "the key that every script is given"


@pytest.mark.parametrize("role", QUEUEING)
def test_every_tier_of_the_shipped_configuration_has_its_queue(guarded: GuardedValkey, role: str) -> None:
    for queue in (*load_config(ROOT / "config" / "fleet.yaml").tiers, "coordinator"):
        assert may(guarded, role, "LPUSH", queue, "message"), queue
        assert may(guarded, "flower", "LLEN", queue), queue


@pytest.mark.parametrize(
    "shown", [{}, {"password": ""}, *({"username": user, "password": "guess"} for user in ("default", "fleet-worker"))]
)
def test_nobody_is_let_in_without_a_password(guarded: GuardedValkey, shown: dict[str, Any]) -> None:
    once = Retry(NoBackoff(), 0)  # to this client a refusal is a bad connection, which it would try ten times
    with (
        redis.Redis(port=guarded.port, protocol=2, retry=once, **shown) as nobody,
        pytest.raises(redis.AuthenticationError),
    ):
        nobody.ping()


SERVER = (
    "FLUSHALL|FLUSHDB|KEYS *|SCAN 0|RANDOMKEY|DBSIZE|CONFIG SET appendonly no|CONFIG SET dir /tmp|CONFIG REWRITE|ACL LIST|"
    "ACL SETUSER x on|ACL WHOAMI|SHUTDOWN|MONITOR|CLIENT LIST|CLIENT KILL TYPE normal|SAVE|BGSAVE|BGREWRITEAOF|"
    "REPLICAOF NO ONE|MODULE LIST|FUNCTION LIST|SCRIPT FLUSH|SCRIPT KILL|SWAPDB 0 1|SELECT 1|LATENCY LATEST|SLOWLOG GET|"
    "SORT fleet:told:x"
)
FOREIGN = "GET other|SET other 1|HGETALL test:s:x|PUBLISH other message"
KEYS = "HGETALL fleet:keys|HGETALL fleet:key:digest|GET fleet:keys:secret|HSET fleet:key:digest scopes admin|DEL fleet:keys:ever"
NEW_KEYS = "HSET fleet:key:digest scopes admin|HSET fleet:keys key_1 digest|DEL fleet:keys:ever|HDEL fleet:keys key_1"
TAKING = "LPUSH coordinator message|RPOP nano|LRANGE flagship 0 1|DEL mini|HGETALL fleet.unacked.nano|PUBLISH /0.fleet.control x"
QUEUES = "LPUSH nano message|LPUSH coordinator message|LRANGE flagship 0 1|HGETALL fleet.unacked.nano|PUBLISH /0.fleet.control x"


@pytest.mark.parametrize(
    ("role", "commands"),
    [
        ("worker", f"{SERVER}|{FOREIGN}|{KEYS}|INFO|CONFIG GET *|ZRANGE fleet:jobs 0 1|XRANGE fleet:audit:acme - +|"
                   "HGETALL fleet:secret:acme|HGETALL fleet:files:acme:1|HGETALL fleet:once:acme:x"),
        ("coordinator", f"{SERVER}|{FOREIGN}|{NEW_KEYS}|GET fleet:keys:secret|HSET fleet:files:acme:1 a b"),
        ("api", f"{SERVER}|{FOREIGN}|{NEW_KEYS}|{TAKING}|HGETALL fleet:secret:acme"),
        ("flower", f"{SERVER}|{FOREIGN}|{KEYS}|LPUSH nano message|LRANGE nano 0 1|BRPOP coordinator 1|DEL flagship|"
                   "HGETALL fleet:job:x|HGETALL fleet:s:x|GET celery-task-meta-x|EVALSHA 00 1 fleet|HGETALL fleet.unacked.nano"),
        ("operator", f"{SERVER}|{FOREIGN}|LPUSH nano message|DEL coordinator|PUBLISH /0.fleet.control x"),
        ("scaler", f"{SERVER}|{FOREIGN}|{KEYS}|{QUEUES}|DEL fleet:out:nano|ZRANGE fleet:b:nano 0 1|HGETALL fleet:s:x|"
                   "EVAL 0 1 fleet"),
        ("health", f"{SERVER}|{FOREIGN}|{KEYS}|GET fleet|TIME|INFO|EVAL return 0"),
    ],
)  # fmt: skip
def test_a_role_may_not(guarded: GuardedValkey, role: str, commands: str) -> None:
    with guarded.as_(role) as client:
        for command in commands.split("|"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
            assert command  # pytest says which one was let through


def test_what_a_user_may_not_do_no_script_does_for_it(guarded: GuardedValkey) -> None:
    with guarded.as_("worker") as client:
        for body in ("return redis.call('HGETALL', 'fleet:keys')", "return redis.call('FLUSHALL')"):
            with pytest.raises(redis.ResponseError, match=r"ACL failure|permission"):
                client.eval(body, 1, "fleet")


def test_the_store_starts_with_no_password_missing_and_none_that_a_url_cannot_hold(tmp_path: Path) -> None:
    for wrong, sentence in (("", "is not set"), ("p@ss/word", "has characters"), ("$(id)", "has characters")):
        variables = passwords() | {
            "FLEET_STORE_PASSWORD_WORKER": wrong,
            "VALKEY_RUN": str(tmp_path),
            "PATH": "/usr/bin:/bin",
        }
        refused = subprocess.run(
            ["sh", str(START)],
            env=variables | {"VALKEY_SERVER": "/bin/true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (refused.returncode, list(tmp_path.iterdir())) == (2, [])
        assert f"FLEET_STORE_PASSWORD_WORKER {sentence}" in refused.stderr


def test_nobody_else_on_the_machine_reads_the_passwords(guarded: GuardedValkey) -> None:
    assert (guarded.folder / "users.acl").stat().st_mode & 0o077 == 0
    command = Path(f"/proc/{guarded.process.pid}/cmdline").read_bytes()
    for password in guarded.passwords.values():
        assert password.encode() not in command
