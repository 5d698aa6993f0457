"""Where the fleet is that a client was not told of, and what it shows there. It opens no connection."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from fleet.config import Environment
from fleet.errors import BadInputError

#: What can stand in a header. A key that cannot is refused here: a library would show it in its error.
_KEY = re.compile(r"[\x21-\x7e]{1,200}")


def address(url: str | None, key: str | None) -> tuple[str, dict[str, str]]:
    """The base URL of the API, and the headers that every request carries.

    What is not given comes from FLEET_API_URL and FLEET_API_KEY; without a URL it is the fleet that runs in this folder.

    Raises:
        BadInputError: there is no fleet to find, or URL or key cannot be one.
    """
    environment = Environment()
    if key is None and environment.fleet_api_key is not None:
        key = environment.fleet_api_key.get_secret_value()
    if key is not None and not _KEY.fullmatch(key):
        raise BadInputError(
            "The key of the API (FLEET_API_KEY) has characters that no key has; `fleet keys create` makes one."
        )
    url = url or environment.fleet_api_url or _in_this_folder(environment)
    headers = {"User-Agent": "tierfleet"}
    return _checked(url), headers | ({} if key is None else {"Authorization": f"Bearer {key}"})


def _in_this_folder(environment: Environment) -> str:
    # What can start a fleet takes a second to import, and who has a URL does not need it.
    from fleet.embedded import running_in  # noqa: PLC0415

    found = (running_in(environment.fleet_state) or {}).get("api")
    if found is None:
        raise BadInputError(
            "There is no fleet to ask: set FLEET_API_URL to the address of its API, or start one in this folder with `fleet up`."
        )
    return found


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    # What stands before an @ is a password, and would be shown with the URL.
    if not fits or "@" in parts.netloc or parts.query or parts.fragment:
        raise BadInputError(
            "The address of the API (FLEET_API_URL) has to be http:// or https://, a host, and no more than a path."
        )
    return url.rstrip("/")
