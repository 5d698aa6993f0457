"""A fleet from afar: jobs over its HTTP API, for programs that wait (`Client`) and for those with a loop (`AsyncClient`).

    from fleet import Client

    with Client() as client:                       # FLEET_API_URL and FLEET_API_KEY, or the fleet of this folder
        job = client.submit("triage.yaml")         # or a mapping of the same form
        for event in job.events(): ...
        job.wait(); job.results(); job.receipt
        client.map(["a", "b"], "Topic of {{ item }}?", schema=Topic)

Everything is written once, as coroutines (`client`), over something that sends and waits (`pools`). The pool of the blocking
face never suspends them, so running one is a single step of it (`blocking`): no thread, no second loop, no second body, and
its methods have the types that the coroutines return. `fleet.client` is the other client, of processes that reach the store.
"""

from fleet.remote.blocking import Client, Job
from fleet.remote.client import AsyncClient, AsyncJob
from fleet.remote.events import Event

__all__ = ["AsyncClient", "AsyncJob", "Client", "Event", "Job"]
