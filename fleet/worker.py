"""`celery -A fleet.worker`: one worker process of the fleet, for the tiers whose queues it consumes.

The coordinator is the worker of the queue `coordinator`: beside planning it runs the dispatcher and the reconciler, calls the
webhooks, and shows the whole fleet's metrics with its own.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
from functools import cache
from typing import Any

from celery import signals

from fleet import logs, tasks
from fleet.audit import Audit
from fleet.caps import Caps
from fleet.client import FleetClient
from fleet.config import Environment
from fleet.context import Context
from fleet.duties import Duties
from fleet.errors import BadInputError
from fleet.health import Health
from fleet.intake import INTAKE_TASK, Intake
from fleet.janitor import Janitor
from fleet.keys import Keys
from fleet.metrics_endpoint import MetricsEndpoint
from fleet.outside import Outside
from fleet.recording import Recording
from fleet.relief import Relief
from fleet.runner import Runner
from fleet.runtime import NAMESPACE, Runtime
from fleet.store import COORDINATOR
from fleet.vendor_batches import VendorBatches
from fleet.webhooks import Deliverer
from queues.bridge import background
from queues.claims import Claims
from queues.reconciler import Reconciler

logger = logging.getLogger(__name__)

runtime = Runtime.from_environment(Environment())
app = runtime.app
health = Health(runtime.environment.fleet_health)
_claims: list[Claims] = []
_contexts: list[Context] = []
_instances: list[Any] = []


@cache
def _context() -> Context:
    context = runtime.context(_claims[0])
    context.events.tell = _tell
    _contexts.append(context)
    return context


def _tell(type_: str, **fields: object) -> None:
    """An event of a task, for Flower; while there is no broker there is nobody to be told."""
    dispatcher = getattr(_instances[0].consumer, "event_dispatcher", None)
    if dispatcher is not None:
        dispatcher.send(type_, **fields)


@cache
def _work() -> tuple[Runner, Duties, VendorBatches]:
    return Runner(_context()), Duties(_context()), VendorBatches(_context(), runtime.providers)


def _deliverer() -> Deliverer:
    return Deliverer(runtime.outbox, runtime.jobs, runtime.secrets, Outside(runtime.config.outside.allowed))


tasks.register(app, _work)
tasks.register_intake(
    app, INTAKE_TASK, Intake(FleetClient(runtime), Keys(runtime.link, NAMESPACE), Audit(runtime.link, NAMESPACE)).take
)


@signals.setup_logging.connect(weak=False)
def _logging(**_: Any) -> None:
    """Instead of Celery's own set-up, whoever started this process."""
    logs.set_up(runtime.environment.fleet_log_format)


@signals.worker_ready.connect(weak=False)
def _ready(**_: Any) -> None:
    # In place of Celery's handler, which prints the values of every frame.
    faulthandler.register(signal.SIGUSR1)
    health.ready()
    logger.info("takes work")


@signals.celeryd_after_setup.connect(weak=False)
def _services(instance: Any, **_: Any) -> None:
    """Start what a worker runs beside its tasks."""
    tiers = list(instance.app.amqp.queues.consume_from)
    recording = _begin(tiers)
    background.add(health.beat)
    _instances.append(instance)

    def capacity() -> int:
        pool = getattr(instance, "pool", None)
        return int(pool.num_processes if pool is not None else instance.concurrency)

    claims = runtime.claims(tiers, capacity)
    _claims.append(claims)

    async def live() -> None:
        """Say that this worker lives until the pool has drained; then close what tasks and services shared."""
        try:
            if COORDINATOR in tiers:
                await runtime.simulation.note()
            await claims.keep()
        except asyncio.CancelledError:
            # Not on an error: this is started again then, and everything else still needs what is shared.
            await recording.end()
            await runtime.aclose()
            raise

    background.add(live)

    @signals.worker_shutting_down.connect(weak=False)
    def _drain(**_: Any) -> None:
        # Called inside a signal handler: the loop is told, and gives back what waits as soon as it runs.
        health.ending()
        instance.pool.loop.call_soon_threadsafe(logger.info, "was asked to end: running calls end first")
        instance.pool.loop.call_soon_threadsafe(runtime.store.hurry.set)
        if _contexts:
            instance.pool.loop.call_soon_threadsafe(_contexts[0].executor.draining.set)

    if COORDINATOR in tiers:
        background.add(runtime.dispatcher.run)
        background.add(Reconciler(runtime.store).run)
        background.add(lambda: Janitor(_context()).run())
        background.add(Relief(runtime.quotas, Caps(runtime.config), list(runtime.tiers)).run)
        background.add(lambda: _deliverer().run())
    if (address := runtime.environment.metrics_address) is not None:
        fleets = (runtime.lookout.look, runtime.admissible.routes()) if COORDINATOR in tiers else ()
        background.add(MetricsEndpoint(*address, [runtime.meter.registry], *fleets).serve)


def _begin(tiers: list[str]) -> Recording:
    try:
        health.begin()
        return Recording(runtime.environment, _name(tiers))
    except BadInputError as error:
        # Celery goes on after any other error of a signal's receiver, with half a worker, and tells nobody of this one.
        logger.critical("%s", str(error))
        raise SystemExit(2) from error


def _name(queues: list[str]) -> str:
    """What the process is called elsewhere."""
    return COORDINATOR if COORDINATOR in queues else "-".join(("worker", *sorted(queues)))
