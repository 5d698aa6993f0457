"""k8s/ as kustomize builds it, in every combination of components: schemas, Pod Security, rules, and what each check is worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

from tests.support.manifest_rules import RULES
from tests.support.manifests import K8S, TIERS, Manifest, Manifests, build, combinations, fleet_of, named, pod_of
from tests.support.pod_security import CONTROLS, violations

#: The oldest Kubernetes that the manifests are for, which is the one that knows a `sleep` before the end, and the latest.
VERSIONS = ("1.30", "1.37")
#: Fields of KEDA's resources that are younger than the models of them that are installed, and what they may be.
NEWER = {"behavior": ("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower")}
EVERYTHING = ("valkey", "keda", "monitoring", "rabbitmq", "simulated", "tracing")


@pytest.fixture
def everything() -> Manifests:
    return fleet_of(*EVERYTHING)


#: Models made from the CRDs of others, by the group of the resource.
MODELS: dict[str, Any] = {"keda.sh": keda, "monitoring.coreos.com": prometheus_operator}


@cache
def _schema_errors(text: str) -> tuple[str, ...]:
    """What the schemas of Kubernetes, or of whose resource it is, say against a manifest."""
    manifest = json.loads(text)
    group = manifest["apiVersion"].partition("/")[0]
    try:
        if group in MODELS:
            _check(getattr(MODELS[group], manifest["kind"]), manifest)
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(manifest, version, strict=True)
    except (ValueError, kubernetes_validate.ValidationError) as error:
        return (f"{manifest['kind']}/{manifest['metadata']['name']}: {error}",)
    return ()


def _check(model: Any, manifest: Manifest) -> None:
    """These models say nothing of what they do not know: nothing may be lost on the way through."""
    read = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_none=True)
    if lost := list(_lost(manifest, read)):
        raise ValueError(f"there is no field {', '.join(lost)}")


def _lost(given: Any, read: Any) -> Iterator[str]:
    if isinstance(given, dict):
        for key, value in given.items():
            if key in read:
                yield from (f"{key}.{below}" for below in _lost(value, read[key]))
            elif value not in NEWER.get(key, ()):
                yield key
    elif isinstance(given, list):
        for one, of_it in zip(given, read, strict=True):
            yield from _lost(one, of_it)


def schema_errors(manifests: Manifests) -> list[str]:
    return [error for one in manifests for error in _schema_errors(json.dumps(one, sort_keys=True))]


@pytest.mark.parametrize("components", combinations(), ids=lambda components: "+".join(components) or "none")
def test_every_combination_is_valid_and_keeps_to_the_rules(components: tuple[str, ...]) -> None:
    manifests = fleet_of(*components)
    assert schema_errors(manifests) == []
    for workload in manifests.workloads():
        assert violations(pod_of(workload)) == [], named(workload)
    assert {name: found for name, rule in RULES.items() if (found := list(rule(manifests)))} == {}


def test_what_is_applied_is_the_base_all_tiers_and_what_a_sensible_default_has() -> None:
    assert build(K8S) == fleet_of("valkey", "keda")


def test_with_rabbitmq_its_password_goes_to_those_who_have_to_do_with_queues(everything: Manifests) -> None:
    has = {named(one) for one in everything.workloads() if "FLEET_BROKER_URL" in json.dumps(pod_of(one))}
    assert has == {"api", "coordinator", "flower", "cli", *(f"worker-{tier}" for tier in TIERS)}, (
        "not the simulated provider"
    )


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_can_be_left_out(tier: str) -> None:
    manifests = fleet_of("valkey", tiers=[one for one in TIERS if one != tier])
    assert f"worker-{tier}" not in {named(one) for one in manifests}
    assert [found for rule in RULES.values() for found in rule(manifests)] == []


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("Deployment", "api", lambda it: it["spec"].update(replica=2)),
        ("Deployment", "worker-nano", lambda it: pod_of(it)["containers"][0].update(ports=[{"containerPort": "9464"}])),
        ("NetworkPolicy", "dns", lambda it: it["spec"]["egress"][0].update(from_=[])),
        ("PersistentVolumeClaim", "blobs", lambda it: it["spec"].update(accessModes="ReadWriteMany")),
        ("ScaledObject", "worker-mini", lambda it: it["spec"].update(maxReplicas=3)),
        ("ScaledObject", "worker-mini", lambda it: it["spec"].update(pollingInterval="soon")),
        ("ScaledObject", "worker-mini", lambda it: it["spec"]["fallback"].update(behavior="guess")),
        ("ScaledObject", "worker-mini", lambda it: it["spec"]["triggers"][0].pop("type")),
        ("PodMonitor", "tierfleet", lambda it: it["spec"]["podMetricsEndpoints"][0].update(ports="metrics")),
        ("PodMonitor", "tierfleet", lambda it: it["spec"].pop("selector")),
        ("PrometheusRule", "tierfleet", lambda it: it["spec"]["groups"][1]["rules"][0].update(after="1m")),
    ],
)
def test_the_schemas_find_what_is_wrong(
    everything: Manifests, kind: str, name: str, change: Callable[[Manifest], Any]
) -> None:
    change(everything.named(kind, name))
    assert len(schema_errors(everything)) == 1


def _context(pod: Manifest, **fields: Any) -> None:
    pod["containers"][0]["securityContext"].update(fields)


BROKEN_CONTROLS: list[tuple[str, Callable[[Manifest], Any]]] = [
    ("HostProcess", lambda pod: _context(pod, windowsOptions={"hostProcess": True})),
    ("Host Namespaces", lambda pod: pod.update(hostNetwork=True)),
    ("Host Namespaces", lambda pod: pod.update(hostPID=True)),
    ("Host Namespaces", lambda pod: pod.update(hostIPC=True)),
    ("Privileged Containers", lambda pod: _context(pod, privileged=True)),
    ("Capabilities", lambda pod: _context(pod, capabilities={"drop": ["NET_RAW"]})),
    ("Capabilities", lambda pod: _context(pod, capabilities={"drop": ["ALL"], "add": ["CHOWN"]})),
    ("Capabilities", lambda pod: pod["containers"][0]["securityContext"].pop("capabilities")),
    ("Volume Types", lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}})),
    ("Volume Types", lambda pod: pod["volumes"].append({"name": "nfs", "nfs": {"server": "a", "path": "/"}})),
    ("Host Ports", lambda pod: pod["containers"][0]["ports"][0].update(hostPort=9464)),
    (
        "Host Probes / Lifecycle Hooks",
        lambda pod: pod["containers"][0].update(livenessProbe={"httpGet": {"host": "10.0.0.1", "port": 80}}),
    ),
    ("AppArmor", lambda pod: _context(pod, appArmorProfile={"type": "Unconfined"})),
    ("SELinux", lambda pod: _context(pod, seLinuxOptions={"type": "spc_t"})),
    ("SELinux", lambda pod: pod["securityContext"].update(seLinuxOptions={"user": "system_u"})),
    ("/proc Mount Type", lambda pod: _context(pod, procMount="Unmasked")),
    ("Sysctls", lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    ("Privilege Escalation", lambda pod: _context(pod, allowPrivilegeEscalation=True)),
    ("Privilege Escalation", lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation")),
    ("Running as Non-root", lambda pod: pod["securityContext"].pop("runAsNonRoot")),
    ("Running as Non-root", lambda pod: _context(pod, runAsNonRoot=False)),
    ("Running as Non-root user", lambda pod: pod["securityContext"].update(runAsUser=0)),
    ("Running as Non-root user", lambda pod: _context(pod, runAsUser=0)),
    ("Seccomp", lambda pod: pod["securityContext"].pop("seccompProfile")),
    ("Seccomp", lambda pod: _context(pod, seccompProfile={"type": "Unconfined"})),
]


@pytest.mark.parametrize(("control", "change"), BROKEN_CONTROLS)
def test_each_control_of_restricted_is_checked(
    everything: Manifests, control: str, change: Callable[[Manifest], Any]
) -> None:
    pod = pod_of(everything.named("Deployment", "worker-nano"))
    change(pod)
    found = violations(pod)
    assert found
    assert {one.partition(": ")[0] for one in found} == {control}


def test_every_control_is_broken_once() -> None:
    assert {control for control, _ in BROKEN_CONTROLS} == set(CONTROLS)


def _worker(manifests: Manifests) -> Manifest:
    return manifests.named("Deployment", "worker-nano")


def _fleet(manifests: Manifests) -> Manifest:
    container: Manifest = pod_of(_worker(manifests))["containers"][0]
    return container


BROKEN_RULES: list[tuple[str, Callable[[Manifests], Any]]] = [
    ("namespaced", lambda all_: _worker(all_)["metadata"].pop("namespace")),
    (
        "namespaced",
        lambda all_: all_.named("Namespace", "tierfleet")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
    ),
    ("unique", lambda all_: all_.append(all_.named("NetworkPolicy", "dns"))),
    ("labelled", lambda all_: _worker(all_)["metadata"]["labels"].pop("app.kubernetes.io/name")),
    ("labelled", lambda all_: _worker(all_)["spec"]["selector"]["matchLabels"].pop("tierfleet/tier")),
    ("images_pinned", lambda all_: _fleet(all_).update(image="tierfleet")),
    ("images_pinned", lambda all_: _fleet(all_).update(image="registry:5000/tierfleet:latest")),
    ("resources_bounded", lambda all_: _fleet(all_)["resources"]["limits"].pop("memory")),
    ("probed", lambda all_: _fleet(all_).pop("readinessProbe")),
    ("probed", lambda all_: _fleet(all_)["livenessProbe"].pop("timeoutSeconds")),
    ("read_only", lambda all_: _fleet(all_)["securityContext"].pop("readOnlyRootFilesystem")),
    ("read_only", lambda all_: pod_of(_worker(all_))["volumes"].append({"name": "any", "emptyDir": {}})),
    ("no_token", lambda all_: pod_of(_worker(all_)).pop("automountServiceAccountToken")),
    ("no_token", lambda all_: pod_of(_worker(all_)).update(serviceAccountName="default")),
    ("no_token", lambda all_: all_.append({"kind": "Role", "metadata": {"name": "reader"}})),
    ("secrets_by_reference", lambda all_: _fleet(all_)["env"].append({"name": "OPENAI_API_KEY", "value": "sk"})),
    ("secrets_by_reference", lambda all_: all_.append({"kind": "Secret", "metadata": {"name": "tierfleet"}})),
    ("references_kept", lambda all_: all_.remove(all_.named("PersistentVolumeClaim", "blobs"))),
    ("references_kept", lambda all_: _fleet(all_)["volumeMounts"].pop()),
    (
        "services_lead_somewhere",
        lambda all_: all_.named("Service", "coordinator")["spec"]["ports"][0].update(targetPort="metric"),
    ),
    ("services_lead_somewhere", lambda all_: all_.named("Service", "api")["spec"].update(type="LoadBalancer")),
    ("survives_a_node", lambda all_: all_.remove(all_.named("PodDisruptionBudget", "worker-nano"))),
    ("survives_a_node", lambda all_: pod_of(_worker(all_)).pop("topologySpreadConstraints")),
    (
        "survives_a_node",
        lambda all_: all_.named("PodDisruptionBudget", "worker-nano")["spec"].update(maxUnavailable=0),
    ),
    ("all_denied_first", lambda all_: all_.remove(all_.named("NetworkPolicy", "default-deny"))),
    ("scaled_by_one", lambda all_: _worker(all_)["spec"].update(replicas=3)),
    (
        "scaled_by_one",
        lambda all_: all_.named("ScaledObject", "worker-nano")["spec"]["scaleTargetRef"].update(name="x"),
    ),
]


@pytest.mark.parametrize(("rule", "change"), BROKEN_RULES)
def test_each_rule_finds_what_breaks_it(everything: Manifests, rule: str, change: Callable[[Manifests], Any]) -> None:
    change(everything)
    assert list(RULES[rule](everything))


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _ in BROKEN_RULES} == set(RULES)
