"""What the parts of one process share: configuration, store, job documents, blobs, gates and the door to the models."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.blobs import Blobs
from fleet.config import FleetConfig
from fleet.executor import Executor
from fleet.store import JobStore
from queues.claims import Claims
from queues.gate import Gates
from queues.store import Store


@dataclass(frozen=True, slots=True)
class Context:
    config: FleetConfig
    store: Store
    jobs: JobStore
    blobs: Blobs
    gates: Gates
    executor: Executor
    claims: Claims
