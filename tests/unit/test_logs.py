"""The form of a line, the ids in it, and what of others' words may be in one."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Any

import pytest
from pydantic import TypeAdapter

from fleet import logs
from fleet.errors import BadInputError
from fleet.redaction import Redactor
from fleet.subject import about, also_about, subject
from queues.confirms import NotTakenError
from queues.rabbit import LostError

CONTENT = "what the customer wrote"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """What is logged as JSON while the test runs; afterwards everything logs as before."""
    root, stream = logging.getLogger(), StringIO()
    before = (root.handlers[:], root.level, sys.excepthook, sys.unraisablehook)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("OPENAI_API_KEY", "unmistakable-key")
    logs.set_up("json")
    yield stream
    logging.captureWarnings(False)
    root.handlers[:], level, sys.excepthook, sys.unraisablehook = before
    root.setLevel(level)


def line(said: StringIO) -> dict[str, Any]:
    """The one line that was said."""
    (only,) = said.getvalue().splitlines()
    told: dict[str, Any] = json.loads(only)
    return told


def test_a_line_says_when_who_what_and_about_which_attempt(said: StringIO) -> None:
    with about(job="j1", subtask="j1/topic/3"), about(attempt="j1/topic/3.7.1"):
        logging.getLogger("fleet.executor").warning("a permit was not returned: %s", TimeoutError("late"))
    told = line(said)
    assert set(told) == {"time", "level", "logger", "process", "message", "job", "subtask", "attempt"}
    assert told["time"].endswith("Z")
    assert told["level"] == "warning"
    assert told["logger"] == "fleet.executor"
    assert told["message"] == "a permit was not returned: TimeoutError: late"
    assert (told["job"], told["subtask"], told["attempt"]) == ("j1", "j1/topic/3", "j1/topic/3.7.1")


def test_an_error_is_a_part_of_its_line(said: StringIO) -> None:
    try:
        try:
            json.loads("{" + CONTENT)
        except ValueError as error:
            raise KeyError(CONTENT) from error
    except KeyError:
        logging.getLogger("fleet.runner").exception("it failed", extra={"subtask": "j1/a/0"})
    told = line(said)
    assert told["errors"] == ["KeyError", "JSONDecodeError"]
    assert told["at"][0].startswith(f"{__name__}:")
    assert (told["job"], told["subtask"]) == ("j1", "j1/a/0")
    assert CONTENT not in said.getvalue()


def test_text_has_the_same_in_one_line() -> None:
    record = logging.LogRecord("fleet.api", logging.ERROR, "", 1, "failed\nERROR forged %s", ("x\x1b[2J",), None)
    record.job = "j1"
    try:
        raise FileNotFoundError(2, "No such file or directory", CONTENT)
    except OSError:
        record.exc_info = sys.exc_info()
    told = logs.TextLine(Redactor()).format(record)
    assert len(told.splitlines()) == 1
    assert "ERROR" in told
    assert "fleet.api: failed\\nERROR forged x\\x1b[2J job=j1 error=FileNotFoundError: No such file" in told
    assert CONTENT not in told


def test_ids_are_lines_too(said: StringIO) -> None:
    logging.getLogger("fleet.x").warning("m", extra={"subtask": "j1/\x1b[2J\n" + "x" * 10_000})
    assert len(line(said)["subtask"]) == 200
    assert "\x1b" not in said.getvalue()


def test_what_other_libraries_put_into_their_words_is_not_told(said: StringIO) -> None:
    log = logging.getLogger("celery.worker.consumer")
    body = f'\'[[], {{"text": "{CONTENT}"}}]\' (77b)'
    log.error("Received unregistered task of type %s.\nThe body was:\n%s", "x.y", body)
    log.error("Can't decode message body: %r [type:%r]", ValueError(CONTENT), "application/json")
    log.error("Request options: %s", {"json_data": {"input": CONTENT}})
    log.error("Task %(name)s[%(id)s] raised: %(exc)s", {"name": "n", "id": "i", "exc": CONTENT})
    log.error(ValueError(CONTENT))
    assert [json.loads(one)["message"] for one in said.getvalue().splitlines()] == [
        "Received unregistered task of type x.y.\\nThe body was:\\n(withheld)",
        "Can't decode message body: 'ValueError' [type:'application/json']",
        "Request options: (withheld)",
        "Task n[i] raised: (withheld)",
        "ValueError",
    ]


def test_why_a_broker_is_lost_is_told(said: StringIO) -> None:
    logging.getLogger("celery.worker.consumer").warning(
        "%s (%r)", "Connection lost.", LostError("it closed the channel")
    )
    logging.getLogger("queues.dispatcher").warning("dispatch interrupted: %s", NotTakenError("its memory is full"))
    assert [json.loads(one)["message"] for one in said.getvalue().splitlines()] == [
        "(withheld) ('LostError: it closed the channel')",
        "dispatch interrupted: NotTakenError: its memory is full",
    ]


def test_words_that_other_libraries_put_together_are_not_told(said: StringIO) -> None:
    log = logging.getLogger("kombu.connection")
    log.error(f"Cannot send {CONTENT}")
    log.error(f"Cannot send {CONTENT} to %s", "nano")
    log.error("Cannot send")
    messages = [json.loads(one)["message"] for one in said.getvalue().splitlines()]
    assert messages == ["(withheld)", "(withheld)", "Cannot send"]


def test_a_number_that_may_not_be_told_costs_the_words_nothing() -> None:
    record = logging.LogRecord("fleet.x", logging.ERROR, "", 1, "%d of them", (ValueError(CONTENT),), None)
    assert json.loads(logs.JsonLine(Redactor()).format(record))["message"] == "%d of them"


def test_names_numbers_and_addresses_of_other_libraries_are_told(said: StringIO) -> None:
    logging.getLogger("uvicorn.error").info("Uvicorn running on %s://%s:%d", "http", "127.0.0.1", 8080)
    assert line(said)["message"] == "Uvicorn running on http://127.0.0.1:8080"


def test_celery_lines_about_a_task_have_its_ids(said: StringIO) -> None:
    log = logging.getLogger("celery.worker.request")
    log.error("Hard time limit (%ss) exceeded for %s[%s]", 60.0, "fleet.run_subtask.v1", "j1/topic/3")
    assert (line(said)["job"], line(said)["subtask"]) == ("j1", "j1/topic/3")


def test_celery_lines_with_data_have_them_too(said: StringIO) -> None:
    data = {"id": "j1/plan.1", "name": "fleet.plan_job.v1", "exc": CONTENT, "traceback": CONTENT}
    logging.getLogger("celery.app.trace").error("Task %(name)s[%(id)s]: %(exc)s", data, extra={"data": data})
    assert line(said)["subtask"] == "j1/plan.1"
    assert CONTENT not in said.getvalue()


def test_asyncio_names_no_result_and_no_argument(said: StringIO) -> None:
    async def fails() -> None:
        raise ValueError(CONTENT)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(int, CONTENT)
        task = loop.create_task(fails(), name="its name")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    asyncio.run(main())
    told = [json.loads(one) for one in said.getvalue().splitlines()]
    assert [one["errors"] for one in told] == [["ValueError"], ["ValueError"]]
    assert CONTENT not in said.getvalue()


def test_secrets_of_the_process_and_chatter_are_not_logged(said: StringIO) -> None:
    logging.getLogger("fleet.x").warning("the key is unmistakable-key")
    logging.getLogger("httpx2").info("HTTP Request: POST http://x")
    logging.getLogger("celery.app.trace").info("Task succeeded")
    assert line(said)["message"] == "the key is ***"


def test_a_collector_that_is_away_is_worth_one_line(said: StringIO) -> None:
    for _ in range(5):
        logging.getLogger("opentelemetry.exporter.otlp").error("Failed to export %s", "spans")
        logging.getLogger("fleet.x").warning("said")
    told = [json.loads(one)["logger"] for one in said.getvalue().splitlines()]
    assert told.count("opentelemetry.exporter.otlp") == 1
    assert told.count("fleet.x") == 5


def test_warnings_of_code_are_told_and_those_that_quote_values_are_not(said: StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("coroutine was never awaited", RuntimeWarning, stacklevel=1)
        TypeAdapter(Mapping[str, int]).dump_python({"a": CONTENT})  # type: ignore[dict-item]
        logging.captureWarnings(False)
    told = [json.loads(one)["message"] for one in said.getvalue().splitlines()]
    assert "coroutine was never awaited" in told[0]
    assert len(told) == 2
    assert CONTENT not in said.getvalue()


def test_an_error_that_nobody_caught_is_a_line(said: StringIO) -> None:
    try:
        raise ValueError(CONTENT)
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert line(said)["errors"] == ["ValueError"]
    assert CONTENT not in said.getvalue()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(BadInputError, match=r'FLEET_LOG_FORMAT is "jsno" \(did you mean "json"\?\)'):
        logs.set_up("jsno")


def test_what_one_task_is_about_the_other_is_not() -> None:
    async def one(number: int) -> Mapping[str, str]:
        with about(job=f"j{number}"):
            await asyncio.sleep(0)
            also_about(subtask=f"j{number}/a")
            await asyncio.sleep(0)
            return dict(subject())

    async def main() -> list[Mapping[str, str]]:
        found = await asyncio.gather(*(one(i) for i in range(3)))
        assert not subject()
        return found

    assert asyncio.run(main()) == [{"job": f"j{i}", "subtask": f"j{i}/a"} for i in range(3)]


def test_what_is_known_later_is_known_outside_too_and_nowhere_without_a_block() -> None:
    async def inner() -> None:
        also_about(job="j1")

    async def main() -> None:
        with about():
            await asyncio.create_task(inner())
            assert subject() == {"job": "j1"}

    also_about(job="j2")
    assert not subject()
    asyncio.run(main())
