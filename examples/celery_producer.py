"""A service with a Celery app of its own submits a job over the broker; examples/README.md says when that is a good idea.

FLEET_SIGN_KEY_ID and FLEET_SIGN_KEY are what `fleet keys create --scope sign` showed; FLEET_BROKER_URL is the fleet's broker.
"""

import hashlib
import hmac
import json
import os
import time
import uuid

from celery import Celery
from kombu import Queue

app = Celery(broker=os.environ["FLEET_BROKER_URL"])
step = {"id": "topic", "each": "items", "tier": "nano", "prompt": "Topic of this complaint? {{ item }}"}
envelope = {
    "key": os.environ["FLEET_SIGN_KEY_ID"],
    "tenant": "default",
    "issued_at": int(time.time()),
    "nonce": f"order-{uuid.uuid4()}",
    "job": json.dumps({"name": "complaints", "items": ["The lamp came broken."], "steps": [step]}),
}
signed = "\n".join(["fleet.submit_job.v1", *map(str, envelope.values())]).encode()
envelope["signature"] = hmac.new(os.environ["FLEET_SIGN_KEY"].encode(), signed, hashlib.sha256).hexdigest()
# The fleet declares its queue, in its own way. Events and logs show what stands in kwargsrepr, so it says nothing.
coordinator = Queue("coordinator", no_declare=True)
app.send_task("fleet.submit_job.v1", kwargs={"envelope": envelope}, queue=coordinator, kwargsrepr="(hidden)")
print("sent", envelope["nonce"])
