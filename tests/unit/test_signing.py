"""Signatures of webhooks, against the vector that the reference implementations of Standard Webhooks publish."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from fleet.signing import headers, signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, TIMESTAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
EXPECTED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_published_vector_is_met() -> None:
    assert signature(SECRET, ID, TIMESTAMP, BODY) == EXPECTED


def test_each_of_id_time_body_and_secret_is_signed() -> None:
    other = "whsec_" + "A" * 32
    changed = [
        (other, ID, TIMESTAMP, BODY),
        (SECRET, "x", TIMESTAMP, BODY),
        (SECRET, ID, 1, BODY),
        (SECRET, ID, TIMESTAMP, b""),
    ]
    assert len({EXPECTED, *(signature(*one) for one in changed)}) == 5


def test_two_secrets_make_two_signatures_the_current_one_first() -> None:
    sent = headers([SECRET, "whsec_" + "A" * 32], ID, TIMESTAMP, BODY)
    first, second = sent["webhook-signature"].split(" ")
    assert first == EXPECTED
    assert second.startswith("v1,")
    assert (sent["webhook-id"], sent["webhook-timestamp"]) == (ID, str(TIMESTAMP))


def test_the_few_lines_of_the_docs_verify_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    (code,) = re.findall(r"```python\n# verify.py\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  our own
    now = int(time.time())
    sent = headers(["whsec_" + "A" * 32, SECRET], ID, now, BODY)
    assert names["verified"](SECRET, sent, BODY)
    assert not names["verified"](SECRET, sent, BODY + b" ")
    assert not names["verified"]("whsec_" + "B" * 32, sent, BODY)
    assert not names["verified"](SECRET, headers([SECRET], ID, now - 301, BODY), BODY)
