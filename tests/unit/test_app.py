"""How Celery is set up."""

from __future__ import annotations

import pytest
from celery.exceptions import QueueNotFound

from queues.app import QueueSettings, build_app, coordinator_queue
from queues.pool import AsyncioPool
from queues.tiers import Tier
from queues.transport import Transport

SETTINGS = QueueSettings(broker_url="redis://127.0.0.1:1/0", store_url="redis://127.0.0.1:1/1", namespace="ns")
NANO = Tier(name="nano", queue="ns.nano", concurrency=7, soft_time_limit=5, time_limit=6)


def test_there_is_a_queue_per_tier_and_one_for_the_coordinator() -> None:
    app = build_app(SETTINGS, [NANO])
    assert set(app.amqp.queues) == {"ns.nano", "ns.coordinator"} == {NANO.queue, coordinator_queue(SETTINGS)}
    with pytest.raises(QueueNotFound):
        app.amqp.router.route({"queue": "ns.nanoo"}, "task")
    assert app.amqp.router.route({}, "task")["queue"].name == "ns.coordinator"


def test_messages_outlive_workers_and_only_json_is_read() -> None:
    conf = build_app(SETTINGS, [NANO]).conf
    assert conf.task_acks_late
    assert conf.worker_prefetch_multiplier == 1
    assert not conf.worker_deduplicate_successful_tasks
    assert conf.accept_content == conf.result_accept_content == ["json"]
    assert conf.result_chord_expires == SETTINGS.result_expires


def test_the_names_of_our_parts_lead_to_them() -> None:
    app = build_app(SETTINGS, [NANO])
    assert isinstance(app.connection_for_read().transport, Transport)
    assert app.connection_for_read().as_uri(include_password=True) == "redis://127.0.0.1:1/0"
    assert app.conf.worker_pool == f"{AsyncioPool.__module__}:{AsyncioPool.__name__}"
    assert type(app.backend).__name__ == "LinkBackend"


def test_rabbitmq_keeps_celerys_own_transport() -> None:
    settings = QueueSettings(broker_url="amqp://127.0.0.1:1//", store_url="redis://127.0.0.1:1/1")
    conf = build_app(settings, [NANO]).conf
    assert conf.broker_transport is None
    assert conf.task_default_queue_type == "quorum"


def test_a_tier_makes_its_workers_arguments() -> None:
    expected = ["-Q", "ns.nano", "-c", "7", "--soft-time-limit", "5", "--time-limit", "6"]
    assert NANO.worker_arguments() == expected
    assert Tier(name="a", queue="b").worker_arguments() == ["-Q", "b", "-c", "100"]
