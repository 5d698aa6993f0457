"""Where the processes of an embedded fleet show their metrics, as a file that Prometheus reads (`file_sd_configs`).

The format is Prometheus's: a list of targets with labels. A process is told apart by the label `component`, which is also the
name of its container: `coordinator`, `worker-nano`, `api`, `flower`. It starts nothing and asks nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

#: Name of the file in the fleet's folder.
TARGETS = "prometheus-targets.json"
#: Processes that are not the worker of a tier.
DOORS = ("coordinator", "api", "flower")


def targets(addresses: Mapping[str, str]) -> str:
    """The file's text; `addresses`: HOST:PORT by the name of a process, a worker's being its tier."""
    listed = [
        {"targets": [address], "labels": {"component": name if name in DOORS else f"worker-{name}"}}
        for name, address in addresses.items()
    ]
    return json.dumps(listed, indent=2) + "\n"
