"""Reading back what some version of the fleet wrote: job documents, trails, ends, intents' notes, entries, segments, rounds.

While a fleet is upgraded two versions work on the same jobs, and each reads what the other wrote. The rule: what users write
is strict (`fleet.documents`), what we wrote ourselves is read tolerantly: a field that this version does not know is ignored,
one that is missing has a default. It lasts as long as whoever changes something that is stored

- gives a new field a default, and makes it one that may be lost: who reads a trail and writes it again drops what it does not
  know. The fields that Lua scripts share are no exception: each version runs its own scripts over the same hashes;
- changes neither the meaning nor the default of a field, and forbids nothing that was allowed: jobs that were accepted are
  read by the models again, so a new rule for users belongs to `fleet.client.check`, where jobs are accepted;
- lets readers learn a new value (a status, a role, a task's name, a kind of source) one version before anybody writes it.

Processes are upgraded in the order in which they read: workers, then the coordinator, then those who submit jobs; a key of
the configuration that only the next version knows is set last. `tests.chaos.versions` does all that to a running fleet.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

#: Told to validators of what is read back: what took long to check was checked when it came in.
KEPT: dict[str, bool] = {"kept": True}


def read(model: type[M], data: Any) -> M:
    """Parsed JSON as `model`, and as the models in it, without what they do not know."""
    return model.model_validate(data, extra="ignore", context=KEPT)


def read_json(model: type[M], text: str) -> M:
    """The same for JSON text."""
    return model.model_validate_json(text, extra="ignore", context=KEPT)


def writable(text: str) -> str:
    """A text with what no UTF-8 can say written out: models answer with halves of characters, too."""
    return text.encode("utf-8", "backslashreplace").decode()
