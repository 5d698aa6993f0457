"""Who is let in to Flower: decided before it listens, and asked of every request before Flower sees it.

Beyond this machine nobody looks without a password or an account that somebody vouches for; nothing but `/healthcheck` answers
the others, not `/metrics` (scrapers find that at FLEET_METRICS_ADDRESS), not a picture. On loopback without either, whoever came
through a proxy or from another site's page is refused. It knows headers and cookies; no page of Flower's.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleet.documents import nearest
from fleet.errors import BadInputError
from fleet.loopback import is_loopback

#: What answers anybody: that the process serves, and nothing else.
HEALTH = "/healthcheck"
#: Where an OAuth provider sends its users back to.
LOGIN = "/login"
#: Flower's, by what they are called here.
PROVIDERS = {
    "google": "flower.views.auth.GoogleAuth2LoginHandler",
    "github": "flower.views.auth.GithubLoginHandler",
    "gitlab": "flower.views.auth.GitLabLoginHandler",
    "okta": "flower.views.auth.OktaLoginHandler",
}
#: Shortest password that is taken beyond loopback, where it can be tried again and again.
PASSWORD_LENGTH = 12


class OAuth(BaseSettings):
    """Flower's own options for OAuth, by its own names: FLOWER_AUTH, FLOWER_AUTH_PROVIDER, FLOWER_OAUTH2_KEY, …"""

    model_config = SettingsConfigDict(env_prefix="FLOWER_", env_ignore_empty=True, frozen=True, extra="ignore")

    #: Whose e-mail addresses are let in: one, several with `|` between them, or `.*@example.com`.
    auth: str | None = None
    #: `google`, `github`, `gitlab` or `okta`.
    auth_provider: str | None = None
    #: The id that the provider gave this Flower.
    oauth2_key: str | None = None
    #: The secret that goes with it.
    oauth2_secret: SecretStr | None = None
    #: Where the provider sends its users back to: Flower's own address, with /login.
    oauth2_redirect_uri: str | None = None


@dataclass(frozen=True)
class Access:
    """Who is let in: whoever has the password, whoever the provider vouches for, or with neither whoever is on this machine."""

    #: `user:password`.
    basic: str | None = None
    oauth: OAuth | None = None


def access(host: str, basic: SecretStr | None, oauth: OAuth) -> Access:
    """Who is let in to a Flower that listens on `host`.

    Raises:
        BadInputError: others could reach it without being asked who they are; or what was given does not do.
    """
    if basic is not None and oauth.auth is not None:
        raise BadInputError("FLEET_FLOWER_BASIC_AUTH and FLOWER_AUTH are both set; Flower takes one of them.")
    if oauth.auth is not None:
        return Access(oauth=_whole(oauth))
    if basic is not None:
        user, _, password = basic.get_secret_value().partition(":")
        if not user or not password or not basic.get_secret_value().isascii():
            raise BadInputError("FLEET_FLOWER_BASIC_AUTH is not of the form user:password, in ASCII.")
        if len(password) < PASSWORD_LENGTH and not is_loopback(host):
            raise BadInputError(
                f"The password in FLEET_FLOWER_BASIC_AUTH is shorter than {PASSWORD_LENGTH} characters, and whoever reaches "
                f"{host or 'any address'} may try passwords: take a longer one."
            )
        return Access(basic=basic.get_secret_value())
    if not is_loopback(host):
        raise BadInputError(
            f"Flower on {host or 'any address'} would show the fleet to whoever reaches it: set FLEET_FLOWER_BASIC_AUTH to "
            "user:password, or FLOWER_AUTH and what goes with it for OAuth, or serve on 127.0.0.1."
        )
    return Access()


class Door:
    """Asks of one request whether it may go on."""

    def __init__(self, access: Access) -> None:
        self._access = access
        password = access.basic is not None
        #: What whoever is not let in is told: the status, and the headers that have a browser ask for a password.
        self.status = 403 if access == Access() else 401
        self.headers = {"WWW-Authenticate": 'Basic realm="Flower", charset="UTF-8"'} if password else {}

    def opens(self, method: str, path: str, *, authorization: str, signed_in: bool, here: bool) -> bool:
        """Whether whoever asked is let in.

        `authorization`: that header; `signed_in`: Flower has let the user of this cookie in before; `here`: what
        `fleet.loopback.from_here` says.
        """
        if path == HEALTH and method in ("GET", "HEAD"):
            return True
        if self._access.basic is not None:
            return _has(authorization, self._access.basic)
        if self._access.oauth is not None:
            return signed_in or (path.rstrip("/") == LOGIN and method == "GET")
        return here


def _whole(oauth: OAuth) -> OAuth:
    needed = ("auth_provider", "oauth2_key", "oauth2_secret", "oauth2_redirect_uri")
    missing = [f"FLOWER_{name.upper()}" for name in needed if getattr(oauth, name) is None]
    if missing:
        raise BadInputError(f"FLOWER_AUTH is set, which asks for OAuth, and this is not: {', '.join(missing)}.")
    given = str(oauth.auth_provider)
    provider = PROVIDERS.get(given, given)
    if provider not in PROVIDERS.values():
        raise BadInputError(f'FLOWER_AUTH_PROVIDER is "{given}"{nearest(given, PROVIDERS)}.')
    pattern = str(oauth.auth)
    domain = pattern.rpartition("@")[2]
    if "@" not in pattern or "*" in domain or pattern.count("*") > 1 or ("*" in pattern and "|" in pattern):
        raise BadInputError(
            "FLOWER_AUTH says whose e-mail addresses are let in: one, several with | between them, or .*@example.com."
        )
    return oauth.model_copy(update={"auth_provider": provider})


def _has(header: str, basic: str) -> bool:
    """Whether an Authorization header carries this user and password, at a cost that does not say how near it was."""
    scheme, _, sent = header.partition(" ")
    try:
        given = base64.b64decode(sent.strip(), validate=True) if scheme.lower() == "basic" else b""
    except ValueError:  # not base64
        given = b""
    return hmac.compare_digest(given, basic.encode())
