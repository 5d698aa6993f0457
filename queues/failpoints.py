"""Named places at which a test can end a process the hard way, as a crash would: `FLEET_FAILPOINTS="claimed=3,answered=10"`.

At every third passage of `claimed` and every tenth of `answered` the process gets SIGKILL. Without the variable a passage
costs one dictionary look-up. The names are the steps of a subtask's life, in order:

| name | has just happened |
|---|---|
| accepted | a job was accepted, its client does not know yet |
| gate_opened | the gate of a round stands, no subtask is behind it yet |
| shard_added | some subtasks of a plan were added, others are missing |
| released | the store took subtasks out of the backlog, no message was sent |
| sent | messages were sent |
| claimed | a worker has the claim |
| permitted | it has the permit |
| intended | the intent is journalled, the call has not been sent |
| begun | a call in the background has a handle, and it is journalled |
| answered | the answer is there, nothing of it is written |
| joined | a subtask waits for its batch |
| uploaded | the vendor has the file of a batch, there is no batch of it |
| batched | the vendor has the batch, its id is not written |
| given_back | the lines of a late batch are written down, nothing of that is booked |
| booked_back | they are booked at their worst, none of them goes on |
| dismissed | they go on, and what they really cost is still to come |
| collected | the answers of a batch are written, none of them is booked |
| settled | they are booked, none of those that wait for them is ready |
| finished | the end is written, the message is not acknowledged and its chord part not counted |
| reviewed | the verdict is there, the job has not moved on |
| told | a webhook's receiver has answered, nothing of it is written |
"""

from __future__ import annotations

import os
import signal

NAMES = (
    "accepted",
    "gate_opened",
    "shard_added",
    "released",
    "sent",
    "claimed",
    "permitted",
    "intended",
    "begun",
    "answered",
    "joined",
    "uploaded",
    "batched",
    "given_back",
    "booked_back",
    "dismissed",
    "collected",
    "settled",
    "finished",
    "reviewed",
    "told",
)


def _armed(setting: str) -> dict[str, int]:
    armed = {}
    for word in filter(None, setting.split(",")):
        name, _, every = word.partition("=")
        if name not in NAMES or not every.isdigit() or int(every) < 1:
            raise ValueError(f"FLEET_FAILPOINTS: {word!r} is not NAME=N with one of {', '.join(NAMES)}.")
        armed[name] = int(every)
    return armed


_EVERY = _armed(os.environ.get("FLEET_FAILPOINTS", ""))
_passed = dict.fromkeys(_EVERY, 0)


def failpoint(name: str) -> None:
    """End the process here if a test has armed this place and it is its turn."""
    if name in _EVERY:
        _passed[name] += 1
        if _passed[name] % _EVERY[name] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
