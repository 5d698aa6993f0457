"""`python -m fleet.sim '{"seed": 1, ...}' [CONFIG.yaml]`: serves with the given SimSettings as JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from fleet import logs
from fleet.config import Environment, config_path, load_config
from fleet.sim.server import serve
from fleet.sim.settings import SimSettings

if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else "{}"
    logs.set_up(Environment().fleet_log_format)
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else config_path(Environment())
    serve(SimSettings.model_validate_json(given), load_config(path))
