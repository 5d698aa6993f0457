"""The instruments of one worker process: what it waited for, called, spent and ended, counted as it happens.

It owns a registry of its own, never prometheus-client's global one, and every series from the start: a counter that appears
late hides its first step. It is told names and numbers and keeps no id and no text; a name that the configuration does not
have, as in the books of an earlier one, counts as `other`. Who tells it what is for `fleet.measured` to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fleet.config import FleetConfig
from fleet.errors import ProviderErrorKind
from fleet.prices import NANO_PER_USD

OTHER = "other"
#: What becomes of a call: its answer passed its check or did not, the vendor gave none and why, or nobody saw its end.
OUTCOMES = ("ok", "rejected", *get_args(ProviderErrorKind), "worker_lost", "internal")
#: What becomes of a subtask, and why a permit was not given: the wait would have been too long, the vendor has an outage, the
#: call is larger than a limit.
ENDS = ("ok", "failed", "skipped")
REFUSALS = ("late", "outage", "too_large")
TOKENS = ("input", "cached_input", "output")
#: Upper bounds in seconds: of waits in the backlog, of calls, of waits for a permit.
READY_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 14_400)
CALL_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1_800)
PERMIT_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 75)


T = TypeVar("T")


class Children(dict[str | tuple[str, ...], T]):
    """The series of an instrument by the values of its labels; once made, found without the library's checks and lock."""

    def __init__(self, labels: Callable[..., T]) -> None:
        """`labels`: the instrument's method."""
        super().__init__()
        self._labels = labels

    def __missing__(self, key: str | tuple[str, ...]) -> T:
        child = self[key] = self._labels(*((key,) if isinstance(key, str) else key))
        return child


class Meter:
    """The instruments, by what is told of: subtasks and their calls by tier, calls and permits by model."""

    def __init__(self, config: FleetConfig, tiers: Iterable[str]) -> None:
        """`tiers`: those that work is done on, with the coordinator's."""
        # Else there is a second series for each, of use to no Prometheus.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._tiers = frozenset(tiers)
        self._models = frozenset(name for tier in config.tiers for name in config.models_of(tier))

        def counter(name: str, text: str, *labels: str) -> Children[Counter]:
            return Children(Counter(name, text, labels, registry=registry).labels)

        def gauge(name: str, text: str, *labels: str) -> Children[Gauge]:
            return Children(Gauge(name, text, labels, registry=registry).labels)

        def histogram(name: str, text: str, label: str, bounds: Sequence[float]) -> Children[Histogram]:
            return Children(Histogram(name, text, [label], buckets=bounds, registry=registry).labels)

        self._ready = histogram(
            "tierfleet_ready_to_start_seconds",
            "Seconds from when a subtask had nothing left to wait for until a worker began with it.",
            "tier",
            READY_S,
        )
        self._subtasks = counter(
            "tierfleet_subtasks",
            "Subtasks of plans that ended, by how; one that a review sent back ends again.",
            "tier",
            "outcome",
        )
        self._escalations = counter(
            "tierfleet_escalations",
            "Subtasks handed on to a dearer tier, by the tier whose answer did not pass its check.",
            "tier",
        )
        self._calls = counter(
            "tierfleet_calls",
            "Calls to models as the ledger books them, by what became of them: ok, rejected (the answer did not pass its "
            "check), the kind of the vendor's error, worker_lost (nobody saw the end) or internal.",
            "tier",
            "model",
            "outcome",
        )
        self._tokens = counter(
            "tierfleet_tokens",
            "Tokens as the ledger books them: input that was not cached, cached_input, output.",
            "tier",
            "kind",
        )
        self._dollars = counter(
            "tierfleet_spent_dollars",
            "US dollars as the ledger books them; a call that may have been billed, of unknown usage, counts at its worst.",
            "tier",
        )
        self._seconds = histogram(
            "tierfleet_call_seconds",
            "Seconds from sending a call to the end of its answer; calls without an answer are not in it.",
            "model",
            CALL_S,
        )
        self._in_flight = gauge("tierfleet_calls_in_flight", "Calls of this process that are under way.", "model")
        self._permit = histogram(
            "tierfleet_permit_wait_seconds",
            "Seconds that a call waited for its permit, which the limits of its account give out.",
            "model",
            PERMIT_S,
        )
        self._waiting = gauge("tierfleet_permits_waiting", "Calls of this process that wait for a permit.", "model")
        self._refused = counter(
            "tierfleet_permits_refused",
            "Calls without a permit: late (not in time), outage (of the vendor), too_large (over the limit of a minute).",
            "model",
            "reason",
        )
        self._begin(config)

    def started(self, tier: str, waited_s: float) -> None:
        """A worker began with a subtask that had been ready for so long."""
        self._ready[self._tier(tier)].observe(waited_s)

    def ended(self, tier: str, outcome: str) -> None:
        """A subtask of a plan ended; `outcome` is one of `ENDS`."""
        self._subtasks[self._tier(tier), outcome].inc()

    def escalated(self, tier: str) -> None:
        """A subtask goes on to a dearer tier than this."""
        self._escalations[self._tier(tier)].inc()

    def booked(
        self, tier: str, model: str, outcome: str, *, uncached: int, cached: int, output: int, nano_usd: int
    ) -> None:
        """A call was booked: what became of it (of `OUTCOMES`, anything else counts as internal), its tokens and its cost."""
        tier = self._tier(tier)
        outcome = outcome if outcome in OUTCOMES else "internal"
        self._calls[tier, self.model(model), outcome].inc()
        for kind, tokens in zip(TOKENS, (uncached, cached, output), strict=True):
            if tokens > 0:
                self._tokens[tier, kind].inc(tokens)
        self._dollars[tier].inc(nano_usd / NANO_PER_USD)

    def call_began(self, model: str) -> None:
        """`call_ended` has to follow."""
        self._in_flight[self.model(model)].inc()

    def call_ended(self, model: str, answered_s: float | None) -> None:
        """A call came to its end; with an answer after so many seconds, or without one."""
        self._in_flight[self.model(model)].dec()
        if answered_s is not None:
            self._seconds[self.model(model)].observe(answered_s)

    def permit_asked(self, model: str) -> None:
        """`permit_came` or `permit_failed` has to follow."""
        self._waiting[self.model(model)].inc()

    def permit_came(self, model: str, waited_s: float) -> None:
        self._waiting[self.model(model)].dec()
        self._permit[self.model(model)].observe(waited_s)

    def permit_failed(self, model: str, reason: str | None) -> None:
        """There is none, for one of `REFUSALS`; None: whoever asked was ended, or the store did not answer."""
        self._waiting[self.model(model)].dec()
        if reason is not None:
            self._refused[self.model(model), reason].inc()

    def model(self, name: str) -> str:
        """The label of a model."""
        return name if name in self._models else OTHER

    def _tier(self, name: str) -> str:
        return name if name in self._tiers else OTHER

    def _begin(self, config: FleetConfig) -> None:
        """Every series at nothing: to ask for one makes it."""
        for tier in sorted(self._tiers):
            self._ready[tier]
        for tier in config.tiers:
            for by_tier in (self._escalations, self._dollars):
                by_tier[tier]
            for end in ENDS:
                self._subtasks[tier, end]
            for kind in TOKENS:
                self._tokens[tier, kind]
            for model in config.models_of(tier):
                for outcome in OUTCOMES:
                    self._calls[tier, model, outcome]
        for model in sorted(self._models):
            for by_model in (self._seconds, self._in_flight, self._permit, self._waiting):
                by_model[model]
            for reason in REFUSALS:
                self._refused[model, reason]
