"""The vendor's Python client on a tour of an OpenAI-compatible server: `python -m tests.tours.tour --model nano [STOP ...]`.

The server is at OPENAI_BASE_URL, its key in OPENAI_API_KEY, as for any program that uses the client. Prints a line per
stop, `ok NAME` or `FAILED NAME` with the traceback on stderr; exits 1 if any failed. Without names it goes everywhere.
"""

from __future__ import annotations

import argparse
import sys
import traceback

from openai import OpenAI

from tests.tours import batches, chat, responses
from tests.tours.target import Target

STOPS = {**chat.STOPS, **responses.STOPS, **batches.STOPS}


def main() -> int:
    parser = argparse.ArgumentParser(description="A tour of an OpenAI-compatible server with the vendor's own client.")
    parser.add_argument("--model", required=True)
    parser.add_argument("stops", nargs="*", metavar="STOP", help=f"any of: {', '.join(STOPS)}")
    given = parser.parse_args()
    if unknown := [name for name in given.stops if name not in STOPS]:
        parser.error(f"there is no stop {', '.join(unknown)}; there are {', '.join(STOPS)}")
    failed = 0
    with OpenAI(max_retries=0, timeout=120) as client:
        for name in given.stops or STOPS:
            try:
                STOPS[name](Target(client, given.model))
            except Exception:
                failed += 1
                print(f"FAILED {name}", flush=True)
                traceback.print_exc()
            else:
                print(f"ok {name}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
