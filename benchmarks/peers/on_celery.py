"""Celery as it comes: `celery -A benchmarks.peers.on_celery worker`; `python -m benchmarks.peers.on_celery N` enqueues."""

from __future__ import annotations

import sys

from celery import Celery

from benchmarks.peers.call import REDIS, call_sync

app = Celery("peer", broker=REDIS, set_as_current=False)
app.conf.update(task_ignore_result=True, task_default_queue="peer", broker_connection_retry_on_startup=True)


@app.task(name="peer.call")
def call_model() -> int:
    return call_sync()


if __name__ == "__main__":
    with app.producer_or_acquire() as producer:
        for _ in range(int(sys.argv[1])):
            app.send_task("peer.call", producer=producer)
