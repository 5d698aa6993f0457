"""tierfleet: a team of language models as distributed workers, at the lowest cost per accepted outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.remote import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The client, imported when it is first asked for: `import fleet.errors` should cost nobody an HTTP library."""
        if name in __all__:
            from fleet import remote  # noqa: PLC0415

            return getattr(remote, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
