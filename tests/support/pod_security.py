"""The Pod Security Standards, profile "restricted", as a check of one pod specification.

It owns the controls as https://kubernetes.io/docs/concepts/security/pod-security-standards/ lists them, with those of "baseline",
which "restricted" contains. What is decided by several fields is decided as the admission controller does: a container's own
value, else the pod's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Pod = Mapping[str, Any]
Container = Mapping[str, Any]

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def violations(pod: Pod) -> list[str]:
    """The controls that a pod specification breaks, each as `control: where`; none: the namespace takes the pod."""
    return [f"{name}: {where}" for name, control in CONTROLS.items() for where in control(pod)]


def _containers(pod: Pod) -> Iterator[tuple[str, Container, Mapping[str, Any]]]:
    """Every container of any sort with its name and security context."""
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.get(kind, ()):
            yield container["name"], container, container.get("securityContext") or {}


def _contexts(pod: Pod) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The pod's own security context, and those of its containers."""
    yield "pod", pod.get("securityContext") or {}
    for name, _, context in _containers(pod):
        yield name, context


def _host_process(pod: Pod) -> Iterator[str]:
    return (where for where, it in _contexts(pod) if (it.get("windowsOptions") or {}).get("hostProcess"))


def _host_namespaces(pod: Pod) -> Iterator[str]:
    return (field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field))


def _privileged(pod: Pod) -> Iterator[str]:
    return (name for name, _, context in _containers(pod) if context.get("privileged"))


def _capabilities(pod: Pod) -> Iterator[str]:
    for name, _, context in _containers(pod):
        capabilities = context.get("capabilities") or {}
        if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
            yield name


def _volumes(pod: Pod) -> Iterator[str]:
    return (volume["name"] for volume in pod.get("volumes", ()) if not (set(volume) - {"name"}) <= VOLUMES)


def _host_ports(pod: Pod) -> Iterator[str]:
    return (name for name, it, _ in _containers(pod) if any(port.get("hostPort") for port in it.get("ports", ())))


def _probe_hosts(pod: Pod) -> Iterator[str]:
    for name, container, _ in _containers(pod):
        hooks = container.get("lifecycle") or {}
        probes = [container.get(f"{kind}Probe") or {} for kind in ("startup", "liveness", "readiness")]
        for handler in (*probes, *(hooks.get(moment) or {} for moment in ("postStart", "preStop"))):
            if any((handler.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")):
                yield name


def _app_armor(pod: Pod) -> Iterator[str]:
    for where, context in _contexts(pod):
        if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
            yield where


def _selinux(pod: Pod) -> Iterator[str]:
    for where, context in _contexts(pod):
        options = context.get("seLinuxOptions") or {}
        if options.get("type", "") not in SELINUX_TYPES or options.get("user") or options.get("role"):
            yield where


def _proc_mount(pod: Pod) -> Iterator[str]:
    return (name for name, _, context in _containers(pod) if context.get("procMount", "Default") != "Default")


def _sysctls(pod: Pod) -> Iterator[str]:
    given = (pod.get("securityContext") or {}).get("sysctls", ())
    return (sysctl["name"] for sysctl in given if sysctl["name"] not in SYSCTLS)


def _escalation(pod: Pod) -> Iterator[str]:
    return (name for name, _, context in _containers(pod) if context.get("allowPrivilegeEscalation") is not False)


def _non_root(pod: Pod) -> Iterator[str]:
    of_pod = (pod.get("securityContext") or {}).get("runAsNonRoot")
    if of_pod is False:
        yield "pod"
    yield from (name for name, _, context in _containers(pod) if context.get("runAsNonRoot", of_pod) is not True)


def _root_user(pod: Pod) -> Iterator[str]:
    return (where for where, context in _contexts(pod) if context.get("runAsUser") == 0)


def _seccomp(pod: Pod) -> Iterator[str]:
    of_pod = (pod.get("securityContext") or {}).get("seccompProfile") or {}
    if of_pod.get("type") == "Unconfined":
        yield "pod"
    for name, _, context in _containers(pod):
        if (context.get("seccompProfile") or of_pod).get("type") not in ("RuntimeDefault", "Localhost"):
            yield name


#: By the name that the standard gives them.
CONTROLS: dict[str, Callable[[Pod], Iterator[str]]] = {
    "HostProcess": _host_process,
    "Host Namespaces": _host_namespaces,
    "Privileged Containers": _privileged,
    "Capabilities": _capabilities,
    "Volume Types": _volumes,
    "Host Ports": _host_ports,
    "Host Probes / Lifecycle Hooks": _probe_hosts,
    "AppArmor": _app_armor,
    "SELinux": _selinux,
    "/proc Mount Type": _proc_mount,
    "Sysctls": _sysctls,
    "Privilege Escalation": _escalation,
    "Running as Non-root": _non_root,
    "Running as Non-root user": _root_user,
    "Seccomp": _seccomp,
}
