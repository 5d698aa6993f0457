"""The logs of a process: one line a record on stderr, as text or JSON, with the ids of what it is about.

It owns the form of a line and what may be in one. Our own messages are sentences without content, and errors in them are told as
`fleet.redaction` says. What other libraries log is not ours to trust: their words are told where they stand in their code, and of
what they put into them numbers, names and addresses; never a message's body, an argument or the text of an error. It knows no
process and no command.

A line as JSON: `{"time", "level", "logger", "process", "message", "job"?, "subtask"?, "attempt"?, "errors"?: ["Type: text", ...],
"at"?: ["module:line function", ...]}`; `errors` begins with the one that is told of, `at` with the place where it was raised.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.redaction import WITHHELD, Redactor, causes, frames, named, secrets_in
from fleet.subject import job_of, subject

FORMATS = ("text", "json")
IDS = ("job", "subtask", "attempt")
OURS = ("fleet", "queues")
#: Of others, who is at home in this process and says only where it listens and that it ends, in words made as it goes.
AT_HOME = ("uvicorn",)
MAX_ID_CHARS = 200
#: What another library may put into its words: a name, an id, a host, an address. Nothing with a space in it is one.
_NAME = re.compile(r"[\w.:@/+%~-]{1,200}")
#: asyncio names callbacks and tasks by their reprs, in which arguments and results stand.
_REPR = re.compile(r"[(<\n]")
#: How Celery names a task in its words; the ids of ours have a slash in them.
_TASK = re.compile(r"\bfleet\.\w+\.v\d+\[([^\]\s]+)\]")
_WARNING = re.compile(r"(?P<where>[^\s:]+:\d+): (?P<kind>\w+): (?P<text>[^\n]*)")
#: Warnings whose text is about code; those of pydantic quote values.
_OF_CODE = frozenset(("RuntimeWarning", "DeprecationWarning", "PendingDeprecationWarning"))
#: Seconds between lines of one logger of the trace exporter: a collector that is away is worth one, not one for each batch.
_SELDOM_S = 60.0


class Line(logging.Formatter):
    """What a record comes to, before it is text or JSON."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def told(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields of the line, each fit to be shown."""
        line = self._redactor.line
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        message = _message(record)
        fields: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": line(message),
        }
        ids = _ids(record, message)
        fields |= {name: line(ids[name], MAX_ID_CHARS) for name in IDS if ids.get(name)}
        if record.exc_info and record.exc_info[1] is not None:
            fields["errors"] = [line(text) for text in causes(record.exc_info[1])]
            fields["at"] = [line(frame) for frame in frames(record.exc_info[1].__traceback__)]
        return fields


class JsonLine(Line):
    """One JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.told(record))


class TextLine(Line):
    """`TIME LEVEL PROCESS LOGGER: MESSAGE job=... subtask=... attempt=... error=... at=...`"""

    def format(self, record: logging.LogRecord) -> str:
        told = self.told(record)
        words = [f"{told['time']} {record.levelname} {told['process']} {told['logger']}: {told['message']}"]
        words += [f"{name}={told[name]}" for name in IDS if name in told]
        if "errors" in told:
            words += [f"error={' <- '.join(told['errors'])}", f"at={' < '.join(told['at'])}"]
        return " ".join(words)


def set_up(form: str | None) -> None:
    """Have this process log in one of `FORMATS`, whatever logged before; also errors that end it, and warnings.

    Raises:
        BadInputError: it is none of them.
    """
    chosen = form or FORMATS[0]
    if chosen not in FORMATS:
        raise BadInputError(f'FLEET_LOG_FORMAT is "{chosen}"{nearest(chosen, FORMATS)}.')
    redactor = Redactor(secrets_in(os.environ))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine(redactor) if chosen == "json" else TextLine(redactor))
    handler.addFilter(_Seldom("opentelemetry"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # A line per task, request or call is a line too much at hundreds of them a second; Flower and the ledger have them.
    root.setLevel(logging.WARNING)
    for name in (*OURS, *AT_HOME):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(_: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None:
        logging.getLogger(__name__).error("an error that nobody caught", exc_info=(type(error), error, trace))


def _message(record: logging.LogRecord) -> str:
    """The words of a record, with what may be told of what was put into them."""
    if isinstance(record.msg, BaseException):
        return named(record.msg)
    ours = record.name.partition(".")[0] in OURS
    words = str(record.msg) if ours else _words(record)
    if not record.args:
        return words
    args: Any
    if not isinstance(record.args, Mapping):
        args = tuple(_shown(value, ours=ours) for value in record.args)
    elif "%(" in words:
        args = {name: _shown(value, ours=ours) for name, value in record.args.items()}
    else:  # one value that is a mapping
        args = (_shown(record.args, ours=ours),)
    try:
        return str(words % args)
    except (TypeError, ValueError):  # a number was asked for, and may not be told
        return words


def _words(record: logging.LogRecord) -> str:
    """What another library says, as far as nobody else's words can be in it."""
    words = str(record.msg)
    if record.name == "asyncio":
        return _REPR.split(words)[0]
    if record.name == "py.warnings":
        return _warning(words)
    at_home = record.name.partition(".")[0] in AT_HOME
    return words if at_home or _stand_in_code(words, record.pathname, record.lineno) else WITHHELD


def _stand_in_code(words: str, path: str, line: int) -> bool:
    """Whether the code that logs just now has these words as they are: what it put together may quote anything."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_lineno == line and frame.f_code.co_filename == path:
            return words in frame.f_code.co_consts or words in frame.f_globals.values()
        frame = frame.f_back
    return False


def _shown(value: object, *, ours: bool) -> object:
    if isinstance(value, BaseException):
        return named(value)
    if value is None or isinstance(value, (bool, int, float)) or ours:
        return value
    return value if isinstance(value, str) and _NAME.fullmatch(value) else WITHHELD


def _warning(words: str) -> str:
    """Of a warning as `logging.captureWarnings` has it."""
    found = _WARNING.match(words)
    if found is None:
        return "a warning"
    text = found["text"] if found["kind"] in _OF_CODE else WITHHELD
    return f"{found['kind']} at {found['where']}: {text}"


def _ids(record: logging.LogRecord, message: str) -> dict[str, str]:
    """What a record is about: what runs says it, or the record itself (`extra={"subtask": ...}`), or Celery by its task."""
    ids = {**subject(), **{name: str(value) for name in IDS if (value := getattr(record, name, None)) is not None}}
    if "subtask" not in ids and record.name.startswith("celery"):
        data = getattr(record, "data", None)
        found = _TASK.search(message)
        task = str(data.get("id", "")) if isinstance(data, dict) else found.group(1) if found else ""
        if "/" in task:
            ids["subtask"] = task
    if "job" not in ids and "subtask" in ids:
        ids["job"] = job_of(ids["subtask"])
    return ids


class _Seldom(logging.Filter):
    """Lets a logger below `name` say something once in a while; others as often as they like."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record):
            return True
        now = time.monotonic()
        if now - self._said.get(record.name, -_SELDOM_S) < _SELDOM_S:
            return False
        self._said[record.name] = now
        return True
