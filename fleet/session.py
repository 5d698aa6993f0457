"""One command's connection to a fleet: the one at FLEET_REDIS_URL, the one that runs in this folder, or one of its own.

It owns which fleet a command talks to and how a job is followed to its end on a screen; the commands say what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from rich.console import Console

from fleet.client import FleetClient
from fleet.config import Environment
from fleet.display import clean
from fleet.embedded import EmbeddedFleet, running_in
from fleet.errors import FleetError
from fleet.jobs import JobStatus, Outcome
from fleet.ledger import LedgerEntry
from fleet.packing import terminal_steps
from fleet.progress import ProgressView
from fleet.receipt import Receipt
from fleet.recording import recording
from fleet.replay import Replayed
from fleet.results import ResultNotWrittenError, write_books, write_results
from fleet.runtime import Runtime
from fleet.store import Job
from queues.link import LinkError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

SUPERVISE_S = 1.0
MOST_COMPLAINTS = 30


class Interrupted(FleetError):
    """The user stopped the command; the job is kept."""


def environment_here() -> Environment:
    """The environment, joined to the fleet that runs in this folder where FLEET_REDIS_URL is not set."""
    environment = Environment()
    if environment.fleet_redis_url is None and (variables := running_in(environment.fleet_state)) is not None:
        return environment.model_copy(
            update={
                "fleet_redis_url": variables["FLEET_REDIS_URL"],
                "fleet_broker_url": variables.get("FLEET_BROKER_URL"),
                "fleet_blobs": Path(variables["FLEET_BLOBS"]),
                "fleet_config": Path(variables["FLEET_CONFIG"]),
                "fleet_sim_url": variables.get("FLEET_SIM_URL"),
            }
        )
    return environment


@contextlib.contextmanager
def fleet_for_a_job(console: Console) -> Iterator[tuple[Environment, EmbeddedFleet | None]]:
    """A fleet that can run a job: one that is there, else an embedded one for as long as the block runs."""
    environment = environment_here()
    if environment.fleet_redis_url is not None:
        yield environment, None
        return
    fleet = EmbeddedFleet(environment)
    with console.status("starting the fleet") as status:
        fleet.start(lambda name: status.update(f"starting {name}"))
    processes = ", ".join(f"{name} ({pid})" for name, pid in fleet.pids().items())
    console.print(f"fleet started: {processes}", soft_wrap=True)
    try:
        yield fleet.environment, fleet
    finally:
        with console.status("draining the fleet"):
            fleet.stop()


def ask(environment: Environment, question: Callable[[FleetClient], Awaitable[T]]) -> T:
    """Ask the fleet of `environment` one question, on a connection of its own."""

    async def asked() -> T:
        runtime = Runtime.from_environment(environment)
        try:
            async with recording(environment, "cli"):
                return await question(FleetClient(runtime))
        finally:
            await runtime.aclose()

    return asyncio.run(asked())


def page_of(environment: Environment, job_id: str) -> str | None:
    """The address of a job's page: at FLEET_API_URL, or at the fleet that runs in this folder; None where neither is."""
    found = running_in(environment.fleet_state) or {}
    here = found.get("api") if found.get("FLEET_REDIS_URL") == environment.fleet_redis_url else None
    url = environment.fleet_api_url or here
    return None if url is None else f"{url.rstrip('/')}/jobs/{job_id}"


async def follow(client: FleetClient, job_id: str, console: Console, fleet: EmbeddedFleet | None) -> None:
    """Show a job's progress until its end.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the job goes on if its fleet does.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    supervising = asyncio.create_task(_supervise(fleet)) if fleet is not None else None
    try:
        with ProgressView(console) as view:
            async with contextlib.aclosing(_until(stopped, client.follow(job_id))) as updates:
                async for progress in updates:
                    view.update(progress)
                    if supervising is not None and supervising.done():
                        supervising.result()
    except LinkError as error:
        raise FleetError(f"{error} The job {job_id} is kept: `fleet up` goes on with it.") from error
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        if supervising is not None:
            supervising.cancel()
    if stopped.is_set():
        raise Interrupted(
            f"Stopped before the end. The job {job_id} and all that was paid for are kept: "
            f"`fleet up` goes on with it, `fleet jobs watch {job_id}` shows it."
        )


async def _supervise(fleet: EmbeddedFleet) -> None:
    """Start again what ends by itself, while a job is followed."""
    while True:
        await asyncio.sleep(SUPERVISE_S)
        fleet.supervise()


async def finished(
    client: FleetClient, job_id: str, out: Path | None, charges: Path | None
) -> tuple[JobStatus, str | None, Receipt, list[Path]]:
    """A job that has ended: its status, error and receipt, and the files written below `out`."""
    job = await client.job(job_id)
    receipt = await client.receipt(job)
    written: list[Path] = []
    if out is not None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ledger = await _kept(client.ledger(job), folder / "ledger", LedgerEntry)
            books = write_books(out, receipt, ledger, await client.verdicts(job))
            outcomes = await _outcomes(client, job, folder / "outcomes", out)
            written = write_results(
                out,
                spec=job.spec,
                outcomes=outcomes,
                result=result_of(job, outcomes),
                simulated=receipt.simulated,
                charges=_charges_of(job_id, charges, folder),
                skipped=job.items.skipped,
            )
            written += books
    return job.status, job.error, receipt, written


def raise_unless_completed(job_id: str, status: JobStatus, error: str | None) -> None:
    """FleetError that says what became of a job that did not complete, and what to do."""
    if status is JobStatus.PAUSED:
        reason = clean(error) if error else "Somebody asked for it."
        raise FleetError(
            f"The job {job_id} is paused and keeps what it has: {reason} With the fleet running (`fleet up`), "
            f"`fleet jobs resume {job_id}` lets it go on (`--budget USD`: under a new cap)."
        )
    if status is not JobStatus.COMPLETED:
        raise FleetError(f"The job {status}: {clean(error or 'no reason was given')}")


def raise_unless_closed(folder: Path, replayed: Replayed) -> None:
    """FleetError that says where an exported receipt, its ledger and its results do not agree."""
    if replayed.complaints:
        said = "".join(f"\n- {clean(complaint, 300)}" for complaint in replayed.complaints[:MOST_COMPLAINTS])
        left = len(replayed.complaints) - MOST_COMPLAINTS
        raise FleetError(f"The books in {folder} do not agree:{said}" + (f"\n- and {left:,} more" if left > 0 else ""))


class Lines(Iterable[M]):
    """Models kept in a file, a line each: as many as there are, however little memory there is."""

    def __init__(self, path: Path, model: type[M]) -> None:
        self._path = path
        self._model = model

    def __iter__(self) -> Iterator[M]:
        with self._path.open("rb") as lines:
            for line in lines:
                yield self._model.model_validate_json(line)


async def _kept(models: AsyncIterator[M], path: Path, model: type[M]) -> Lines[M]:
    """What comes from the fleet one by one, so that it can be read more than once."""
    with path.open("wb") as lines:
        async for one in models:
            lines.write(one.model_dump_json().encode() + b"\n")
    return Lines(path, model)


async def _outcomes(client: FleetClient, job: Job, path: Path, out: Path) -> Lines[Outcome]:
    try:
        return await _kept(client.outcomes(job), path, Outcome)
    except PydanticSerializationError as error:  # of an answer that was accepted when none was too deep
        raise ResultNotWrittenError(
            f"The job ended and its receipt and ledger are in {out}, but not its results: an answer is nested too deep to be "
            "written."
        ) from error


def result_of(job: Job, outcomes: Iterable[Outcome]) -> Any:
    """The reviewed text with the gaps it names; without a review the accepted outputs of the steps that no other needs."""
    if job.result is None:
        last = terminal_steps([(step.id, step.needs) for step in job.steps])
        return [outcome.output for outcome in outcomes if outcome.status == "ok" and outcome.step in last] or None
    gaps = "".join(f"\n- {gap}" for gap in job.result["gaps"])
    return job.result["text"] + (f"\n\n## Gaps\n{gaps}\n" if gaps else "")


def _charges_of(job_id: str, charges: Path | None, folder: Path) -> Path | None:
    """The lines of the simulated provider's charge log that are this job's, as a file of their own."""
    if charges is None or not charges.exists():
        return None
    own = folder / "charges.jsonl"
    with charges.open() as lines, own.open("w") as written:
        written.writelines(line for line in lines if str(json.loads(line)["call_id"]).startswith(f"{job_id}/"))
    return own


async def _until(stopped: asyncio.Event, updates: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """`updates`, ended early by `stopped`."""
    waiting = asyncio.ensure_future(stopped.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(updates))
            await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following
                return
            try:
                yield following.result()
            except StopAsyncIteration:
                return
    finally:
        waiting.cancel()
