"""How KEDA and the Horizontal Pod Autoscaler set the replicas of one Deployment, as far as a metric of it decides: a small model.

It follows Kubernetes' controller for a metric of type External with an AverageValue (pkg/controller/podautoscaler:
`GetExternalPerPodMetricReplicas` in replica_calculator.go, `stabilizeRecommendationWithBehaviors` and
`convertDesiredReplicasWithBehaviorRate` in horizontal.go) and KEDA's executor between none and one
(pkg/scaling/executor/scale_scaledobjects.go: `RequestScale`). It knows values and moments; of pods it knows their number.
Left out: metrics that fail, more than one metric, a select policy other than Max, pausing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

#: `--horizontal-pod-autoscaler-sync-period` and `--horizontal-pod-autoscaler-tolerance` of the controller manager.
SYNC_S, TOLERANCE = 15.0, 0.1


@dataclass(frozen=True)
class Policy:
    """So many pods, or so much of what there were, may be added or removed within a period."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: float

    def most(self, before: int) -> int:
        """Replicas up to which it lets `before` grow. A percentage is rounded up, or one pod would never grow."""
        return before + self.value if self.kind == "Pods" else math.ceil(before * (1 + self.value / 100))

    def least(self, before: int) -> int:
        """Replicas down to which it lets `before` shrink."""
        return before - self.value if self.kind == "Pods" else int(before * (1 - self.value / 100))


@dataclass(frozen=True)
class ScaledObject:
    """The fields of a KEDA ScaledObject with one trigger; the defaults are KEDA's and Kubernetes'."""

    #: `targetValue` of metrics-api, `listLength` of redis: what one pod is to have of the metric.
    target: float
    max_replicas: int = 100
    min_replicas: int = 0
    polling_s: float = 30
    cooldown_s: float = 300
    #: The metric over which there is to be one pod at least.
    activation: float = 0
    up_window_s: float = 0
    down_window_s: float = 300
    up: tuple[Policy, ...] = (Policy("Percent", 100, 15), Policy("Pods", 4, 15))
    down: tuple[Policy, ...] = (Policy("Percent", 100, 15),)


class Autoscaler:
    """One ScaledObject and the HPA that KEDA makes of it. `replicas` is what the Deployment is told to have."""

    def __init__(self, scaled: ScaledObject) -> None:
        self._scaled = scaled
        self.replicas = scaled.min_replicas
        self._active_at: float | None = None
        #: (moment, recommendation) and (moment, pods added or removed).
        self._recommended: list[tuple[float, int]] = []
        self._added: list[tuple[float, int]] = []
        self._removed: list[tuple[float, int]] = []

    def poll(self, now: float, value: float) -> None:
        """KEDA looks, every `polling_s`: from none to one when there is work, to none when there was none for the cooldown."""
        scaled = self._scaled
        if value > scaled.activation:
            self._active_at = now
            if self.replicas == 0:
                self.replicas = max(1, scaled.min_replicas)
        elif self.replicas > 0 and scaled.min_replicas == 0:
            if self._active_at is None or self._active_at + scaled.cooldown_s < now:
                self.replicas = 0
        else:
            self.replicas = max(self.replicas, scaled.min_replicas)

    def sync(self, now: float, value: float, pods: int) -> None:
        """The HPA looks, every `SYNC_S`; `pods` is the Deployment's status: those that are there and not ending."""
        if self.replicas == 0:
            return  # it is KEDA's turn: an HPA whose target has no replicas does nothing
        desired = self._stabilized(now, self._desired(value, pods))
        if desired > self.replicas:
            desired = self._limited_up(now, desired)
            self._added.append((now, desired - self.replicas))
        elif desired < self.replicas:
            desired = self._limited_down(now, desired)
            self._removed.append((now, self.replicas - desired))
        self.replicas = desired

    def _desired(self, value: float, pods: int) -> int:
        """The controller compares with the limits of the object before and after it stabilizes; the effect is the same."""
        ratio = value / (self._scaled.target * pods) if pods else math.inf
        within = 1 - TOLERANCE <= ratio <= 1 + TOLERANCE
        return self._bounded(pods if within else math.ceil(value / self._scaled.target))

    def _bounded(self, replicas: int) -> int:
        return min(self._scaled.max_replicas, max(1, self._scaled.min_replicas, replicas))

    def _stabilized(self, now: float, desired: int) -> int:
        """Up no further than the least, down no further than the most that was recommended within the windows."""
        scaled = self._scaled
        up = min([desired, *(what for at, what in self._recommended if at > now - scaled.up_window_s)])
        down = max([desired, *(what for at, what in self._recommended if at > now - scaled.down_window_s)])
        longest = max(scaled.up_window_s, scaled.down_window_s)
        self._recommended = [one for one in self._recommended if one[0] > now - longest] + [(now, desired)]
        return min(max(self.replicas, up), down)

    def _limited_up(self, now: float, desired: int) -> int:
        most = max(policy.most(self._before(now, policy.period_s)) for policy in self._scaled.up)
        return min(desired, self._scaled.max_replicas, max(self.replicas, most))

    def _limited_down(self, now: float, desired: int) -> int:
        least = min(policy.least(self._before(now, policy.period_s)) for policy in self._scaled.down)
        return max(desired, self._scaled.min_replicas, 1, min(self.replicas, least))

    def _before(self, now: float, period_s: float) -> int:
        """Replicas at the beginning of a period that ends now."""
        added = sum(pods for at, pods in self._added if at > now - period_s)
        removed = sum(pods for at, pods in self._removed if at > now - period_s)
        return self.replicas - added + removed
