"""Who may look at Flower, and from where."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import SecretStr

from fleet.errors import BadInputError
from fleet.flower_door import HEALTH, Access, Door, OAuth, access

EVERYWHERE = "0.0.0.0"  # noqa: S104  nothing is bound here
BASIC = SecretStr("ops:a long password")
WHOLE = {
    "auth": ".*@example.com",
    "auth_provider": "github",
    "oauth2_key": "key",
    "oauth2_secret": "secret",
    "oauth2_redirect_uri": "https://flower.example.com/login",
}


@pytest.fixture(autouse=True)
def no_oauth_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WHOLE:
        monkeypatch.delenv(f"FLOWER_{name.upper()}", raising=False)


def oauth(**changes: Any) -> OAuth:
    return OAuth(**(WHOLE | changes))


def header(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_nobody_has_to_say_who_they_are(host: str) -> None:
    assert access(host, None, OAuth()) == Access()


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "::", "", "10.0.0.7", "flower.internal", "::ffff:127.0.0.1", "localhost.evil"]
)
def test_beyond_loopback_flower_is_refused_without_a_password_or_oauth(host: str) -> None:
    with pytest.raises(BadInputError, match="FLEET_FLOWER_BASIC_AUTH"):
        access(host, None, OAuth())
    assert access(host, BASIC, OAuth()).basic == "ops:a long password"
    assert access(host, None, oauth()).oauth is not None


@pytest.mark.parametrize("odd", ["ops", "ops:", ":password-of-nobody", "", "ops:ein Paßwort mit ß"])
def test_a_password_needs_a_user_and_a_password(odd: str) -> None:
    with pytest.raises(BadInputError, match="user:password"):
        access("127.0.0.1", SecretStr(odd), OAuth())


def test_a_short_password_will_do_on_loopback_alone() -> None:
    assert access("127.0.0.1", SecretStr("ops:short"), OAuth()).basic == "ops:short"
    with pytest.raises(BadInputError, match="shorter than 12"):
        access(EVERYWHERE, SecretStr("ops:short"), OAuth())


@pytest.mark.parametrize("missing", [name for name in WHOLE if name != "auth"])
def test_oauth_needs_all_of_its_options(missing: str) -> None:
    with pytest.raises(BadInputError, match=f"FLOWER_{missing.upper()}"):
        access(EVERYWHERE, None, oauth(**{missing: None}))


@pytest.mark.parametrize("everybody", [".*", "*", ".*@.*", "*@*", "a@b.c|.*@d.e", "example.com"])
def test_oauth_says_who_is_let_in(everybody: str) -> None:
    with pytest.raises(BadInputError, match="e-mail addresses"):
        access(EVERYWHERE, None, oauth(auth=everybody))


def test_an_unknown_provider_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInputError, match="github"):
        access(EVERYWHERE, None, oauth(auth_provider="githup"))
    with pytest.raises(BadInputError, match="FLOWER_AUTH_PROVIDER"):
        access(EVERYWHERE, None, oauth(auth_provider="os.system"))


def test_both_at_once_are_refused() -> None:
    with pytest.raises(BadInputError, match="both set"):
        access(EVERYWHERE, BASIC, oauth())


def test_the_options_of_oauth_are_flowers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(f"FLOWER_{name.upper()}", value)
    found = access(EVERYWHERE, None, OAuth()).oauth
    assert found is not None
    assert found.auth_provider == "flower.views.auth.GithubLoginHandler"


def asked(door: Door, path: str, method: str = "GET", **how: Any) -> bool:
    given: dict[str, Any] = {"authorization": "", "signed_in": False, "here": True} | how
    return door.opens(method, path, **given)


@pytest.mark.parametrize(
    "path",
    ["/", "/tasks", "/metrics", "/static/js/flower.js", "/api/tasks", "/login", "/healthcheck/", "//healthcheck"],
)
def test_without_the_password_nothing_answers_but_the_health(path: str) -> None:
    door = Door(access(EVERYWHERE, BASIC, OAuth()))
    assert asked(door, HEALTH)
    assert not asked(door, HEALTH, "POST")
    assert not asked(door, path)
    assert not asked(door, path, signed_in=True)
    assert asked(door, path, authorization=header("ops:a long password"))
    assert (door.status, list(door.headers)) == (401, ["WWW-Authenticate"])


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "Basic",
        "Basic x",
        header("ops:wrong"),
        header("ops:a long passwor"),
        header(":"),
        "Bearer b3Bz",
        "Basic \u00e9",
        header("ops:é"),
    ],
)
def test_a_wrong_password_opens_nothing(wrong: str) -> None:
    assert not asked(Door(access(EVERYWHERE, BASIC, OAuth())), "/", authorization=wrong)


def test_with_oauth_only_the_way_to_the_provider_is_open() -> None:
    door = Door(access(EVERYWHERE, None, oauth()))
    assert [asked(door, path) for path in ("/login", "/login/", HEALTH)] == [True] * 3
    assert [asked(door, path) for path in ("/", "/metrics", "/static/x", "/login/x", "/logout")] == [False] * 5
    assert asked(door, "/metrics", signed_in=True)
    assert (door.status, door.headers) == (401, {})


def test_on_loopback_what_was_passed_on_is_refused() -> None:
    door = Door(access("127.0.0.1", None, OAuth()))
    assert asked(door, "/tasks")
    assert not asked(door, "/tasks", here=False)
    assert door.status == 403
