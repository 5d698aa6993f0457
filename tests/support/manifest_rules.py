"""What manifests of a fleet must keep to, beside the schemas and Pod Security: such as kube-score, kubesec and checkov have.

Each rule is a function from everything that is applied together to what breaks it, as `kind/name: what`. They own no name of the
fleet but its labels, so they hold for whatever a component adds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.support.manifests import Manifest, Manifests, environment_of, labels_of, pod_of

LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component")
RESOURCES = ("cpu", "memory", "ephemeral-storage")
#: Names of variables whose values nobody may read in a manifest.
SECRET = re.compile(r"KEY|PASS|TOKEN|SECRET|AUTH|REDIS_URL|BROKER_URL")


def _of(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def _containers(manifests: Manifests) -> Iterator[tuple[str, Manifest]]:
    for workload in manifests.workloads():
        for container in [*pod_of(workload)["containers"], *pod_of(workload).get("initContainers", ())]:
            yield f"{_of(workload)}/{container['name']}", container


def _selected(selector: Mapping[str, str], manifests: Manifests) -> list[Manifest]:
    return [one for one in manifests.workloads() if selector.items() <= labels_of(one).items()]


def namespaced(manifests: Manifests) -> Iterator[str]:
    """Everything is in the fleet's namespace, which takes no pod below "restricted"."""
    for one in manifests:
        if one["kind"] == "Namespace":
            labels = one["metadata"].get("labels", {})
            if {labels.get(f"pod-security.kubernetes.io/{mode}") for mode in ("enforce", "audit", "warn")} != {
                "restricted"
            }:
                yield f"{_of(one)}: pod-security labels"
        elif one["metadata"].get("namespace") != "tierfleet":
            yield _of(one)


def unique(manifests: Manifests) -> Iterator[str]:
    """Nothing is there twice."""
    seen = [_of(one) for one in manifests]
    return (one for one in sorted(set(seen)) if seen.count(one) > 1)


def labelled(manifests: Manifests) -> Iterator[str]:
    """Workloads, their pods and Services have the recommended labels, and a workload selects by them."""
    for one in manifests.workloads():
        chosen = one["spec"]["selector"]["matchLabels"]
        if not all(label in one["metadata"]["labels"] and label in chosen for label in LABELS):
            yield _of(one)
        elif not chosen.items() <= labels_of(one).items() or len(_selected(chosen, manifests)) != 1:
            yield f"{_of(one)}: it selects other pods than its own"


def images_pinned(manifests: Manifests) -> Iterator[str]:
    """An image says which version it is."""
    for where, container in _containers(manifests):
        _, _, tag = container["image"].rpartition("/")[2].partition(":")
        if tag in ("", "latest") or container.get("imagePullPolicy") != "IfNotPresent":
            yield where


def resources_bounded(manifests: Manifests) -> Iterator[str]:
    """Every container asks for what it needs, and may not take more than it says."""
    for where, container in _containers(manifests):
        resources = container.get("resources", {})
        if any(name not in resources.get(side, {}) for side in ("requests", "limits") for name in RESOURCES):
            yield where


def probed(manifests: Manifests) -> Iterator[str]:
    """Whatever serves is probed, and nothing that may take as long as Python to start is given a second for it."""
    for workload in manifests.workloads():
        for container in pod_of(workload)["containers"] if workload["spec"].get("replicas") != 0 else ():
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind, {})
                if not probe or ("exec" in probe and probe.get("timeoutSeconds", 1) < 5):
                    yield f"{_of(workload)}: {kind}"


def read_only(manifests: Manifests) -> Iterator[str]:
    """Nothing is written to an image, and what may be written to beside a volume has an end."""
    for where, container in _containers(manifests):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield where
    for workload in manifests.workloads():
        for volume in pod_of(workload).get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{_of(workload)}: emptyDir {volume['name']}"


def no_token(manifests: Manifests) -> Iterator[str]:
    """No pod has a word with Kubernetes, or is told of its neighbours by variables; the account has no rights."""
    for workload in manifests.workloads():
        pod = pod_of(workload)
        if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
            yield _of(workload)
        elif pod.get("serviceAccountName", "default") == "default":
            yield f"{_of(workload)}: the namespace's own account"
    for one in manifests.of_kind("ServiceAccount"):
        if one.get("automountServiceAccountToken") is not False:
            yield _of(one)
    for one in manifests.of_kind("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        yield _of(one)


def secrets_by_reference(manifests: Manifests) -> Iterator[str]:
    """No secret is in a manifest."""
    for one in manifests.of_kind("Secret"):
        yield _of(one)
    for where, container in _containers(manifests):
        for name, value in environment_of(container, manifests).items():
            if SECRET.search(name) and not (isinstance(value, dict) and "secretKeyRef" in value):
                yield f"{where}: {name}"


def references_kept(manifests: Manifests) -> Iterator[str]:
    """What a pod refers to is there: ConfigMaps, claims, accounts."""
    there = {_of(one) for one in manifests}
    for workload in manifests.workloads():
        pod = pod_of(workload)
        wanted = [f"ServiceAccount/{pod.get('serviceAccountName')}"]
        for volume in pod.get("volumes", ()):
            if "configMap" in volume:
                wanted.append(f"ConfigMap/{volume['configMap']['name']}")
            if "persistentVolumeClaim" in volume:
                wanted.append(f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}")
        for container in pod["containers"]:
            sources = (one["configMapRef"]["name"] for one in container.get("envFrom", ()) if "configMapRef" in one)
            wanted += [f"ConfigMap/{name}" for name in sources]
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            of_set = (claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ()))
            if mounted != {volume["name"] for volume in pod.get("volumes", ())} | set(of_set):
                yield f"{_of(workload)}: volumes and mounts"
        yield from (f"{_of(workload)}: {one}" for one in wanted if one not in there)


def services_lead_somewhere(manifests: Manifests) -> Iterator[str]:
    """A Service selects the pods of one workload, at a port that they have."""
    for service in manifests.of_kind("Service"):
        selected = _selected(service["spec"]["selector"], manifests)
        if len(selected) != 1 or service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield _of(service)
            continue
        ports = {
            port["name"]: port["containerPort"] for one in pod_of(selected[0])["containers"] for port in one["ports"]
        }
        yield from (
            f"{_of(service)}: {port['name']}"
            for port in service["spec"]["ports"]
            if port["targetPort"] not in ports or ports[port["targetPort"]] != port["port"]
        )


def survives_a_node(manifests: Manifests) -> Iterator[str]:
    """What has, or may have, several pods is spread over nodes, and a node that is emptied leaves some of them."""
    budgets = [one["spec"]["selector"]["matchLabels"] for one in manifests.of_kind("PodDisruptionBudget")]
    for one in manifests.of_kind("Deployment"):
        if one["spec"].get("replicas", 2) < 2:
            continue
        if sum(budget.items() <= labels_of(one).items() for budget in budgets) != 1:
            yield f"{_of(one)}: PodDisruptionBudget"
        spread = pod_of(one).get("topologySpreadConstraints", ())
        if not any(
            rule["topologyKey"] == "kubernetes.io/hostname"
            and rule["labelSelector"]["matchLabels"] == one["spec"]["selector"]["matchLabels"]
            for rule in spread
        ):
            yield f"{_of(one)}: topologySpreadConstraints"
    for budget in manifests.of_kind("PodDisruptionBudget"):
        if len(_selected(budget["spec"]["selector"]["matchLabels"], manifests)) != 1:
            yield _of(budget)
        elif budget["spec"].get("maxUnavailable") == 0 or budget["spec"].get("minAvailable") == "100%":
            yield f"{_of(budget)}: no node could ever be emptied"


def all_denied_first(manifests: Manifests) -> Iterator[str]:
    """What no policy allows is denied to every pod, both ways."""
    if not any(
        one["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        for one in manifests.of_kind("NetworkPolicy")
    ):
        yield "NetworkPolicy: there is none that denies everything"


def scaled_by_one(manifests: Manifests) -> Iterator[str]:
    """What is scaled is there, and whoever applies the manifests again does not set it back."""
    for one in manifests.of_kind("ScaledObject"):
        target = [
            it
            for it in manifests.of_kind("Deployment")
            if it["metadata"]["name"] == one["spec"]["scaleTargetRef"]["name"]
        ]
        if len(target) != 1 or "replicas" in target[0]["spec"]:
            yield _of(one)


RULES: dict[str, Callable[[Manifests], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (
        namespaced,
        unique,
        labelled,
        images_pinned,
        resources_bounded,
        probed,
        read_only,
        no_token,
        secrets_by_reference,
        references_kept,
        services_lead_somewhere,
        survives_a_node,
        all_denied_first,
        scaled_by_one,
    )
}
