"""OpenAI's own client, pointed at the fleet: `FLEET_API_URL=... FLEET_API_KEY=... python openai_python.py`."""

import os

from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam as User
from pydantic import BaseModel


class Ticket(BaseModel):
    topic: str
    urgent: bool


client = OpenAI(base_url=os.environ["FLEET_API_URL"] + "/v1", api_key=os.environ["FLEET_API_KEY"])
ticket = "The export crashes with an error since Monday. Three customers are waiting for it."
summarise: list[User] = [{"role": "user", "content": f"Summarise: {ticket}"}]

# `auto` starts on the cheapest tier that is likely to do; nano, mini and flagship name one.
answer = client.chat.completions.create(model="auto", messages=summarise)
print(answer.choices[0].message.content)

# The answer is checked against the schema, and made again a tier up where it does not keep it.
sort: list[User] = [{"role": "user", "content": f"Sort this ticket: {ticket}"}]
parsed = client.chat.completions.parse(model="auto", messages=sort, response_format=Ticket)
print(parsed.choices[0].message.parsed)

for chunk in client.chat.completions.create(model="nano", messages=summarise, stream=True):
    print(chunk.choices[0].delta.content or "", end="")
print()
