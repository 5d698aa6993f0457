"""Messages as a producer that is not ours would make them."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "intake_message.json"


def enveloped(key_id: str, key: str, job: Any, **fields: Any) -> dict[str, Any]:
    """An envelope, signed as it is described."""
    text = job if isinstance(job, str) else json.dumps(job)
    envelope: dict[str, Any] = {
        "key": key_id,
        "tenant": "default",
        "issued_at": int(time.time()),
        "nonce": "once",
        "job": text,
    }
    envelope |= fields
    order = ("key", "tenant", "issued_at", "nonce", "job")
    signed = "\n".join(["fleet.submit_job.v1", *(str(envelope[name]) for name in order)])
    signature = hmac.new(key.encode(), signed.encode(), hashlib.sha256).hexdigest()
    return {"signature": signature} | envelope


def raw_message(envelope: Mapping[str, Any], **headers: Any) -> str:
    """The example's message with another envelope and ids of its own."""
    message = json.loads(EXAMPLE.read_text())
    id_ = str(uuid.uuid4())
    message["body"] = json.dumps([[], {"envelope": envelope}, {}])
    message["headers"] |= {"id": id_, "root_id": id_} | headers
    message["properties"] |= {"correlation_id": id_, "delivery_tag": str(uuid.uuid4())}
    return json.dumps(message)
