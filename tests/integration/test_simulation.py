"""Who says that nobody is charged: the fleet itself, whatever whoever submits a job has in the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from fleet import providers
from fleet.client import FleetClient
from fleet.config import Environment, ProviderConfig
from fleet.runtime import Runtime
from tests.support.bench import Bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

WRITE = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}


@pytest.mark.parametrize("simulated", [True, False])
def test_a_job_says_what_its_fleet_uses_and_not_what_its_submitter_has(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, simulated: bool
) -> None:
    async def scenario(shell: Bench) -> None:
        keys = {True: None, False: SecretStr("a key")}
        here = shell.runtime.environment
        shell.runtime.environment = here.model_copy(update={"openai_api_key": keys[not simulated]})
        fleet = Runtime.from_environment(here.model_copy(update={"openai_api_key": keys[simulated]}))
        try:
            silent = await shell.submit(steps=[WRITE])
            await fleet.simulation.note()
            told = await shell.submit(steps=[WRITE])
        finally:
            await fleet.aclose()
        client = FleetClient(shell.runtime)
        assert (await client.job(silent)).simulated is not simulated, "nobody had said anything"
        job = await client.job(told)
        assert job.simulated is simulated
        assert (await client.progress(job)).simulated is simulated

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_an_account_with_an_address_or_a_key_of_its_own_is_not_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "a key")
    nothing = Environment(openai_api_key=None, openai_base_url=None)
    assert providers.stands_in(ProviderConfig(), nothing)
    for account in (ProviderConfig(base_url="http://127.0.0.1:9/v1"), ProviderConfig(key_env="OTHER_KEY")):
        assert not providers.stands_in(account, nothing)
        assert providers.address_of(account, nothing, "http://sim") != "http://sim"
