"""What may be told of a text, an error or a value in a log: one line, without a terminal's commands, secrets or content.

An error is told by its type and where it was raised. Its text is told only where whoever raised it made a sentence for that:
errors of the fleet that quote nobody, of `queues`, of the store's client, of the operating system. What other libraries say
(pydantic, jinja2, json) quotes what they were given. It knows no logger.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import PurePath
from types import TracebackType
from urllib.parse import unquote, urlsplit

from redis.exceptions import RedisError

from fleet.errors import FleetError

#: Longest line, and longest text of an error in it.
MAX_CHARS, MAX_ERROR_CHARS = 4_000, 500
#: Frames and causes that are told of an error.
MAX_FRAMES, MAX_CAUSES = 20, 5
#: Shorter values of secret variables are words that lines have for other reasons, too.
LEAST_SECRET = 6
HIDDEN = "***"
WITHHELD = "(withheld)"

#: Control characters, line breaks of all kinds, characters that change a line's direction or cannot be seen, half characters.
_UNFIT = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SECRETS = (
    # user and password of a URL
    (re.compile(r"://[^\s/\"'<>]*@"), f"://{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:x-)?api[-_]?key|password|passwd|secret)"
            r"(\b[\"']?\s*[:=]\s*)(?:\"[^\"]*\"|'[^']*'|(?:(?:bearer|basic)\s+)?[^\s,;&\"']+)"
        ),
        rf"\1\2{HIDDEN}",
    ),
    # keys of vendors, of the API (fleet.keys), and of webhooks (fleet.signing)
    (re.compile(r"\b(sk-|flk_|whsec_)[\w+/=-]{6,}"), rf"\1{HIDDEN}"),
)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|AUTH|HEADERS|CREDENTIAL")


class Redactor:
    """Scrubs lines of what looks like a secret, and of the secrets that this process is known to have."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one may begin with another.
        known = sorted({secret for secret in secrets if len(secret) >= LEAST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def line(self, text: str, limit: int = MAX_CHARS) -> str:
        """`text` as one line that is fit to be shown, at most about `limit` characters long."""
        # Cut first, but not within a secret that is looked for.
        text = text[: 2 * limit]
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, instead in _SECRETS:
            text = pattern.sub(instead, text)
        text = neutral(text)
        return text if len(text) <= limit else text[: limit - 1] + "…"


def neutral(text: str) -> str:
    """`text` with what a terminal or a reader of lines would act on written out (`\\x1b`, `\\n`, `\\u202e`)."""
    return _UNFIT.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def secrets_in(variables: Mapping[str, str]) -> set[str]:
    """The secrets in an environment: values of variables that are named so, and the passwords of URLs."""
    found: set[str] = set()
    for name, value in variables.items():
        if _SECRET_NAME.search(name.upper()):
            # `user:password`, and `name=value,name=value` as OTEL_EXPORTER_OTLP_HEADERS has them
            parts = [value, *re.split(r"[,=\s]", value), value.partition(":")[2]]
            found.update(part for part in parts if not part.startswith(("/", "http://", "https://")))
        elif "://" in value:
            try:
                password = urlsplit(value).password
            except ValueError:
                password = None
            if password:
                found.update((password, unquote(password)))
    return found


def sentence(error: BaseException) -> str | None:
    """The text of an error, where it was made to be told; None where it may quote somebody."""
    if isinstance(error, FleetError):
        return None if error.quotes else str(error)
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)  # without the name of a file, which may be somebody's
    if isinstance(error, (RedisError, TimeoutError)) or type(error).__module__.partition(".")[0] == "queues":
        return str(error)
    return None


def named(error: BaseException) -> str:
    """The type of an error, and its text where that may be told: what stands for it in a line."""
    text = sentence(error)
    return type(error).__name__ if not text else f"{type(error).__name__}: {text[:MAX_ERROR_CHARS]}"


def causes(error: BaseException) -> list[str]:
    """An error and what it came of, by `named`, the error first."""
    found: list[str] = []
    at: BaseException | None = error
    while at is not None and len(found) < MAX_CAUSES:
        found.append(named(at))
        at = at.__cause__ if at.__cause__ is not None or at.__suppress_context__ else at.__context__
    return found


def frames(trace: TracebackType | None) -> list[str]:
    """Where an error was raised: `module:line function`, the innermost first. Neither code nor values."""
    stack = [
        f"{frame.f_globals.get('__name__') or PurePath(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}"
        for frame, line in islice(traceback.walk_tb(trace), 500)
    ]
    return stack[::-1][:MAX_FRAMES]
