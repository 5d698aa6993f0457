"""What the parts of one process share: configuration, store, job documents, blobs, shards and the door to the models."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.archive import Archive
from fleet.blobs import Blobs
from fleet.config import FleetConfig
from fleet.executor import Executor
from fleet.rounds import Rounds
from fleet.store import JobStore
from queues.claims import Claims
from queues.store import Store


@dataclass(frozen=True, slots=True)
class Context:
    config: FleetConfig
    store: Store
    jobs: JobStore
    blobs: Blobs
    rounds: Rounds
    archive: Archive
    executor: Executor
    claims: Claims
