"""One process of the fleet with a provider that answers at once: everything but the model call is real.

`python -m benchmarks.scale_worker TIER CONCURRENCY`; it is `fleet worker` with the provider seam stubbed, for `scale`.
"""

from __future__ import annotations

import sys

from fleet import providers
from fleet.prices import Usage
from fleet.providers.base import Completion, ModelRequest, Started

ANSWER_USAGE = Usage(input_tokens=10, output_tokens=1)


class Noop:
    """Answers every call with one word, without asking anybody."""

    reattaches = False
    says_default = False
    batches = None

    async def complete(self, request: ModelRequest, started: Started | None = None) -> Completion:
        return Completion("done", "stop", ANSWER_USAGE, True, request.model, None)

    async def collect(self, handle: str, request: ModelRequest) -> Completion:
        raise AssertionError("nothing runs in the background here")

    async def cancel(self, handle: str) -> None:
        raise AssertionError("nothing runs in the background here")

    async def aclose(self) -> None:
        """Nothing is open."""


def main() -> None:
    providers.PROVIDERS["openai"] = lambda config, base_url, api_key, name: Noop()
    from fleet.processes import serve_tier  # noqa: PLC0415  after the seam is stubbed

    serve_tier(sys.argv[1], int(sys.argv[2]))


if __name__ == "__main__":
    main()
