"""An OTLP/HTTP collector on loopback that keeps the spans it is sent, decoded with OpenTelemetry's own protocol classes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """One span, as it came; ids in hex, no parent is an empty one."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    failed: bool
    links: tuple[tuple[str, str], ...]
    began_ns: int
    ended_ns: int
    #: All of it as text.
    text: str


@dataclass
class Collector:
    """Spans in the order in which they came."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)

    def of(self, trace: int) -> list[Seen]:
        """The spans of one trace."""
        return [span for span in self.spans if int(span.trace, 16) == trace]

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            of_process = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [
                    Seen(
                        str(of_process["service.name"]),
                        span.name,
                        span.kind,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        _values(span.attributes),
                        span.status.code == 2,
                        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        f"{of_process} {span}",
                    )
                    for span in scope.spans
                ]


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector until the block ends; `url` is its OTEL_EXPORTER_OTLP_ENDPOINT."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                collector.take(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def check_tree(spans: list[Seen]) -> Seen:
    """The root of a trace, once it is a tree: one root, every parent among the spans, no id twice."""
    ids = [span.id for span in spans]
    assert len(ids) == len(set(ids)), "an id stands for two spans"
    roots = [span for span in spans if not span.parent]
    assert len(roots) == 1, f"roots: {[span.name for span in roots]}"
    orphans = [span.name for span in spans if span.parent and span.parent not in ids]
    assert not orphans, f"orphans: {orphans}"
    return roots[0]


def _values(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found
