"""A job id is only given out for what the store keeps: a job that may be lost is not accepted, or taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.errors import StoreUnavailableError
from fleet.jobs import JobStatus
from queues.admission import NotDurableError
from tests.support.bench import Bench, config, on_bench
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey

WRITE = {"id": "write", "tier": "nano", "prompt": "Write it.", "max_output_tokens": 100}


def test_a_store_that_keeps_nothing_on_disk_refuses_a_job_before_anything_is_written(
    tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        before = set(await fleet.runtime.link.execute("KEYS", "*"))
        with pytest.raises(StoreUnavailableError, match="set appendonly yes"):
            await fleet.submit(steps=[WRITE])
        assert set(await fleet.runtime.link.execute("KEYS", "*")) == before
        assert await fleet.release() == []

    (tmp_path / "valkey").mkdir()
    forgetful = Valkey(tmp_path / "valkey", "--appendonly", "no")
    try:
        on_bench(scenario, forgetful, tmp_path, config(), sim=sim.url)
    finally:
        forgetful.stop()


@pytest.mark.parametrize("sent", [False, True], ids=["before its message is sent", "with its message on the way"])
def test_a_job_that_turns_out_not_to_be_on_disk_is_taken_back(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, sent: bool
) -> None:
    async def scenario(fleet: Bench) -> None:
        real = fleet.runtime.acceptance.admission.on_disk
        late = []

        async def is_not() -> None:
            if sent:
                late.extend(await fleet.release())
                assert len(late) == 1
            raise NotDurableError("The store did not write to its disk.")

        fleet.runtime.acceptance.admission.on_disk = is_not  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError, match="did not write to its disk"):
            await fleet.submit(steps=[WRITE], budget_usd=1)
        for message, tier in late:
            assert await fleet.perform(message, tier) is None, "there is nothing to plan any more"
        assert await fleet.client.latest(10) == []
        for kind in ("job", "j", "s", "c", "q"):
            assert await fleet.runtime.link.execute("KEYS", f"fleet:{kind}:*") == []
        assert await fleet.runtime.store.reconcile() == []

        fleet.runtime.acceptance.admission.on_disk = real  # type: ignore[method-assign]
        job = await fleet.run(await fleet.submit(steps=[WRITE]))
        assert job.status is JobStatus.COMPLETED, "the next one is not held up by what is left"
        assert len(fleet.provider.asked) == 1

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)


def test_a_job_that_has_begun_is_not_taken_back_and_its_id_is_said(
    valkey: Valkey, tmp_path: Path, sim: RunningSim
) -> None:
    async def scenario(fleet: Bench) -> None:
        async def is_not() -> None:
            for message, tier in await fleet.release():
                await fleet.perform(message, tier)
            raise NotDurableError("The store did not write to its disk.")

        fleet.runtime.acceptance.admission.on_disk = is_not  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError) as error:
            await fleet.submit(steps=[WRITE])
        ((job_id, _),) = await fleet.client.latest(10)
        assert f"The job {job_id} is there already" in str(error.value)
        assert (await fleet.run(job_id)).status is JobStatus.COMPLETED

    on_bench(scenario, valkey, tmp_path, config(), sim=sim.url)
