"""What Flower has seen: its memory of tasks, which takes in what is checked, and a file that keeps it over a restart.

The file is JSON, written whole beside the old one and then in its place, and not Flower's own shelve: a pickle runs what
stands in it, and a kill in the middle of putting its files in place costs all of them. What is kept is a view of the last
tasks; the history is the ledger's.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from flower.events import EventsState

from fleet.atomic import TEMPORARY, atomic_writer
from fleet.flower_tasks import Names, checked

logger = logging.getLogger(__name__)

#: Fields of a task that are kept, beside its worker.
KEPT = (
    *("uuid", "name", "state", "received", "started", "succeeded", "failed", "retried"),
    *("args", "result", "exception", "timestamp", "runtime", "clock"),
)


class Memory(EventsState):
    """Flower's memory. Its pages and its metrics are made of it."""

    def __init__(self, names: Names, *, max_tasks: int, max_workers: int) -> None:
        super().__init__(max_tasks_in_memory=max_tasks, max_workers_in_memory=max_workers)
        self._names = names

    def event(self, event: dict[str, Any]) -> None:
        """Take in an event, unless there is nothing to make of it."""
        fit = checked(event, self._names)
        if fit is None:
            return
        super().event(fit)
        if fit["type"] == "task-started":  # it stands for the arrival, too
            self.counter[fit["hostname"]]["task-received"] += 1
            name = self.tasks[fit["uuid"]].name or ""
            self.metrics.number_of_prefetched_tasks.labels(fit["hostname"], name).inc()

    def write(self, path: Path) -> None:
        """Keep what was seen at `path`. Raises OSError: what stood there before still does."""
        tasks = []
        for task in self.tasks.values():
            fields = {name: value for name in KEPT if (value := getattr(task, name)) is not None}
            tasks.append(fields | {"worker": task.worker.hostname if task.worker is not None else None})
        with atomic_writer(path) as file:
            file.write(json.dumps({"counter": self.counter, "tasks": tasks}).encode())

    def read(self, path: Path) -> None:
        """Take in what was kept at `path`; what cannot be read is put aside."""
        for left in path.parent.glob(f"{TEMPORARY}*"):  # by a kill
            left.unlink()
        if not path.exists():
            return
        try:
            kept = json.loads(path.read_bytes())
            for fields in kept["tasks"]:
                self._restore(**fields)
            for worker, numbers in kept["counter"].items():
                self.counter[worker].update({type_: int(number) for type_, number in numbers.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("what Flower had seen cannot be read (%s); it is put aside", type(error).__name__)
            path.replace(path.with_suffix(".corrupt"))
        self.rebuild_taskheap()
        self.search_engine.rebuild(self.tasks.items())

    def _restore(self, *, uuid: str, worker: str | None, **fields: Any) -> None:
        fields["name"] = self._names.known(fields.get("name"))
        task = self.Task(uuid, cluster_state=self, **fields)
        task.worker, _ = self.get_or_create_worker(worker)
        self.tasks[uuid] = task
        self._seen_types.add(task.name)
        self.tasks_by_type[task.name].add(task)
        self.tasks_by_worker[worker].add(task)
