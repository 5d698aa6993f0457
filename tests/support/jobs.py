"""Jobs that several tests run."""

from __future__ import annotations

import json

TEXTS = (
    "Invoice {i} was charged twice on my card, please refund the billing error",
    "The export button crashes with error 500, this bug blocks us (case {i})",
    "How do I invite a colleague to my workspace? Question {i}",
)

TRIAGE = """\
name: triage
goal: Sort the tickets and brief the team
items: {path: tickets.jsonl}
steps:
  - id: classify
    each: items
    tier: nano
    kind: ticket-topic
    prompt: |
      Topic of this ticket? {{ item.text }}
    output: {type: object, required: [topic], properties: {topic: {enum: [billing, bug, other]}}}
  - id: summarise
    each: items
    needs: [classify]
    when: classify.topic != "other"
    tier: auto
    max_tier: mini
    max_output_tokens: 400
    prompt: |
      Summarise for an engineer: {{ item.text }}
review:
  prompt: Write the briefing.
  rounds: 1
budget_usd: 2.50
priority: normal
"""


def tickets(count: int) -> str:
    """`count` tickets as JSONL."""
    return "".join(json.dumps({"id": f"T{i}", "text": TEXTS[i % len(TEXTS)].format(i=i)}) + "\n" for i in range(count))
