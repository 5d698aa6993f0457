"""Owns how Celery is set up: each option with the reason for it. Knows settings and tiers as data; reads no files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from celery import Celery
from kombu import Exchange, Queue
from kombu.connection import resolve_aliases

from queues.rabbit import HEARTBEAT_S, QUEUE_ARGUMENTS, transport_options
from queues.tiers import Tier

TRANSPORT, RABBIT_TRANSPORT = "queues.transport:Transport", "queues.rabbit:Transport"
# Flower and the logs show a connection as the URL that kombu makes of it: it should say redis://, not our class.
resolve_aliases.update({TRANSPORT: "redis", RABBIT_TRANSPORT: "amqp"})

#: The queue of the work that is no tier's: plans, sweeps, reconciliation. Its name follows the namespace.
COORDINATOR = "coordinator"
#: Longest that a worker's loop stands still for Redis, which has that long to take a connection or to answer a command. Well
#: below the age from which on a loop counts as hanging, as some of them come in a row before it connects anew.
SOCKET_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """Where the queues are and how long things live."""

    #: redis:// (or amqp:// for RabbitMQ) URL of the broker.
    broker_url: str
    #: redis:// URL for results and chord counts.
    store_url: str
    #: Prefix of every key and exchange of ours.
    namespace: str = "tierfleet"
    #: Seconds after which the messages of a worker that died are delivered again. Running messages are renewed four
    #: times as often, so this need not exceed the longest task.
    visibility_timeout: float = 60.0
    #: Seconds between looks for such messages.
    restore_interval: float = 2.0
    #: Seconds for which results and chord counts are kept: at least as long as a job may take.
    result_expires: int = 7 * 24 * 3600


def coordinator_queue(settings: QueueSettings) -> str:
    """The name of the coordinator's queue."""
    return f"{settings.namespace}.{COORDINATOR}"


def build_app(settings: QueueSettings, tiers: Iterable[Tier]) -> Celery:
    """A Celery app for workers and producers alike."""
    exchange = Exchange(settings.namespace, type="direct")
    names = [*(tier.queue for tier in tiers), coordinator_queue(settings)]
    on_redis = settings.broker_url.startswith(("redis://", "rediss://"))
    app = Celery(settings.namespace, set_as_current=False)
    app.events.dispatcher_cls = "queues.events:Dispatcher"
    app.conf.update(
        broker_url=settings.broker_url,
        result_backend=f"queues.backend.LinkBackend+{settings.store_url}",
        # One queue per tier, and a typing error in a queue's name is an error, not a queue that nobody reads.
        task_queues=[
            Queue(name, exchange, routing_key=name, queue_arguments=None if on_redis else QUEUE_ARGUMENTS)
            for name in names
        ],
        task_create_missing_queues=False,
        task_default_queue=coordinator_queue(settings),
        task_default_exchange=settings.namespace,
        task_default_routing_key=coordinator_queue(settings),
        # Ours: one process, many calls in flight; a reconnect that keeps what is running.
        worker_pool="queues.pool:AsyncioPool",
        worker_consumer="queues.consumer:Consumer",
        # A message counts as done when its task is: whatever kills a worker, the message comes back. Failures and time
        # limits are ends too, because what is left to do is decided by the store, not by the broker.
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        # Redis has no delivery count, so a task that kills its worker would come back for ever. In our pool a worker is
        # lost only with its whole process, and then the visibility timeout brings the message back.
        task_reject_on_worker_lost=False,
        # As many messages as slots: what waits, waits in the broker where any worker can take it.
        worker_prefetch_multiplier=1,
        # After a reconnect the running messages are taken over and count as ever.
        worker_enable_prefetch_count_reduction=False,
        # They go on when the connection breaks (see queues.consumer), and model calls have been paid for.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        # Some minutes; then the process ends and its supervisor decides.
        broker_connection_max_retries=300,
        # Results are in our store. Chord parts are counted all the same.
        task_ignore_result=True,
        result_expires=settings.result_expires,
        result_chord_expires=settings.result_expires,
        # A worker killed between "stored SUCCESS" and "counted the chord part" would leave a redelivery that is skipped
        # without counting, and the chord would never fire.
        worker_deduplicate_successful_tasks=False,
        # Whoever can write to a queue must not be able to make us unpickle.
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        enable_utc=True,
        # Flower and the exporters live on the workers' events; that a message was sent the store knows, and an event for it
        # costs as much as the message. Events of others' apps on this broker stay apart.
        worker_send_task_events=True,
        task_send_sent_event=False,
        event_queue_prefix=f"{settings.namespace}.events",
        event_exchange=f"{settings.namespace}.events",
        control_exchange=f"{settings.namespace}.control",
        # The process that imports us owns its logging.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # Limits are a fleet's (queues.limits); Celery's are a process's.
        worker_disable_rate_limits=True,
    )
    if on_redis:
        app.conf.update(
            broker_transport=TRANSPORT,
            broker_transport_options={
                "visibility_timeout": settings.visibility_timeout,
                "unacked_restore_interval": settings.restore_interval,
                "unacked_restore_throttle": 1,
                "unacked_key": f"{settings.namespace}.unacked",
                "unacked_index_key": f"{settings.namespace}.unacked_index",
                "unacked_mutex_key": f"{settings.namespace}.unacked_mutex",
                # We use one queue per tier; fairness is decided before a message is sent.
                "priority_steps": [0],
                # What kombu sends itself, it sends from the worker's loop: a broker that hangs must not stop that for long.
                "socket_timeout": SOCKET_S,
                "socket_connect_timeout": SOCKET_S,
                "socket_keepalive": True,
            },
        )
    else:
        app.conf.update(
            broker_transport=RABBIT_TRANSPORT,
            broker_transport_options=transport_options(),
            broker_heartbeat=HEARTBEAT_S,
            # The certificate must be of the host in the URL; py-amqp looks at the name only when it is told one.
            broker_use_ssl={"server_hostname": None} if settings.broker_url.startswith("amqps://") else None,
            # What Celery sends by itself are bodies of gates, from the worker's loop: once more where a connection had broken
            # meanwhile, and then the reconciler sends them.
            task_publish_retry_policy={
                "max_retries": 1,
                "interval_start": 0,
                "interval_step": 0.1,
                "interval_max": 0.1,
            },
            # A worker that comes back before its broken connection is forgotten would find an exclusive queue locked.
            control_queue_exclusive=False,
            control_queue_durable=True,
        )
    return app
