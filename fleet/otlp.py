"""Sends spans by OTLP over HTTP with OpenTelemetry's SDK. Importing it imports that: see `fleet.recording` for when.

The SDK's own variables hold: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`
(by the job's trace id, so every process keeps or drops the same jobs), `OTEL_BSP_*`. Spans go out from a thread of the SDK's
through a bounded queue: a collector that is slow or away costs spans and nothing else.

It owns the translation of `fleet.traces.Span`. The SDK's tracers are not used: they would make ids of their own.
"""

from __future__ import annotations

import threading

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from fleet.traces import Span, flat

#: Longest that the end of a process waits for its last spans to go out.
CLOSE_S = 2.0
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
FINE, FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class Exporter:
    """Sends the spans of one process."""

    def __init__(self, service: str) -> None:
        """`service`: its name where the environment gives none."""
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        self._resource = resource
        # What the environment says of sampling is read by the SDK's provider.
        self._sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
        self._scope = InstrumentationScope("tierfleet")
        self._batches = BatchSpanProcessor(OTLPSpanExporter())

    def record(self, span: Span) -> None:
        """Have a span and all within it sent; never waits."""
        decision = self._sampler.should_sample(None, span.trace, span.name).decision
        if decision is Decision.RECORD_AND_SAMPLE:
            for one in flat(span):
                self._batches.on_end(self._readable(one))

    def close(self) -> None:
        """Send what is left, for at most `CLOSE_S`; blocks so long."""
        # The SDK's own end has no bound that could be set.
        last = threading.Thread(target=self._batches.shutdown, daemon=True)
        last.start()
        last.join(CLOSE_S)

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=SpanContext(span.trace, span.id, is_remote=False, trace_flags=SAMPLED),
            parent=None if span.parent is None else _elsewhere(span.trace, span.parent),
            resource=self._resource,
            attributes=span.attributes if span.error is None else {**span.attributes, "error.type": span.error},
            links=() if span.link is None else (Link(_elsewhere(*span.link)),),
            kind=SpanKind[span.kind.upper()],
            status=FINE if span.error is None else FAILED,
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=self._scope,
        )


def _elsewhere(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=True, trace_flags=SAMPLED)
