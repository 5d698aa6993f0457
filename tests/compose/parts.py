"""What the test needs of Debian: the engine's package, the Compose plugin, and a small Debian to make a base image of.

It owns the folder in which what was fetched is kept for the next run. Root alone can use it.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

PACKAGES = {"dockerd": "docker.io", "debootstrap": "debootstrap", "iptables": "iptables", "ip": "iproute2"}
#: The first release of Debian that has the Compose plugin.
PLUGIN_SUITE, PLUGIN_PACKAGE = "trixie", "docker-compose"
#: The base image's: a Debian with the Python of the real one, and a client for the store's health check.
SUITE, INCLUDED = "bookworm", ("python3", "python3-venv", "ca-certificates", "redis-tools")
FETCH_S = 900.0


class PartMissingError(Exception):
    """Something cannot be had here; the text says what to do."""


def run(*command: str, timeout_s: float = FETCH_S, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """A command to its end; its output. `more` are variables of its environment."""
    done = subprocess.run(
        command, env={**os.environ, **more}, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        raise PartMissingError(
            f"{' '.join(command)[:200]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}"
        )
    return done.stdout


def install() -> None:
    """Install the packages that are missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise PartMissingError("A Docker Engine of one's own needs Linux and root; run `make compose-test` as root.")
    missing = [package for command, package in PACKAGES.items() if shutil.which(command) is None]
    if missing:
        if shutil.which("apt-get") is None:
            raise PartMissingError(f"There is no apt-get here; install what Debian calls {', '.join(missing)} by hand.")
        run("apt-get", "update")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "install", "--yes", "--no-install-recommends", *missing, more=quiet)


def docker_cli() -> str:
    """Debian's own, which builds with BuildKit and no plugin; another one may be in front of it in the path."""
    return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker") or "docker"


def compose_plugin(kept: Path) -> Path:
    """The Compose plugin, from a package that is unpacked and not installed: it is of a later release than this machine."""
    plugin = kept / "cli-plugins" / "docker-compose"
    if not plugin.exists():
        work = kept / "plugin"
        shutil.rmtree(work, ignore_errors=True)
        for folder in ("lists/partial", "archives/partial", "etc"):
            (work / folder).mkdir(parents=True)
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (work / "etc" / "sources.list").write_text(f"deb [signed-by={keys}] {mirror()} {PLUGIN_SUITE} main\n")
        own = {
            "Dir::Etc::SourceList": str(work / "etc" / "sources.list"),
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": str(work / "lists"),
            "Dir::Cache": str(work),
            "APT::Sandbox::User": "root",
        }
        options = [part for name, value in own.items() for part in ("-o", f"{name}={value}")]
        run("apt-get", *options, "update")
        subprocess.run(["apt-get", *options, "download", PLUGIN_PACKAGE], cwd=work, check=True, capture_output=True)
        (package,) = work.glob(f"{PLUGIN_PACKAGE}_*.deb")
        run("dpkg", "--extract", str(package), str(work / "unpacked"))
        (found,) = (work / "unpacked").rglob("cli-plugins/docker-compose")
        plugin.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(found, plugin)
        shutil.rmtree(work)
    return plugin


def base_root(kept: Path) -> Path:
    """A small Debian with Python, as an archive. It trusts whom this machine trusts, and gets its packages where it does."""
    archive = kept / "base.tar"
    if not archive.exists():
        root = kept / "base"
        shutil.rmtree(root, ignore_errors=True)
        run("debootstrap", "--variant=minbase", f"--include={','.join(INCLUDED)}", SUITE, str(root), mirror())
        (root / "usr/local/bin/python3").symlink_to("/usr/bin/python3")
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        if (trusted := os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile) is not None:
            shutil.copy(trusted, root / "etc/ssl/certs/ca-certificates.crt")
        shutil.rmtree(root / "var/cache/apt")
        shutil.rmtree(root / "var/lib/apt/lists")
        run("tar", "--numeric-owner", "-C", str(root), "-cf", str(archive.with_suffix(".part")), ".")
        archive.with_suffix(".part").rename(archive)
        shutil.rmtree(root)
    return archive


def mirror() -> str:
    """Where this machine gets Debian from."""
    files = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*.list")]
    files += Path("/etc/apt/sources.list.d").glob("*.sources")
    for file in sorted(files, key=lambda file: file.suffix != ".sources"):
        for line in file.read_text().splitlines():
            if found := re.match(r"(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+/debian)/?(?:\s|$)", line):
                return found[1]
    raise PartMissingError("No source of Debian's packages stands in /etc/apt; this runs on Debian.")


def pip_config(kept: Path) -> Path:
    """How pip finds packages here, for the build to find them the same way; what is on this machine's disk alone is left out."""
    path = kept / "pip.conf"
    listed = run(sys.executable, "-m", "pip", "config", "list")
    wanted = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt"]
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        option, text = name.rpartition(".")[2], value.strip("'\"")
        here = [part for part in text.replace("\\n", " ").split() if not part.startswith("file:")]
        if option in wanted and here:
            lines.append(f"{option} = {' '.join(here)}")
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path
