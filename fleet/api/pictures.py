"""Pictures that callers name by their addresses: fetched here, as somebody outside would, and sent along as data.

A vendor that stands in the fleet's own network would fetch any address from there. It owns how many, and how large, pictures of a
call may be; which addresses may be asked is `fleet.outside`'s to know.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from fleet.api.openai_errors import OpenAIError
from fleet.errors import AddressRefusedError, OutsideError
from fleet.outside import Outside
from fleet.sources import media_type_of

MOST_PICTURES, MOST_BYTES = 20, 8_000_000


async def fetched(messages: Any, outside: Outside) -> None:
    """Put the pictures themselves where their addresses stand in the messages of a conversation, as they came in.

    Raises:
        OpenAIError: 400, one of them cannot be had.
    """
    left = MOST_BYTES
    for number, (where, picture) in enumerate(_named(messages)):
        if number >= MOST_PICTURES:
            message = f"At most {MOST_PICTURES} pictures of a call may be named by their addresses."
            raise OpenAIError(400, message, param=where, code="invalid_image_url")
        try:
            answer = await outside.get(picture["url"], left)
        except (AddressRefusedError, OutsideError) as error:
            raise OpenAIError(
                400, f"The picture cannot be had: {error}", param=where, code="invalid_image_url"
            ) from None
        kind = media_type_of(answer.body) if answer.status == 200 else None
        if kind is None:
            message = "There is no PNG, JPEG, GIF or WebP picture at this address."
            raise OpenAIError(400, message, param=where, code="invalid_image_url")
        left -= len(answer.body)
        picture["url"] = f"data:{kind};base64,{base64.b64encode(answer.body).decode()}"


def _named(messages: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a picture is named by its address, and what names it. What has another form is for others to refuse."""
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, part in enumerate(content if isinstance(content, list) else ()):
            picture = part.get("image_url") if isinstance(part, dict) else None
            if not isinstance(picture, dict):
                continue
            url = picture.get("url")
            if isinstance(url, str) and url.lower().startswith(("http:", "https:")):
                yield f"messages[{i}].content[{j}].image_url.url", picture
