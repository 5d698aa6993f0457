"""Who reaches whom, by the network policies of k8s/: every pair at every port, what is outside, and that a hole would be seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from fleet.addresses import is_inside
from tests.support.manifests import TIERS, Manifests, combinations, fleet_of, labels_of, pod_of
from tests.support.network_policies import Peer, Policies

WORKERS = {f"worker-{tier}" for tier in TIERS}
CALLERS = {"coordinator", *WORKERS}
REACHING = {"api", *CALLERS}
METERED = {"flower", *REACHING}
OF_THE_FLEET = {"cli", *METERED}
#: An address of a vendor, and others that are public.
PUBLIC = ("104.18.7.192", "2606:4700::6812:7c0")
KUBE_DNS = Peer({"k8s-app": "kube-dns"}, "kube-system")
PORTS = (22, 443, 5555, 5672, 6379, 8080, 8765, 9464)

Edge = tuple[str, str, int]


def pods(manifests: Manifests) -> dict[str, Peer]:
    return {one["metadata"]["name"]: Peer(labels_of(one)) for one in manifests.workloads()}


def edges(manifests: Manifests) -> set[Edge]:
    """Every connection between two pods of the fleet that is let through."""
    policies, there = Policies(manifests), pods(manifests)
    return {
        (source, target, port)
        for source, target in itertools.product(there, repeat=2)
        for port in PORTS
        if policies.allow(there[source], there[target], port)
    }


def wanted(components: Iterable[str]) -> Iterator[Edge]:
    """The store and the broker for the fleet's processes, the simulated provider for whoever calls models, and nothing else."""
    for component, callers, port in (("valkey", OF_THE_FLEET, 6379), ("rabbitmq", OF_THE_FLEET, 5672)):
        if component in components:
            yield from ((source, component, port) for source in callers)
    if "simulated" in components:
        yield from ((source, "sim", 8765) for source in CALLERS)


def reached(manifests: Manifests, source: Peer) -> set[tuple[str, int]]:
    policies = Policies(manifests)
    return {
        (name, port) for name, pod in pods(manifests).items() for port in PORTS if policies.allow(source, pod, port)
    }


@pytest.mark.parametrize("components", combinations(), ids=lambda components: "+".join(components) or "none")
def test_within_the_fleet(components: tuple[str, ...]) -> None:
    assert edges(fleet_of(*components)) == set(wanted(components))


def _open_store(manifests: Manifests) -> None:
    manifests.named("NetworkPolicy", "valkey")["spec"]["ingress"][0].pop("from")
    manifests.named("NetworkPolicy", "to-valkey")["spec"]["podSelector"] = {}


def _no_denial(manifests: Manifests) -> None:
    manifests.remove(manifests.named("NetworkPolicy", "default-deny"))


def _neighbours(manifests: Manifests) -> None:
    manifests.append(
        {
            "kind": "NetworkPolicy",
            "metadata": {"name": "hole"},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {}}]}],
                "egress": [{"to": [{"podSelector": {}}]}],
            },
        }
    )


@pytest.mark.parametrize("hole", [_open_store, _no_denial, _neighbours])
def test_a_hole_is_seen(hole: Callable[[Manifests], None]) -> None:
    manifests = fleet_of("valkey", "rabbitmq", "simulated")
    hole(manifests)
    within = edges(manifests) > set(wanted(("valkey", "rabbitmq", "simulated")))
    assert within or reached(manifests, Peer({}, "default"))


@pytest.mark.parametrize("components", combinations(), ids=lambda components: "+".join(components) or "none")
def test_from_other_namespaces(components: tuple[str, ...]) -> None:
    manifests = fleet_of(*components)
    api, flower = {"tierfleet/reaches-api": "true"}, {"tierfleet/reaches-flower": "true"}
    asked = {"keda": {("coordinator", 9464)}, "keda-redis": {("valkey", 6379)} if "valkey" in components else set()}
    metered = {(name, 9464) for name in METERED} if "monitoring" in components else set()
    assert reached(manifests, Peer({}, "default")) == set()
    assert reached(manifests, Peer(labels_of(manifests.named("Deployment", "api")), "default")) == set()
    assert reached(manifests, Peer({}, "ingress", api)) == {("api", 8080)}
    assert reached(manifests, Peer({}, "people", flower)) == {("flower", 5555)}
    assert reached(manifests, Peer({}, "monitoring")) == metered
    assert reached(manifests, Peer({}, "keda")) == set().union(*(asked[one] for one in asked if one in components))


def test_out_of_the_cluster() -> None:
    manifests = fleet_of("valkey", "keda", "monitoring", "rabbitmq", "tracing")
    policies = Policies(manifests)
    for name, pod in pods(manifests).items():
        for address in PUBLIC:
            outside = Peer(address=address)
            assert policies.allow(pod, outside, 443) == (name in REACHING), (name, address)
            assert policies.allow(pod, outside, 8443) == (name in ("api", "coordinator")), (name, address)
        assert policies.allow(pod, KUBE_DNS, 53, "UDP")
        assert policies.allow(pod, KUBE_DNS, 53)
        assert not policies.allow(pod, KUBE_DNS, 9153)
        assert not policies.allow(pod, Peer({}, "kube-system"), 53, "UDP")
        assert policies.allow(pod, Peer({}, "observability"), 4318) == (name in REACHING)


@pytest.mark.parametrize("policy", ["providers", "outside"])
def test_nobody_reaches_an_address_that_the_fleet_calls_inside(policy: str) -> None:
    """The two lists are one: at both edges of every block that is left out, and a step beyond."""
    manifests = fleet_of("valkey", "keda")
    policies, coordinator = Policies(manifests), Peer(labels_of(manifests.named("Deployment", "coordinator")))
    blocks = [one["ipBlock"] for one in manifests.named("NetworkPolicy", policy)["spec"]["egress"][0]["to"]]
    addresses = {"169.254.169.254", "100.100.100.200", "fd00:ec2::254", "::1", "64:ff9b::808:808", *PUBLIC}
    for network in (ip_network(text) for block in blocks for text in (block["cidr"], *block["except"])):
        for edge in (int(network[0]), int(network[-1])):
            for step in (edge - 1, edge, edge + 1):
                if 0 <= step < 2**network.max_prefixlen:
                    addresses.add(str(ip_address(step) if network.version == 4 else ip_address(step.to_bytes(16))))
    for address in sorted(addresses):
        # What a network without IPv4 means by one address is that network's to say; nobody is let through to it here.
        allowed = not is_inside(address) and ip_address(address) not in ip_network("64:ff9b::/96")
        assert policies.allow(coordinator, Peer(address=address), 443) == allowed, address


def test_flower_and_the_store_reach_nothing_outside() -> None:
    manifests = fleet_of("valkey", "keda")
    policies, there = Policies(manifests), pods(manifests)
    for name, port in itertools.product(("flower", "valkey", "cli"), (80, 443, 6379, 8080)):
        assert not any(policies.allow(there[name], Peer(address=address), port) for address in (*PUBLIC, "10.0.0.1"))


def test_ports_of_pods_and_policies_are_those_of_their_containers() -> None:
    """A policy that opens a port at which nobody listens opens it for whoever comes to listen there."""
    manifests = fleet_of("valkey", "keda", "monitoring", "rabbitmq", "simulated")
    for policy in manifests.of_kind("NetworkPolicy"):
        selected: list[Any] = [
            one
            for one in manifests.workloads()
            if policy["spec"]["podSelector"].get("matchLabels", {"none": ""}).items() <= labels_of(one).items()
        ]
        listened = {
            port["containerPort"]
            for one in selected
            for it in pod_of(one)["containers"]
            for port in it.get("ports", ())
        }
        opened = {port["port"] for rule in policy["spec"].get("ingress", ()) for port in rule["ports"]}
        assert opened <= listened, policy["metadata"]["name"]
