"""Sort tickets, then follow a job: beside `fleet up` in this folder, or with FLEET_API_URL and FLEET_API_KEY."""

from typing import Literal

from pydantic import BaseModel

from fleet import Client


class Ticket(BaseModel):
    topic: Literal["billing", "bug", "other"]
    urgent: bool


tickets = ["My invoice is wrong.", "The app crashes.", "How do I invite a colleague?"]
with Client() as client:
    found = client.map(tickets, "Topic of this ticket? Is it urgent? {{ item }}", schema=Ticket, tier="nano")
    for text, ticket in zip(tickets, found, strict=True):
        print(f"{ticket.topic:8} {'urgent' if ticket.urgent else '':7} {text}")

    step = {"id": "reply", "each": "items", "tier": "auto", "prompt": "Reply in two sentences: {{ item }}"}
    job = client.submit({"name": "replies", "items": tickets, "steps": [step], "budget_usd": 0.5})
    for event in job.events():
        print(event.kind, event.status or "")
    answers = [outcome.output for outcome in job.results() if outcome.status == "ok"]
    print(f"{job.wait().status}: {len(answers)} replies for ${job.receipt.cost_nano_usd / 1e9:.6f}")
