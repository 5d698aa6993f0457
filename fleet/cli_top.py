"""`fleet top`: the fleet on a screen, live. It owns the terminal while it runs, and gives it back as it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator

import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live

from fleet.client import FleetClient
from fleet.output import Output, print_data
from fleet.session import ask, environment_here
from fleet.top import Looks, Top
from fleet.top_view import TopView

commands = typer.Typer()

#: Seconds from one look to the next, and over which a single look takes its rates.
EVERY_S = 1.0
QUIT = b"qQ\x03\x04"
FOOT = "q ends this; `fleet jobs get JOB` says more of a job"


@commands.command()
def top(output: Output = "text") -> None:
    """What runs now: tiers, limits, the busiest jobs, dollars an hour. Live on a terminal, one look when piped; q ends it."""
    console = Console()
    live = output == "text" and console.is_terminal and not console.is_dumb_terminal

    async def question(client: FleetClient) -> Top | None:
        looks = Looks(client)
        await looks.begin()
        if live:
            await _watch(looks, console)
            return None
        await asyncio.sleep(EVERY_S)
        return await looks.look()

    seen = ask(environment_here(), question)
    if seen is not None:
        print_data(seen, output, TopView(seen))


async def _watch(looks: Looks, console: Console) -> None:
    """Show look after look until somebody ends it. Raises RedisError when there is nothing to show at all."""
    ended = asyncio.Event()
    with _keys(ended), Live(console=console, screen=True, auto_refresh=False) as screen:
        showing, waiting = asyncio.create_task(_show(looks, screen)), asyncio.create_task(ended.wait())
        done, left = await asyncio.wait({showing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        if showing in done:
            showing.result()


async def _show(looks: Looks, screen: Live) -> None:
    seen: Top | None = None
    while True:
        trouble = ""
        try:
            seen = await looks.look()
        except RedisError as error:
            if seen is None:
                raise
            trouble = f"the store does not answer: {error}"
        screen.update(TopView(seen, trouble=trouble, foot=FOOT, height=screen.console.size.height), refresh=True)
        await asyncio.sleep(EVERY_S)


@contextlib.contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """While the block runs, q and the signals that end a command set `ended`, and keys are not echoed."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def pressed() -> None:
        keys = os.read(stdin, 64)
        if not keys or any(key in QUIT for key in keys):
            ended.set()

    for number in signals:
        loop.add_signal_handler(number, ended.set)
    before = termios.tcgetattr(stdin) if sys.stdin.isatty() else None
    if before is not None:
        tty.setcbreak(stdin)
        loop.add_reader(stdin, pressed)
    try:
        yield
    finally:
        if before is not None:
            loop.remove_reader(stdin)
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        for number in signals:
            loop.remove_signal_handler(number)
