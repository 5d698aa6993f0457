"""What can be wrong with an answer: a closed set of names, for outcomes, the ledger, and programs that tell one from another.

It owns the names and knows nothing of who finds what. A reason is a sentence for people; a flaw is what it is an instance of.
"""

from __future__ import annotations

from typing import Literal

#: `refusal`, `truncated`, `empty`: the model would not answer, was cut off at `max_output_tokens`, or said nothing.
#: `invalid_json`, `schema`: it is not in the form that was asked for. `check`, `judge`, `audit`: the step's own check, a judge or
#: an audit found it wrong. `check_broken`: the check itself failed, so that nobody knows.
Flaw = Literal["refusal", "truncated", "empty", "invalid_json", "schema", "check", "judge", "audit", "check_broken"]
