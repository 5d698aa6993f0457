"""A process beside a worker that holds answers to what may take for ever: callables, expressions and schemas that others wrote.

It owns how one question is answered, and when it ends: the kernel's timer ends the process that takes too long, whatever runs in
it, also when its worker has died. It is run as a script and imports nothing of the fleet, which would take longer to start than
most checks take. It reads questions from its stdin and writes answers to its stdout, each as JSON behind its length; what a
callable prints goes nowhere, because it may quote an answer.

A question is `{"regex", "text"}` or `{"target", "output", "item", "needs"}`, a reply `{"reason": text or null}`, or
`{"broken": text}` where the check itself failed. How many seconds it may take is in the question (`check_s`), and how many the
import of what is asked for the first time (`import_s`). The first message is the `sys.path` of the worker.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import struct
import sys
from typing import IO, Any

_LENGTH = struct.Struct(">I")


def receive(stream: IO[bytes]) -> Any:
    """The next message; None: there are no more."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    body = stream.read(_LENGTH.unpack(head)[0])
    return json.loads(body)


def send(stream: IO[bytes], message: Any) -> None:
    """Write a message."""
    body = json.dumps(message).encode()
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The reply to a question; nothing is raised but by what a callable does to the process."""
    if "regex" in question:
        _end_after(question["check_s"])
        found = re.search(question["regex"], question["text"])
        return {"reason": None if found else "it does not match the check's regular expression"}
    module, _, name = question["target"].partition(":")
    _end_after(question["import_s"])
    try:
        check: Any = importlib.import_module(module)
        for part in name.split("."):
            check = getattr(check, part)
    except BaseException as error:  # whatever it is, it is not the answer's fault
        return {"broken": f"{question['target']} cannot be imported: {type(error).__name__}"}
    _end_after(question["check_s"])
    try:
        reason = check(question["output"], question["item"], question["needs"])
    except BaseException as error:
        # Its text may quote the answer.
        return {"broken": f"it raised {type(error).__name__}"}
    if reason is None or isinstance(reason, str):
        return {"reason": reason}
    return {"broken": f"it returned {type(reason).__name__}, and not None or a reason"}


def _end_after(seconds: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main() -> None:
    """Answer until there is nobody left who asks."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the worker, which has answers to wait for before it ends
    sys.path[:] = receive(questions) or sys.path
    while (question := receive(questions)) is not None:
        reply = answer(question)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(answers, reply)


if __name__ == "__main__":
    main()
