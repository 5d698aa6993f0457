"""The instruments of the API process: requests by how they were answered, and how soon.

An ASGI wrapper around the application. Its labels are the classes of HTTP statuses and the paths of our own routes as they are
declared, never a path that somebody asked for.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLASSES = ("2xx", "3xx", "4xx", "5xx")
#: The label of what has no route.
NO_ROUTE = "none"
#: Upper bounds in seconds.
ANSWER_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Traffic:
    """The instruments; `around` makes the wrapper."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tierfleet_http_requests",
            "Requests to the API by the class of the status that they were answered with.",
            ["status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "tierfleet_http_answer_seconds",
            "Seconds from a request to the API to the beginning of its answer, by route.",
            ["route"],
            buckets=ANSWER_S,
            registry=self.registry,
        )
        for name in CLASSES:
            self._requests.labels(name)
        self._seconds.labels(NO_ROUTE)

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app` with its requests counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began = time.perf_counter()
            answered = False

            async def answer(message: Message) -> None:
                nonlocal answered
                if message["type"] == "http.response.start":
                    answered = True
                    self._answered(scope, message["status"], time.perf_counter() - began)
                await send(message)

            try:
                await app(scope, receive, answer)
            except Exception:
                if not answered:  # whoever is around us answers with a 500
                    self._answered(scope, 500, time.perf_counter() - began)
                raise

        return counted

    def _answered(self, scope: Scope, status: int, seconds: float) -> None:
        name = f"{status // 100}xx"
        if name in CLASSES:
            self._requests.labels(name).inc()
        self._seconds.labels(getattr(scope.get("route"), "path", None) or NO_ROUTE).observe(seconds)
