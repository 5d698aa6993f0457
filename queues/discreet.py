"""Owns a request of Celery's that shows its arguments to nobody: for tasks whose messages carry more than ids.

What a worker tells of a message (its events, so Flower and every exporter; its logs; what `inspect active` answers) shows the
arguments, or what the sender wrote of them. It knows Celery's requests, not what is in the arguments.
"""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

HIDDEN = "(hidden)"


class Discreet(Request):
    """Set as the `Request` of a task."""

    def __init__(self, message: Any, *args: Any, headers: Any = None, **options: Any) -> None:
        """As Celery's, whatever the sender wrote of the arguments."""
        told = message.headers if headers is None else headers
        hidden = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN, "shadow": None}
        super().__init__(message, *args, headers=dict(told) | hidden, **options)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """As Celery's, safe whatever was asked for."""
        told: dict[str, Any] = super().info(safe=True)
        return told
