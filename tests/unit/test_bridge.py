"""Crossing from synchronous bodies to coroutines."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest

from queues import bridge
from queues.bridge import Background, Crossing, OutsidePoolError, await_, in_crossing


def drive(body: Callable[[], Any]) -> Any:
    return asyncio.run(Crossing(body).drive())


async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


def test_a_body_gets_values_and_errors_of_what_it_awaits() -> None:
    def body() -> list[Any]:
        seen = [await_(later(1))]
        with pytest.raises(ValueError, match="no"):
            await_(later(ValueError("no")))
        return [*seen, await_(later(2)), in_crossing()]

    assert drive(body) == [1, 2, True]


def test_a_body_that_awaits_nothing_and_one_that_raises() -> None:
    def fail() -> None:
        await_(later(1))
        raise KeyError("own")

    assert drive(lambda: 3) == 3
    with pytest.raises(KeyError, match="own"):
        drive(fail)


def test_awaiting_outside_says_what_to_do_and_leaves_no_coroutine_behind() -> None:
    assert not in_crossing()
    with pytest.raises(OutsidePoolError, match=r"elsewhere use await"):
        await_(later(1))


def test_context_variables_are_those_of_the_driving_task() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    def body(number: int) -> list[int]:
        before = variable.get()
        variable.set(number)
        await_(asyncio.sleep(0))
        return [before, variable.get()]

    async def main() -> list[Any]:
        return await asyncio.gather(*[asyncio.create_task(Crossing(lambda n=n: body(n)).drive()) for n in (1, 2, 3)])

    assert asyncio.run(main()) == [[0, 1], [0, 2], [0, 3]]


def test_an_interrupt_is_raised_in_the_await_and_the_body_may_go_on() -> None:
    cleaned: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append("coroutine")

    def body() -> str:
        try:
            await_(long())
        except TimeoutError:
            cleaned.append("body")
        return str(await_(later("went on")))

    async def main() -> Any:
        crossing = Crossing(body)
        driver = asyncio.create_task(crossing.drive())
        await asyncio.sleep(0)
        crossing.interrupt(TimeoutError(), driver)
        result = await driver
        assert not driver.cancelling()
        return result

    assert asyncio.run(main()) == "went on"
    assert cleaned == ["coroutine", "body"]


def test_cancelling_the_driver_ends_the_body() -> None:
    ended: list[str] = []

    def body() -> None:
        try:
            await_(asyncio.sleep(60))
        finally:
            ended.append("body")

    async def main() -> None:
        driver = asyncio.create_task(Crossing(body).drive())
        await asyncio.sleep(0)
        driver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driver

    asyncio.run(main())
    assert ended == ["body"]


def test_background_coroutines_live_from_start_to_stop_and_start_again_when_they_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridge, "RESTART_DELAYS", (0.0, 0.0))
    said: list[str] = []

    async def main() -> None:
        background, running = Background(), asyncio.Event()

        async def watch() -> None:
            said.append("started")
            if said.count("started") < 3:
                raise ValueError("again")
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                said.append("ended")

        background.add(watch)
        assert said == []
        background.start(asyncio.get_running_loop())
        await asyncio.wait_for(running.wait(), 5)
        await background.stop(5)

    asyncio.run(main())
    assert said == ["started", "started", "started", "ended"]
