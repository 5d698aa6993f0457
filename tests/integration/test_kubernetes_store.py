"""What k8s/ says of the store, against a real one: the keys that KEDA counts in place of admissible work, and the users."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml

from fleet.runtime import NAMESPACE
from queues.link import Link
from queues.store import Store
from tests.support.guarded import GuardedValkey
from tests.support.stores import claimed, new
from tests.support.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]
#: What KEDA's `redis` scaler does: a script that asks for the type of its key, and counts by it (pkg/scalers/redis_scaler.go).
COUNT = """
local counts = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
return redis.call(counts[redis.call('type', KEYS[1]).ok], KEYS[1])
"""


def fallback(tier: str) -> Any:
    documents = yaml.safe_load_all((ROOT / "k8s/components/keda-redis/tiers.yaml").read_text())
    return next(one["spec"] for one in documents if one["metadata"]["name"] == f"worker-{tier}")


def counted(client: redis.Redis) -> dict[str, int]:
    """What each trigger of the tier nano says."""
    return {
        trigger["name"]: int(client.eval(COUNT, 1, trigger["metadata"]["listName"]))
        for trigger in fallback("nano")["triggers"]
    }


def test_the_fallback_sees_work_without_workers_and_work_that_waits_or_runs(valkey: Valkey) -> None:
    async def scenario() -> None:
        link = Link.from_url(valkey.url)
        store = Store(link, NAMESPACE, lease_ms=30_000)
        with valkey.client() as client:
            assert counted(client) == {"released": 0, "backlog": 0}
            await store.open_job("j", tenant="t", share=1)
            await store.add([new(f"j/{i}") for i in range(10)])
            # No worker lives, so the dispatcher gets nothing, and the tier's list in the broker would be empty for ever.
            assert await store.release("nano", 100) == []
            assert counted(client) == {"released": 0, "backlog": 1}
            await store.register("nano", "w", 4, 600_000)
            released = await store.release("nano", 100)
            assert counted(client) == {"released": len(released), "backlog": 1}
            claim = await claimed(store, released[0].id)
            assert counted(client)["released"] == len(released), "what runs is counted, too"
            await store.finish(claim, "ok", "output")
            assert counted(client)["released"] == len(released) - 1
        await link.aclose()

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def secrets() -> dict[str, dict[str, str]]:
    """What k8s/secrets.sh makes."""
    done = subprocess.run(["sh", str(ROOT / "k8s/secrets.sh")], capture_output=True, text=True, timeout=30, check=True)
    return {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(done.stdout) if one}


@pytest.fixture(scope="module")
def store(secrets: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedValkey]:
    """A store that was told the Secret of its own."""
    server = GuardedValkey(tmp_path_factory.mktemp("store"), secrets["tierfleet-valkey"])
    yield server
    server.stop()


def client_at(store: GuardedValkey, username: str | None, password: str | None) -> redis.Redis:
    return redis.Redis(port=store.port, username=username, password=password, protocol=2)


def test_whom_the_secrets_name_the_store_knows_and_nobody_else(
    secrets: dict[str, dict[str, str]], store: GuardedValkey
) -> None:
    urls = {key: urlsplit(value) for key, value in secrets["tierfleet"].items() if key.startswith("store-url-")}
    assert len(urls) == 5
    for key, url in urls.items():
        with client_at(store, url.username, url.password) as client:
            assert client.ping(), key
    with client_at(store, None, None) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_whoever_scales_may_count_and_nothing_else(secrets: dict[str, dict[str, str]], store: GuardedValkey) -> None:
    scaler = secrets["tierfleet"]
    with store.client() as admin, client_at(store, scaler["scaler-username"], scaler["scaler-password"]) as client:
        admin.sadd(f"{NAMESPACE}:out:nano", "j/1", "j/2")
        admin.zadd(f"{NAMESPACE}:b:nano", {"tenant": 1})
        admin.hset(f"{NAMESPACE}:s:j/1", "payload", "a prompt")
        assert counted(client) == {"released": 2, "backlog": 1}
        refusals: list[Callable[[], object]] = [
            lambda: client.smembers(f"{NAMESPACE}:out:nano"),
            lambda: client.eval("return redis.call('hlen', KEYS[1])", 1, f"{NAMESPACE}:s:j/1"),
            lambda: client.eval("return redis.call('srem', KEYS[1], 'j/1')", 1, f"{NAMESPACE}:out:nano"),
            lambda: client.keys("*"),
        ]
        for refused in refusals:
            with pytest.raises(redis.ResponseError):
                refused()
        assert counted(client) == {"released": 2, "backlog": 1}
