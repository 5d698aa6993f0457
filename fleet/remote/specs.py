"""What a client submits, as the body of a request: a mapping, or a YAML file, with its items in it.

Items that are given as a source (a file, a folder) are read here, on the machine of the client: the API reads no files for
anybody. It knows the form of a job, and no connection.
"""

from __future__ import annotations

import datetime
import json
import logging
import tempfile
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fleet.blobs import Blobs
from fleet.display import clean
from fleet.documents import parse
from fleet.errors import BadInputError
from fleet.jobs import Items, load_job
from fleet.sources import Skipped, read_source

logger = logging.getLogger(__name__)

#: A job as users give it: a mapping of the form that README shows, or the path of a YAML file with one.
Spec = Mapping[str, Any] | Path | str
#: The API takes no more (`fleet.api.bodies`).
MAX_BODY_BYTES = 10_000_000


def body_of(spec: Spec) -> bytes:
    """The JSON that submits `spec`.

    Raises:
        BadInputError: the file, the source of its items or a value cannot be used; or it is over 10,000,000 bytes.
    """
    items: Any
    if isinstance(spec, (str, Path)):
        job = load_job(Path(spec))
        given, items = job.model_dump(mode="json", exclude_defaults=True), job.items
    else:
        given, items = dict(spec), spec.get("items")
        if isinstance(items, Mapping):
            items = parse(Items, dict(items), "items")
    if isinstance(items, Items) and items.file is None:
        given["items"] = _read(items)
    return body(given)


def body(given: Mapping[str, Any]) -> bytes:
    """Data as a request's body; BadInputError when it cannot be one."""
    try:
        written = json.dumps(given, ensure_ascii=False, allow_nan=False, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"The job cannot be written as JSON: {error}.") from error
    if len(written) > MAX_BODY_BYTES:
        raise BadInputError(
            f"The job is {len(written):,} bytes with its items, and may be {MAX_BODY_BYTES:,}: upload them (POST /v1/files) and "
            "give items: {file: ID}, or split the job."
        )
    return written


def _read(source: Items) -> list[Any]:
    if source.images is not None:
        raise BadInputError(
            "Pictures cannot be sent in a job: upload a .zip of them (POST /v1/files) and give items: {file: ID}."
        )
    items: list[Any] = []
    skipped: list[Skipped] = []
    size = 0
    with tempfile.TemporaryDirectory() as folder:
        for found in read_source(source, Blobs(Path(folder))):
            if isinstance(found, Skipped):
                skipped.append(found)
                continue
            size += len(found.line)
            if size > MAX_BODY_BYTES:
                raise BadInputError(
                    f"The items are over {MAX_BODY_BYTES:,} bytes, more than a job may have in it: upload them (POST /v1/files) "
                    "and give items: {file: ID}, or split the job."
                )
            items.append(json.loads(found.line))
    first = f" ({clean(skipped[0].path)}: {clean(skipped[0].reason)})" if skipped else ""
    if not items:
        raise BadInputError(f"The source of the items holds none that can be used; {len(skipped)} skipped{first}.")
    if skipped:
        logger.warning("%d inputs cannot be items and are not sent%s", len(skipped), first)
    return items


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
