"""How Celery is set up."""

from __future__ import annotations

import pytest
from celery.exceptions import QueueNotFound
from celery.utils.quorum_queues import detect_quorum_queues

from queues import rabbit
from queues.app import QueueSettings, build_app, coordinator_queue
from queues.consumer import Consumer
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


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_on_rabbitmq_queues_are_replicated_and_what_is_sent_is_confirmed(scheme: str) -> None:
    settings = QueueSettings(broker_url=f"{scheme}://fleet:secret@broker//", store_url="redis://127.0.0.1:1/1")
    app = build_app(settings, [NANO])
    connection = app.connection_for_write()
    assert isinstance(connection.transport, rabbit.Transport)
    assert connection.transport_options["confirm_publish"]
    assert (connection.ssl == {"server_hostname": None}) == (scheme == "amqps"), "the name in its certificate counts"
    assert connection.transport.default_connection_params["port"] == (5671 if scheme == "amqps" else 5672)
    assert "secret" not in connection.as_uri()
    assert app.amqp.queues[NANO.queue].queue_arguments["x-queue-type"] == "quorum"
    assert detect_quorum_queues(app, connection.transport.driver_type)[0], (
        "else Celery asks for a prefetch that they refuse"
    )
    assert not any("delayed" in step for step in Consumer.Blueprint.default_steps), "nothing of ours has a countdown"


def test_on_redis_queues_have_no_arguments() -> None:
    assert build_app(SETTINGS, [NANO]).amqp.queues[NANO.queue].queue_arguments is None


def test_a_tier_makes_its_workers_arguments() -> None:
    expected = ["-Q", "ns.nano", "-c", "7", "--soft-time-limit", "5", "--time-limit", "6"]
    assert NANO.worker_arguments() == expected
    assert Tier(name="a", queue="b").worker_arguments() == ["-Q", "b", "-c", "100"]
