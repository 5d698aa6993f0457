"""Vendors: `PROVIDERS` names the kinds there are, `connect` opens an account of the configuration.

A new kind is one class with the methods of `fleet.providers.base.Provider` and one entry here.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from fleet.config import Environment, ProviderConfig
from fleet.errors import BadInputError
from fleet.providers.base import Provider
from fleet.providers.openai import VENDOR_URL, OpenAIProvider, is_vendor

#: From an account's configuration, base URL, key and name to the provider, by `kind`.
PROVIDERS: dict[str, Callable[[ProviderConfig, str, str, str], Provider]] = {
    "openai": lambda config, base_url, api_key, name: OpenAIProvider(config, base_url, api_key, name=name),
}

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
#: Sent where no key is needed; the client insists on one.
NO_KEY = "none"


def connect(name: str, config: ProviderConfig, environment: Environment, simulated_url: str | None) -> Provider:
    """The provider called `name`, at its own base URL, `OPENAI_BASE_URL`, the simulated provider's, or the vendor's.

    The simulated provider at `simulated_url` stands in when the environment holds neither key nor base URL and the
    configuration names no address. Wire `auto` is the Responses API with the vendor and the simulated provider, chat
    completions with everybody else.

    Raises:
        BadInputError: the vendor wants a key and there is none, or no simulated provider runs to stand in.
    """
    key = key_of(config, environment)
    base_url = config.base_url or environment.openai_base_url
    if stands_in(config, environment):
        if simulated_url is None:
            raise BadInputError(
                f"The provider {name} has neither a key nor a base URL and no simulated provider runs; set "
                f"{config.key_env}, or start one with `fleet sim` and set OPENAI_BASE_URL to its address."
            )
        base_url = simulated_url
    base_url = base_url or VENDOR_URL
    if key is None and is_vendor(base_url):
        raise BadInputError(f"The provider {name} needs a key; set {config.key_env}.")
    own = is_vendor(base_url) or base_url == simulated_url
    unsaid = [name for name in ("cache_key", "service_tier") if getattr(config, name) is None]
    config = config.model_copy(update=dict.fromkeys(unsaid, own))
    if config.wire == "auto":
        config = config.model_copy(update={"wire": "responses" if own else "chat"})
    return PROVIDERS[config.kind](config, base_url, key or NO_KEY, name)


def stands_in(config: ProviderConfig, environment: Environment) -> bool:
    """Whether the simulated provider answers for an account: it has no address, and nobody has a key."""
    return config.base_url is None and key_of(config, environment) is None and environment.simulated


def address_of(config: ProviderConfig, environment: Environment, simulated_url: str | None) -> str:
    """The base URL of an account."""
    return (
        config.base_url
        or environment.openai_base_url
        or (simulated_url if stands_in(config, environment) else None)
        or VENDOR_URL
    )


def key_of(config: ProviderConfig, environment: Environment) -> str | None:
    """The key of an account, None when there is none."""
    if config.key_env == DEFAULT_KEY_ENV:
        return None if environment.openai_api_key is None else environment.openai_api_key.get_secret_value()
    return os.environ.get(config.key_env) or None
