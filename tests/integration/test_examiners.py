"""Checks in processes of their own: what they say, and that nothing they do reaches the worker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet import examiner, examiners
from fleet.examiners import BrokenCheckError, Examiners

ROOT = Path(__file__).resolve().parents[2]
#: A regular expression that the guard of schemas lets pass, and that takes its time: each part can end anywhere.
SLOW = "a*a*a*a*a*a*a*b"


def ask(*questions: dict[str, Any], within_s: float = 5.0) -> list[str | BrokenCheckError | None]:
    """The replies to questions that are asked at once."""

    async def asked() -> list[Any]:
        asking = Examiners()
        try:
            return await asyncio.gather(*map(asking.ask, questions), return_exceptions=True)
        finally:
            asking.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examiners, "CHECK_S", within_s)
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        return asyncio.run(asked())


def question(name: str, output: Any = "an answer", **others: Any) -> dict[str, Any]:
    return {"target": f"tests.support.operator_checks:{name}", "output": output, "item": None, "needs": {}} | others


def test_a_check_sees_output_item_and_needs_and_says_why_not() -> None:
    given = question("seen", {"topic": "bug"}, item={"text": "é"}, needs={"sort": [1]})
    replies = ask(given, question("short", "short"), question("short", "not so short"))
    assert replies == ["{'topic': 'bug'} {'text': 'é'} {'sort': [1]}", None, "say it in eight characters"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "it raised ValueError"),
        ("exits", "it ended the process that it ran in"),
        ("agrees", "it returned bool, and not None or a reason"),
        ("waits", "it returned coroutine, and not None or a reason"),
        ("missing", "tests.support.operator_checks:missing cannot be imported: AttributeError"),
    ],
)
def test_a_check_that_fails_is_told_from_one_that_rejects(name: str, said: str) -> None:
    (broken,) = ask(question(name))
    assert isinstance(broken, BrokenCheckError)
    assert str(broken) == said, "and quotes nothing of the answer"


def test_what_takes_too_long_ends_and_those_beside_it_do_not() -> None:
    slow = {"regex": SLOW, "text": "a" * 5_000}
    *broken, fine = ask(question("sleeps"), question("spins"), slow, question("short", "ok"), within_s=0.5)
    assert fine is None
    assert [str(one) for one in broken] == ["it took over 0.5 s"] * 3


def test_more_questions_than_examiners_each_have_their_turn(tmp_path: Path) -> None:
    answers = [question("short", "x" * size) for size in range(20)]
    assert [reply is None for reply in ask(*answers)] == [size <= 8 for size in range(20)]


def test_an_examiner_that_ended_by_itself_is_no_fault_of_the_check(tmp_path: Path) -> None:
    assert ask(question("exits_once", str(tmp_path / "once"))) == [None]


def test_an_examiner_ends_with_its_worker_and_by_itself_should_it_hang() -> None:
    """Even when nobody is left to kill it."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(examiner.__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    examiner.send(process.stdin, [str(ROOT), *sys.path])
    examiner.send(process.stdin, question("spins") | {"check_s": 0.3, "import_s": 30})
    process.stdin.close()
    assert process.wait(30) == -14, "the kernel's timer"
    process.stdout.close()
