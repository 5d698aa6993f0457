"""Jobs that come as Celery messages, from producers that have a broker of ours and a key to sign with.

`fleet.submit_job.v1` takes one argument, `envelope`: what `Envelope` says, its signature over `Envelope.signed`. Who can write
to the broker can do worse than submit jobs, so a signature does not make a stranger trusted: it says which producer it was, and
for which tenant, and that nobody changed the job on the way. The HTTP API does all this better, and answers; this is for
services that have Celery already and would rather not have a second door.

It owns what is refused. A refusal is final, and is told without a word of the message; what the store cannot do now is asked
again until the message is too old. It knows no Celery: `fleet.tasks` has the shell.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fleet.audit import Audit
from fleet.client import FleetClient
from fleet.errors import BadInputError, MessageRefusedError, TenantLimitError
from fleet.keys import Keys
from fleet.submitted import NewJob

INTAKE_TASK = "fleet.submit_job.v1"
#: Seconds for which a message is good, and by which a producer's clock may be ahead of the store's. A nonce stands for its job
#: for a week (`fleet.client`), so no message that is still good is a second job.
GOOD_S, AHEAD_S = 3600, 300
MAX_JOB_CHARS = 10_000_000
#: No line break in what the signed lines are made of, and nothing that another language would write otherwise.
_Word = Annotated[str, Field(pattern=r"^[\x21-\x7e]+$", max_length=255)]


class Envelope(BaseModel):
    """What a producer sends. What it holds beside this is ignored, and not signed."""

    model_config = ConfigDict(frozen=True, strict=True)

    #: Id of the key that signed it: `fleet keys create --scope sign` shows both.
    key: _Word
    #: For whom the job is; the key's tenant.
    tenant: _Word
    #: Seconds since 1970.
    issued_at: Annotated[int, Field(ge=0, lt=2**53)]
    #: The job's idempotency key: the same one with the same job is the same job, also over HTTP.
    nonce: _Word
    #: The job as JSON, items and all: text, so that what was signed is what is read.
    job: Annotated[str, Field(max_length=MAX_JOB_CHARS)]
    #: HMAC-SHA256 of `signed` under the key, in lower-case hex.
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def signed(self) -> bytes:
        """Six lines, in UTF-8: the task's name, key, tenant, issued_at, nonce, and the job, which alone may have line breaks."""
        lines = (INTAKE_TASK, self.key, self.tenant, str(self.issued_at), self.nonce, self.job)
        return "\n".join(lines).encode("utf-8", "surrogatepass")


class Intake:
    """Takes jobs in for one fleet."""

    def __init__(self, client: FleetClient, keys: Keys, audit: Audit) -> None:
        self._client = client
        self._keys = keys
        self._audit = audit

    async def take(self, given: object) -> str:
        """Submit the job in an envelope; its id.

        Raises:
            MessageRefusedError: it is none, wrongly signed or too old, its job cannot be one, or the tenant has all it may have.
                It is not looked at again: one that waited here would hold up the plans of everybody.
            StoreUnavailableError, LinkError, OSError: not now.
        """
        envelope = await asyncio.to_thread(_envelope, given)
        await self._check_signature(envelope)
        outcome, job_id = "put back", ""
        try:
            job_id = await self._submitted(envelope)
            outcome = "accepted"
        except MessageRefusedError:
            outcome = "refused"
            raise
        finally:
            await self._audit.note(envelope.tenant, envelope.key, INTAKE_TASK, job_id, outcome)
        return job_id

    async def _submitted(self, envelope: Envelope) -> str:
        await self._check_age(envelope)
        spec = await asyncio.to_thread(_job, envelope.job)
        try:
            return await self._client.submit(spec, tenant=envelope.tenant, once=envelope.nonce)
        except TenantLimitError as error:
            raise MessageRefusedError(f"{error} Send it again later, with the same nonce.") from None
        except BadInputError as error:  # what it says may quote the job
            raise MessageRefusedError(
                f"the fleet cannot run the job that {envelope.key} signed ({type(error).__name__})"
            ) from None

    async def _check_signature(self, envelope: Envelope) -> None:
        found = await self._keys.signer(envelope.key)
        if found is None:
            raise MessageRefusedError("it is signed with no key of ours to sign with")
        principal, key = found
        expected = hmac.new(key, envelope.signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, envelope.signature):
            raise MessageRefusedError(f"its signature is not that of {principal.key_id}")
        if envelope.tenant != principal.tenant:
            raise MessageRefusedError(f"{principal.key_id} signed it for a tenant that is not its own")

    async def _check_age(self, envelope: Envelope) -> None:
        age_s = await self._client.runtime.store.now() - envelope.issued_at
        if not -AHEAD_S <= age_s <= GOOD_S:
            raise MessageRefusedError(f"{envelope.key} signed it {age_s:,.0f} s ago; it is good for {GOOD_S:,} s")


def _envelope(given: object) -> Envelope:
    try:
        return Envelope.model_validate(given)
    except ValidationError as error:
        fields = ", ".join(
            sorted({str(one["loc"][0]) for one in error.errors() if one["loc"]} & Envelope.model_fields.keys())
        )
        raise MessageRefusedError(f"it has no envelope of ours; look at {fields or 'its arguments'}") from None


def _job(text: str) -> NewJob:
    try:
        given = json.loads(text, parse_constant=_finite, parse_float=_finite)
        # Half of a character of two cannot be written again.
        json.dumps(given, ensure_ascii=False).encode()
        return NewJob.model_validate(given)
    except (ValueError, RecursionError):  # pydantic's is a ValueError, too
        raise MessageRefusedError("the job in it is none; the HTTP API says what is wrong with one") from None


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError("no number of JSON")
    return number
