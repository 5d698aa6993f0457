"""A whole conversation as a request to a model, in the vendor's chat form: messages, tools, the form of the answer, sampling.

It owns which parts of that form a fleet passes on, and how many tokens they may be. It knows no connection, no tier and no
limit; what it does not name is refused where it comes in. Source: the vendor's API reference, "Create chat completion".
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fleet.config import Frozen
from fleet.schemas import check_schema, check_short
from fleet.stored import KEPT
from fleet.tokens import Size, estimate_tokens, image_size, picture_bound, picture_tokens

MAX_MESSAGES, MAX_PARTS, MAX_TOOLS = 2_048, 500, 128
#: Of a picture only the header is decoded; a JPEG can have a large preview before it.
IMAGE_HEAD_CHARS = 400_000
#: Tokens that a wire adds around each message.
MESSAGE_TOKENS = 4
#: Longest answer where the caller names none; a model's own limit may be lower.
DEFAULT_OUTPUT_TOKENS, MOST_OUTPUT_TOKENS = 16_384, 200_000

#: What callers keep with a request.
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
#: What a request says of itself and not of its conversation.
OF_THE_REQUEST = frozenset(
    (
        "logprobs",
        "metadata",
        "modalities",
        "model",
        "n",
        "service_tier",
        "store",
        "stream",
        "stream_options",
    )
)

#: What of that may be asked for, of what changes the answer.
ONLY: dict[str, tuple[Any, ...]] = {"logprobs": (None, False), "modalities": (None, ["text"]), "n": (None, 1)}

#: JSON has numbers and truth values; text that looks like one is none.
Truth = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Lenient(BaseModel):
    """A part that callers send back as they got it: what is in it besides is dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TextPart(Lenient):
    type: Literal["text"]
    text: str


class ImageUrl(Lenient):
    #: `data:image/png;base64,...`. A vendor would fetch any other address from wherever it stands, so there is none.
    url: Annotated[str, Field(pattern=r"^data:image/[a-z+.-]{1,40};base64,")]
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Lenient):
    type: Literal["image_url"]
    image_url: ImageUrl


class RefusalPart(Lenient):
    type: Literal["refusal"]
    refusal: str


Texts = str | Annotated[tuple[TextPart, ...], Field(min_length=1, max_length=MAX_PARTS)]
Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Said = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class Instruction(Lenient):
    role: Literal["system", "developer"]
    content: Texts
    name: str | None = None


class UserMessage(Lenient):
    role: Literal["user"]
    content: str | Annotated[tuple[Part, ...], Field(min_length=1, max_length=MAX_PARTS)]
    name: str | None = None


class CalledFunction(Lenient):
    name: str
    arguments: str


class ToolCall(Lenient):
    """What a model asked to be called: JSON text that nobody here reads."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Lenient):
    role: Literal["assistant"]
    content: str | Annotated[tuple[Said, ...], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Field(max_length=MAX_TOOLS)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls and self.refusal is None:
            raise ValueError("an assistant's message needs content or tool_calls")
        return self


class ToolMessage(Lenient):
    role: Literal["tool"]
    tool_call_id: str
    content: Texts


Message = Annotated[
    Instruction | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]


class Function(Frozen):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Truth | None = None


class Tool(Frozen):
    type: Literal["function"]
    function: Function


class NamedFunction(Frozen):
    name: Name


class NamedTool(Frozen):
    type: Literal["function"]
    function: NamedFunction


class TextFormat(Frozen):
    type: Literal["text"]


class JsonFormat(Frozen):
    type: Literal["json_object"]


class JsonSchema(Frozen):
    name: Name
    description: str | None = None
    #: Called so here because pydantic has a `schema` of its own.
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: Truth | None = None

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    @field_validator("schema_")
    @classmethod
    def _usable(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if info.context is not KEPT:
            check_schema(check_short(value))
        return value


class SchemaFormat(Frozen):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class Conversation(Frozen):
    """What is asked of a model; what is `None` is left to the vendor."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[tuple[Tool, ...], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Truth | None = None
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    #: Most tokens of the answer; `max_tokens` is its older name.
    max_completion_tokens: Annotated[int, Field(strict=True, gt=0, le=MOST_OUTPUT_TOKENS)] | None = None
    max_tokens: Annotated[int, Field(strict=True, gt=0, le=MOST_OUTPUT_TOKENS)] | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(strict=True, ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(strict=True, ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[tuple[str, ...], Field(min_length=1, max_length=4)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Conversation:
        asked: set[str] = set()
        for number, message in enumerate(self.messages):
            if isinstance(message, AssistantMessage):
                asked |= {call.id for call in message.tool_calls or ()}
            elif isinstance(message, ToolMessage) and message.tool_call_id not in asked:
                raise ValueError(f"messages[{number}] answers a tool call that no message before it makes")
        if self.tools is None and self.tool_choice not in (None, "none"):
            raise ValueError("tool_choice is only for conversations with tools")
        if isinstance(self.tool_choice, NamedTool):
            names = {tool.function.name for tool in self.tools or ()}
            if self.tool_choice.function.name not in names:
                raise ValueError(f'tool_choice names "{self.tool_choice.function.name}", which is none of the tools')
        return self

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Conversation:
        """That of a whole request, without what is about the request itself.

        Raises:
            ValidationError: it is none.
            ValueError: the request asks for more than one answer, or for what an answer here does not have.
        """
        for name, had in ONLY.items():
            if body.get(name) not in had:
                raise ValueError(f"{name} is not what a fleet has")
        return cls.model_validate({name: value for name, value in body.items() if name not in OF_THE_REQUEST})

    @property
    def schema(self) -> dict[str, Any] | None:  # type: ignore[override]
        """The JSON schema that the answer has to match, if any."""
        form = self.response_format
        if isinstance(form, SchemaFormat):
            return form.json_schema.schema_
        return {"type": "object"} if isinstance(form, JsonFormat) else None

    @property
    def most_output_tokens(self) -> int:
        return self.max_completion_tokens or self.max_tokens or DEFAULT_OUTPUT_TOKENS

    def body(self) -> dict[str, Any]:
        """As the vendor takes it, but for model and output limit, which are not the caller's alone to say."""
        return self.model_dump(
            mode="json", exclude_none=True, exclude={"max_tokens", "max_completion_tokens"}, by_alias=True
        )

    def kept(self) -> dict[str, Any]:
        """As it is written down."""
        return self.model_dump(mode="json", exclude_none=True, by_alias=True)

    def texts(self) -> Iterator[str]:
        """All that a model reads of it but for pictures."""
        for message in self.messages:
            said = message.content
            if isinstance(said, str):
                yield said
            else:
                yield from (part.text for part in said or () if isinstance(part, TextPart))
            if isinstance(message, AssistantMessage):
                yield from (call.function.name + call.function.arguments for call in message.tool_calls or ())
        if self.tools is not None:
            yield json.dumps([tool.model_dump(exclude_none=True) for tool in self.tools])
        if isinstance(self.response_format, SchemaFormat):
            yield json.dumps(self.response_format.json_schema.schema_)

    def input_estimate(self, model: str = "") -> int:
        """Estimated input tokens."""
        pictures = sum(picture_tokens(model, size) for size in self._pictures())
        return sum(map(estimate_tokens, self.texts())) + pictures + MESSAGE_TOKENS * len(self.messages)

    def input_bound(self, model: str = "") -> int:
        """The most input tokens it can be, for reservations: half a token for each byte that is sent, and pictures."""
        sent = len(self.model_dump_json(exclude_none=True, by_alias=True).encode())
        seen = sum(len(part.image_url.url) for part in self._shown())
        pictures = sum(picture_bound(model, size) for size in self._pictures())
        return math.ceil((sent - seen) / 2) + pictures + MESSAGE_TOKENS * len(self.messages)

    def followed_by(self, text: str) -> Conversation:
        """The same with something more said to the model."""
        return self.model_copy(update={"messages": (*self.messages, UserMessage(role="user", content=text))})

    @property
    def pictures(self) -> int:
        """How many pictures are in it."""
        return sum(1 for _ in self._shown())

    def _pictures(self) -> Iterator[Size]:
        return (_size(part.image_url.url) for part in self._shown())

    def _shown(self) -> Iterator[ImagePart]:
        for message in self.messages:
            if isinstance(message, UserMessage) and not isinstance(message.content, str):
                yield from (part for part in message.content if isinstance(part, ImagePart))


def _size(url: str) -> Size:
    head = url.partition(",")[2][: IMAGE_HEAD_CHARS // 4 * 4]
    try:
        return image_size(base64.b64decode(head[: len(head) // 4 * 4]))
    except (binascii.Error, ValueError):
        return None
