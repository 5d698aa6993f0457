"""Spans: ids that everybody can derive, trees that go out whole, and nothing at all where nobody records."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import traces
from fleet.api.observed import caller_of
from fleet.config import Environment
from fleet.errors import BadInputError
from fleet.recording import Recording
from fleet.traces import Span, flat, root_of

JOB = "j0199c2f4a11d03be7"
CALLER = (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def recorded() -> Iterator[list[Span]]:
    """The trees that were recorded while the test runs."""
    found: list[Span] = []
    traces.record_with(found.append)
    yield found
    traces.record_with(None)


@given(st.text(min_size=1))
def test_the_ids_of_a_job_are_the_same_everywhere_and_valid(job: str) -> None:
    trace, span = root_of(job)
    assert (trace, span) == root_of(job)
    assert 0 < trace < 2**128
    assert 0 < span < 2**64


def test_where_nobody_records_a_block_is_just_a_block() -> None:
    with traces.claimed("subtask", f"{JOB}/a/0", "nano") as span, traces.inside("check") as inner:
        span.note(anything=1)
        span.end_as("failed")
        assert span is inner
    traces.accepted(JOB, 0)
    assert not traces.recording()


def test_what_is_done_under_a_claim_goes_out_as_one_tree_below_the_root(recorded: list[Span]) -> None:
    with traces.claimed("subtask", f"{JOB}/a/0", "nano") as span:
        with traces.inside("chat m", kind="client"):
            assert recorded == [], "nothing goes out before its parent"
        span.end_as("ok")
    (tree,) = recorded
    outer, inner = flat(tree)
    assert (outer.trace, outer.parent) == root_of(JOB)
    assert (inner.trace, inner.parent) == (outer.trace, outer.id)
    assert outer.began_ns <= inner.began_ns <= inner.ended_ns <= outer.ended_ns
    assert outer.attributes == {
        "tierfleet.job": JOB,
        "tierfleet.subtask": f"{JOB}/a/0",
        "tierfleet.tier": "nano",
        "tierfleet.status": "ok",
    }
    assert outer.error is None


def test_an_error_is_told_by_its_kind_or_class_and_one_that_was_to_be_expected_is_none(recorded: list[Span]) -> None:
    with pytest.raises(ValueError, match="quoted"), traces.claimed("subtask", f"{JOB}/a/0", "nano", LookupError):
        raise ValueError("quoted")
    with pytest.raises(LookupError), traces.claimed("subtask", f"{JOB}/a/1", "nano", LookupError):
        raise KeyError("a")
    failed, handed_on = recorded
    assert failed.error == "ValueError"
    assert "quoted" not in str(failed)
    assert (handed_on.error, handed_on.attributes["tierfleet.status"]) == (None, "handed on")


def test_the_request_that_is_accepted_is_the_root_and_links_to_its_caller(recorded: list[Span]) -> None:
    with traces.request("POST", CALLER):
        with traces.inside("read"):
            pass
        traces.accepted(JOB, 0)
    (root,) = recorded
    assert ((root.trace, root.id), root.parent, root.link) == (root_of(JOB), None, CALLER)
    assert [span.trace for span in flat(root)] == [root.trace] * 2


def test_a_request_without_a_job_belongs_to_its_caller_or_to_nobody(recorded: list[Span]) -> None:
    with traces.request("GET", CALLER):
        pass
    with traces.request("GET", None):
        pass
    of_caller, own = recorded
    assert (of_caller.trace, of_caller.parent, of_caller.link) == (*CALLER, None)
    assert own.parent is None
    assert own.trace not in (0, of_caller.trace)


def test_a_job_that_no_request_brought_has_a_root_too(recorded: list[Span]) -> None:
    traces.accepted(JOB, 17)
    (root,) = recorded
    assert (root.name, (root.trace, root.id), root.parent, root.began_ns) == ("submit", root_of(JOB), None, 17)


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        (TRACEPARENT, CALLER),
        (TRACEPARENT.replace(b"00-", b"cc-", 1) + b"-of-a-later-version", CALLER),
        (TRACEPARENT.upper(), None),
        (TRACEPARENT.replace(b"00-", b"ff-", 1), None),
        (b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", None),
        (TRACEPARENT.replace(b"b7ad6b7169203331", b"0" * 16), None),
        (b"00-\xff" + TRACEPARENT[4:], None),
        (b"", None),
    ],
)
def test_a_caller_is_believed_in_the_form_of_the_standard(header: bytes, caller: Any) -> None:
    assert caller_of({"headers": [(b"accept", b"*/*"), (b"traceparent", header)]}) == caller
    assert caller_of({"headers": []}) is None


def test_without_a_collector_nothing_that_traces_is_imported() -> None:
    """Of OpenTelemetry there is what redis-py and FastAPI import by themselves, and none of it does anything."""
    look = (
        "import sys\nimport fleet.worker, fleet.api.server, fleet.cli\nfrom fleet.config import Environment\n"
        "from fleet.recording import Recording\nRecording(Environment(), 'x')\n"
        "names = ('fleet.otlp', 'opentelemetry.exporter', 'opentelemetry.sdk.trace')\n"
        "print([name for name in sys.modules if name.startswith(names)])"
    )
    root = Path(__file__).resolve().parents[2]
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(root),
        "FLEET_REDIS_URL": "redis://127.0.0.1:1/0",
        "FLEET_CONFIG": str(root / "config" / "fleet.yaml"),
    }
    found = subprocess.run([sys.executable, "-c", look], env=variables, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "[]", found.stderr


def test_variables_that_the_sdk_refuses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(BadInputError, match="OTEL_ cannot be used"):
        Recording(Environment(otel_exporter_otlp_endpoint="http://127.0.0.1:1"), "test")
    assert not traces.recording()
