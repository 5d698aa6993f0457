"""What Kubernetes network policies let through, worked out from their manifests.

It owns the meaning of a policy (https://kubernetes.io/docs/concepts/services-networking/network-policies/): a pod that no policy
selects for a direction is open in it; otherwise what one of the policies that select it allows is allowed, and a connection needs
leave at both ends. It sends no packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    """One end: a pod with its labels and those of its namespace, or an address outside the cluster."""

    labels: Labels = field(default_factory=dict)
    namespace: str = "tierfleet"
    namespace_labels: Labels = field(default_factory=dict)
    address: str | None = None


class Policies:
    """The policies of one namespace."""

    def __init__(self, manifests: Iterable[Mapping[str, Any]], namespace: str = "tierfleet") -> None:
        self._namespace = namespace
        self._specs = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]

    def allow(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        """Whether `source` can connect to `target` at a port."""
        return self._leave("Egress", source, target, port, protocol) and self._leave(
            "Ingress", target, source, port, protocol
        )

    def _leave(self, direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
        if pod.address is not None or pod.namespace != self._namespace:
            return True  # others' policies are none of ours
        mine = [spec for spec in self._specs if _selects(spec["podSelector"], pod.labels) and _is_for(spec, direction)]
        if not mine:
            return True
        key, side = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        return any(
            _at_port(rule.get("ports"), port, protocol) and self._fits(rule.get(side), other)
            for spec in mine
            for rule in spec.get(key) or ()
        )

    def _fits(self, peers: Sequence[Mapping[str, Any]] | None, other: Peer) -> bool:
        return not peers or any(self._is(peer, other) for peer in peers)

    def _is(self, peer: Mapping[str, Any], other: Peer) -> bool:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            return (
                other.address is not None
                and _within(block["cidr"], other.address)
                and not any(_within(left_out, other.address) for left_out in block.get("except", ()))
            )
        if other.address is not None:
            return False
        if "namespaceSelector" in peer:
            names = {"kubernetes.io/metadata.name": other.namespace, **other.namespace_labels}
            in_namespace = _selects(peer["namespaceSelector"], names)
        else:
            in_namespace = other.namespace == self._namespace
        return in_namespace and _selects(peer.get("podSelector", {}), other.labels)


def _is_for(spec: Mapping[str, Any], direction: str) -> bool:
    return direction in spec.get("policyTypes", ("Ingress", "Egress") if "egress" in spec else ("Ingress",))


def _within(network: str, address: str) -> bool:
    return ip_address(address) in ip_network(network)


def _at_port(ports: Sequence[Mapping[str, Any]] | None, port: int, protocol: str) -> bool:
    return not ports or any(
        one.get("protocol", "TCP") == protocol and one["port"] <= port <= one.get("endPort", one["port"])
        for one in ports
    )


def _selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for one in selector.get("matchExpressions") or ():
        match one["operator"]:
            case "In":
                fits = labels.get(one["key"]) in one["values"]
            case "NotIn":
                fits = labels.get(one["key"]) not in one["values"]
            case "Exists":
                fits = one["key"] in labels
            case "DoesNotExist":
                fits = one["key"] not in labels
            case operator:
                raise ValueError(f"There is no operator {operator}.")
        if not fits:
            return False
    return True
