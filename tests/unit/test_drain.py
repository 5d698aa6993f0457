"""Waiting that ends when the process is asked to, and what else may end it in the same moment."""

from __future__ import annotations

import asyncio

import pytest

from fleet.drain import Drain, GiveBack


def test_what_waits_is_given_back_and_what_comes_later_does_not_begin() -> None:
    async def scenario() -> None:
        drain = Drain()
        began: list[str] = []

        async def waits(name: str) -> None:
            began.append(name)
            await asyncio.sleep(3_600)

        first = asyncio.create_task(drain.unless(waits("first")))
        await asyncio.sleep(0)
        drain.set()
        with pytest.raises(GiveBack, match="drains"):
            await first
        with pytest.raises(GiveBack, match="drains"):
            await drain.unless(waits("second"))
        assert began == ["first"]

    asyncio.run(scenario())


def test_what_was_waited_for_comes_back_with_its_value_or_its_error() -> None:
    async def gives(value: int) -> int:
        await asyncio.sleep(0)
        return 1 // value

    async def scenario() -> None:
        drain = Drain()
        assert await drain.unless(gives(1)) == 1
        with pytest.raises(ZeroDivisionError):
            await drain.unless(gives(0))

    asyncio.run(scenario())


def test_a_task_that_is_cancelled_by_others_is_cancelled_drain_or_not() -> None:
    async def scenario() -> None:
        drain = Drain()
        alone = asyncio.create_task(drain.unless(asyncio.sleep(3_600)))
        both = asyncio.create_task(drain.unless(asyncio.sleep(3_600)))
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.wait({alone})
        both.cancel()
        drain.set()
        await asyncio.wait({both})
        assert alone.cancelled()
        assert both.cancelled()

    asyncio.run(scenario())


def test_asking_twice_does_not_end_what_is_cleaned_up() -> None:
    async def scenario() -> None:
        drain = Drain()
        cleaned = asyncio.Event()

        async def waits() -> None:
            try:
                await asyncio.sleep(3_600)
            finally:
                await asyncio.sleep(0)
                cleaned.set()

        waiting = asyncio.create_task(drain.unless(waits()))
        await asyncio.sleep(0)
        drain.set()
        await asyncio.sleep(0)
        drain.set()
        with pytest.raises(GiveBack):
            await waiting
        assert cleaned.is_set()

    asyncio.run(scenario())


def test_what_fails_as_it_is_ended_is_given_back() -> None:
    async def scenario() -> None:
        drain = Drain()

        async def waits() -> None:
            try:
                await asyncio.sleep(3_600)
            finally:
                raise ConnectionError("the store is away")

        waiting = asyncio.create_task(drain.unless(waits()))
        await asyncio.sleep(0)
        drain.set()
        with pytest.raises(GiveBack):
            await waiting
        assert waiting.cancelling() == 0

    asyncio.run(scenario())


def test_whoever_was_given_back_can_go_on() -> None:
    async def scenario() -> None:
        drain = Drain()

        async def worker() -> str:
            try:
                await drain.unless(asyncio.sleep(3_600))
            except GiveBack:
                await asyncio.sleep(0)
                return "handed on"
            return "done"

        working = asyncio.create_task(worker())
        await asyncio.sleep(0)
        drain.set()
        assert await working == "handed on"

    asyncio.run(scenario())
