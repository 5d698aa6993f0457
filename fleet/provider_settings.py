"""What an operator says of an account with a vendor: keys of the configuration. Data only; `fleet.providers` opens accounts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class ProviderConfig(BaseModel):
    """An account with a vendor: where it is, which key opens it, which wire it speaks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: An entry of `PROVIDERS` (`fleet.providers`).
    kind: Literal["openai"] = "openai"
    #: `auto`: the Responses API at the vendor's own address, chat completions (what everybody speaks) at any other.
    wire: Literal["auto", "responses", "chat"] = "auto"
    #: Left out: `OPENAI_BASE_URL`, else the vendor's own address.
    base_url: str | None = None
    #: The variable that holds the key.
    key_env: str = "OPENAI_API_KEY"
    #: Send `prompt_cache_key`, so that calls with the same beginning meet the same cache; left out: to the vendor's own address.
    cache_key: bool | None = None
    #: Send `service_tier: default` where it is not `flex`, so that no setting of the vendor's project has calls served, and
    #: billed, as `priority`, and none is held at that price; left out: to the vendor's own address.
    service_tier: bool | None = None
