"""Uploaded files over real HTTP: the official client's tour, items out of files, and what leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from fleet.api import files as routes
from fleet.api import forms
from tests.support.api import JOB, Api, on_api, on_disk, stored
from tests.support.archives import HOSTILE, archive
from tests.support.sim import RunningSim
from tests.support.valkey import Valkey
from tests.support.worker import eventually

LINES = b'"a"\n"b"\n"c"\n'
CAP = 1_000_000


def test_the_official_client_takes_its_tour(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key=await api.key(), max_retries=0) as client:
            made = await client.files.create(
                file=("ünï items.jsonl", LINES),
                purpose="user_data",
                expires_after={"anchor": "created_at", "seconds": 3_600},
            )
            assert (made.filename, made.bytes, made.purpose) == ("ünï items.jsonl", len(LINES), "user_data")
            assert made.expires_at == made.created_at + 3_600
            assert (await client.files.retrieve(made.id)).model_dump() == made.model_dump()
            assert (await client.files.content(made.id)).content == LINES
            async with client.files.with_streaming_response.content(made.id) as answer:
                assert b"".join([chunk async for chunk in answer.iter_bytes()]) == LINES
            others = [await client.files.create(file=io.BytesIO(b"x"), purpose="batch") for _ in range(4)]
            assert others[0].expires_at == others[0].created_at + 2_592_000
            listed = [file.id async for file in client.files.list(limit=2)]
            assert listed == [file.id for file in reversed([made, *others])]
            assert [file.id async for file in client.files.list(limit=2, order="asc")] == listed[::-1]
            assert [file.id async for file in client.files.list(purpose="user_data")] == [made.id]
            # While its pages are turned the files go.
            async for file in client.files.list(limit=2):
                gone = await client.files.delete(file.id)
                assert (gone.id, gone.deleted) == (file.id, True)
            assert (await client.files.list()).data == []
            with pytest.raises(openai.NotFoundError) as missed:
                await client.files.retrieve(made.id)
            assert (missed.value.param, missed.value.type) == ("id", "invalid_request_error")
            assert str(missed.value.request_id).startswith("req_")
            with pytest.raises(openai.BadRequestError) as refused:
                await client.files.create(file=("a", b"x"), purpose="nonsense")  # type: ignore[arg-type]
            assert refused.value.param == "purpose"
            with pytest.raises(openai.BadRequestError) as refused:
                await client.files.list(limit=10_001)
            assert (refused.value.param, "limit" in refused.value.message) == ("limit", True)
            wrong = client.with_options(api_key="flk_wrong")
            with pytest.raises(openai.AuthenticationError):
                await wrong.files.list()
        assert not on_disk(tmp_path)

    on_api(scenario, valkey, tmp_path, sim)


def test_a_large_file_comes_and_goes_in_parts(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        data = bytes(range(256)) * 20_000 + b"\r\n--not the end"
        file = await api.upload(key, data, "a.bin")
        async with api.session.get(
            f"{api.url}/v1/files/{file}/content", headers={"Authorization": f"Bearer {key}"}
        ) as answer:
            assert (await answer.read(), answer.headers["Content-Length"]) == (data, str(len(data)))

    on_api(scenario, valkey, tmp_path, sim)


@pytest.mark.parametrize(
    ("name", "data", "count"),
    [
        ("items.jsonl", LINES, 3),
        ("items.json", b'["a", "b"]', 2),
        ("items.csv", b"a,b\n1,2\n", 1),
        ("items.zip", archive({"a.txt": b"one", "b/c.txt": b"two"}), 2),
    ],
)
def test_a_job_has_its_items_out_of_a_file_and_keeps_them(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, name: str, data: bytes, count: int
) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key("acme")
        file = await api.upload(key, data, name)
        status, job, _ = await api.ask("POST", "/v1/jobs", key, json=JOB | {"items": {"file": file}})
        assert status == 202, job
        assert (await api.ask("DELETE", f"/v1/files/{file}", key))[0] == 200
        await api.fleet.run(job["id"])
        _, done, _ = await api.ask("GET", f"/v1/jobs/{job['id']}", key)
        assert (done["status"], done["counts"]["done"]) == ("completed", count)

    on_api(scenario, valkey, tmp_path, sim)


def test_a_key_stands_for_one_file(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        first, second = [await api.upload(key, LINES, "a.jsonl") for _ in range(2)]

        async def submit(file: str) -> tuple[int, Any]:
            body, headers = JOB | {"items": {"file": file}}, {"Idempotency-Key": "once"}
            status, answer, _ = await api.ask("POST", "/v1/jobs", key, json=body, headers=headers)
            return status, answer.get("id")

        accepted = await submit(first)
        assert (accepted[0], await submit(first)) == (202, accepted)
        assert (await submit(second))[0] == 409

    on_api(scenario, valkey, tmp_path, sim)


def test_a_file_whose_time_is_over_is_gone(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(api: Api) -> None:
        key, other = await api.key(), await api.key("acme")
        now = time.time()
        file = await api.upload(key, LINES, "a.jsonl", "batch")
        monkeypatch.setattr(time, "time", lambda: now + 2_592_001)
        assert (await api.ask("GET", f"/v1/files/{file}", key))[0] == 404
        assert (await api.ask("GET", "/v1/files", key))[1]["data"] == []
        assert on_disk(tmp_path)
        last = await api.upload(other, b"x", "b.bin")
        assert _owners(tmp_path) == [f"files/acme/{last}"], "the next one that comes, whoever's, sweeps it out"
        assert not [name for name in await stored(api) if file.encode() in name]

    on_api(scenario, valkey, tmp_path, sim)


def test_a_record_without_its_bytes_is_no_file(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        file = await api.upload(key, LINES, "a.jsonl")
        (name,) = on_disk(tmp_path)
        (tmp_path / "blobs" / name).unlink()
        for path in (f"/v1/files/{file}", f"/v1/files/{file}/content"):
            assert (await api.ask("GET", path, key))[0] == 404
        assert (await api.ask("POST", "/v1/jobs", key, json=JOB | {"items": {"file": file}}))[0] == 422

    on_api(scenario, valkey, tmp_path, sim)


def _owners(folder: Path) -> list[str]:
    """Tenant and id of each file that has bytes on the disk."""
    return [re.sub(r"\.[0-9a-f]{8}/content$", "", name) for name in on_disk(folder)]


def _form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end


def _field(name: str, value: bytes) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value


FILE = ('Content-Disposition: form-data; name="file"; filename="a.jsonl"', LINES)
PURPOSE = _field("purpose", b"user_data")
NESTED = (
    "Content-Type: multipart/mixed; boundary=c\r\nContent-Disposition: form-data; name=x",
    b"--c\r\n\r\nx\r\n--c--",
)
EXPIRES = ("expires_after[anchor]", "expires_after[seconds]")
MALFORMED: list[tuple[str, bytes, int]] = [
    ("nothing", b"", 400),
    ("no boundary in it", b"x" * 1_000, 400),
    ("only line breaks", b"\n" * 900_000, 400),
    ("a long preamble", b"\r\n" * 600 + _form(FILE, PURPOSE), 400),
    ("one long line", b"x" * 900_000 + b"\n", 400),
    ("no end", _form(FILE, PURPOSE, end=b""), 400),
    ("no end of the file", _form(FILE)[:-20], 400),
    ("another end", _form(FILE, PURPOSE, end=b"--c--\r\n"), 400),
    ("a boundary that goes on", _form(FILE, PURPOSE, end=b"--bb--\r\n"), 400),
    ("a header without an end", b"--b\r\nContent-Disposition: " + b"x" * 100_000, 400),
    ("no header", b"--b\r\nnonsense\r\n\r\nx\r\n--b--\r\n", 400),
    ("many headers", b"--b\r\n" + b"X-A: b\r\n" * 1_000 + b"\r\nx\r\n--b--\r\n", 400),
    ("many parts", _form(FILE, PURPOSE, *(_field(f"f{i}", b"") for i in range(30))), 400),
    ("parts in a part", _form(NESTED, FILE, PURPOSE), 400),
    ("a part without a name", _form(FILE, PURPOSE, ("Content-Disposition: form-data", b"x")), 400),
    ("two files", _form(FILE, FILE, PURPOSE), 400),
    ("two purposes", _form(FILE, PURPOSE, PURPOSE), 400),
    ("a long field", _form(FILE, PURPOSE, _field("x", b"x" * 20_000)), 400),
    ("a field that is no text", _form(FILE, _field("purpose", b"\xff")), 400),
    ("no file", _form(PURPOSE), 400),
    ("a field for a file", _form(_field("file", LINES), PURPOSE), 400),
    ("an empty file", _form((FILE[0], b""), PURPOSE), 400),
    ("no purpose", _form(FILE), 400),
    ("another purpose", _form(FILE, _field("purpose", b"batch_output")), 400),
    ("half an expiry", _form(FILE, PURPOSE, _field("expires_after[seconds]", b"3600")), 400),
    ("an expiry of no number", _form(FILE, PURPOSE, *map(_field, EXPIRES, (b"created_at", b"1e9"))), 400),
    ("a short expiry", _form(FILE, PURPOSE, *map(_field, EXPIRES, (b"created_at", b"10"))), 400),
    ("a file that is too large", _form((FILE[0], b"x" * (CAP + 1)), PURPOSE), 413),
    ("a field that is too large", _form(_field("purpose", b"x" * (CAP + 1)), FILE), 400),
]


@pytest.mark.parametrize(("body", "status"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_a_form_that_is_none_leaves_nothing(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int
) -> None:
    monkeypatch.setattr(routes, "MAX_FILE_BYTES", CAP)

    async def scenario(api: Api) -> None:
        key = await api.key()
        before = await stored(api)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        code, refused, told = await api.ask("POST", "/v1/files", key, data=io.BytesIO(body), headers=headers)
        assert (code, refused["error"]["type"]) == (status, "invalid_request_error"), refused
        assert told["x-request-id"].startswith("req_")
        assert (await stored(api), on_disk(tmp_path)) == (before, {})

    on_api(scenario, valkey, tmp_path, sim)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "b" * 100,
        "multipart/form-data; boundary=",
    ],
)
def test_a_body_of_another_kind_is_refused(valkey: Valkey, tmp_path: Path, sim: RunningSim, kind: str) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        form = _form(FILE, PURPOSE)
        code, _, _ = await api.ask("POST", "/v1/files", key, data=form, headers={"Content-Type": kind})
        assert (code, on_disk(tmp_path)) == (400, {})

    on_api(scenario, valkey, tmp_path, sim)


NAMES: list[tuple[str, str]] = [
    ('filename="../../etc/passwd"', "passwd"),
    ('filename="/etc/passwd"', "passwd"),
    (r'filename="C:\\Users\\me\\a.csv"', "a.csv"),
    ('filename=".."', "upload"),
    ('filename="a/../"', "upload"),
    ('filename=""', "upload"),
    ('filename="a;b=c;d.csv"', "a;b=c;d.csv"),
    (r'filename="say \"hi\".csv"', 'say "hi".csv'),
    ("filename*=UTF-8''a%0d%0aSet-Cookie%3a%20x%3d1.csv", "a Set-Cookie: x=1.csv"),
    ("filename*=UTF-8''%e2%80%aegpj.exe", "gpj.exe"),
    ("filename*=UTF-8''%1b%5b31mred.csv", "red.csv"),
    ("filename*=nonsense''%ff.csv", "ÿ.csv"),
    (f'filename="{"x" * 5_000}.csv"', "x" * 199 + "…"),
    ('filename="ünï.csv"', "ünï.csv"),
]


@pytest.mark.parametrize(("given", "shown"), NAMES, ids=[shown[:20] for _, shown in NAMES])
def test_a_name_is_shown_and_never_a_path_or_a_header(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, given: str, shown: str
) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        body = _form((f'Content-Disposition: form-data; name="file"; {given}', LINES), PURPOSE)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        code, file, _ = await api.ask("POST", "/v1/files", key, data=body, headers=headers)
        assert (code, file.get("filename")) == (200, shown), file
        assert _owners(tmp_path) == [f"files/default/{file['id']}"]
        _, _, told = await api.ask("GET", f"/v1/files/{file['id']}/content", key)
        assert "Set-Cookie" not in told
        assert told["Content-Disposition"].isascii()
        assert (told["Content-Type"], told["X-Content-Type-Options"]) == ("application/octet-stream", "nosniff")

    on_api(scenario, valkey, tmp_path, sim)


async def _sent(api: Api, key: str, head: str, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request of which only so much has been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    lines = ("POST /v1/files HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}", head)
    writer.write(
        "\r\n".join((*lines, "Content-Type: multipart/form-data; boundary=b", "", "")).encode() + b"".join(parts)
    )
    await writer.drain()
    return reader, writer


async def _status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    try:
        async with asyncio.timeout(30):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


def test_a_body_that_says_it_is_huge_is_not_waited_for(valkey: Valkey, tmp_path: Path, sim: RunningSim) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        assert await _status(*await _sent(api, key, f"Content-Length: {10**12}")) == 413
        assert not on_disk(tmp_path)

    on_api(scenario, valkey, tmp_path, sim)


def test_a_body_without_a_length_is_read_no_further_than_the_cap(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_FILE_BYTES", CAP)

    async def scenario(api: Api) -> None:
        key = await api.key()
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        begun = b"--b\r\n" + FILE[0].encode() + b"\r\n\r\n"
        first = f"{len(begun):x}\r\n".encode() + begun + b"\r\n"
        # No more than it takes to be over the cap, read in parts of 256 KiB with one ahead, and never an end.
        sent = await _sent(api, key, "Transfer-Encoding: chunked", first, *[chunk] * 21)
        assert await _status(*sent) == 413
        assert not on_disk(tmp_path)

    on_api(scenario, valkey, tmp_path, sim)


@pytest.mark.parametrize("head", ["Content-Length: 500000", "Transfer-Encoding: chunked"])
def test_an_upload_that_is_cut_off_leaves_nothing(valkey: Valkey, tmp_path: Path, sim: RunningSim, head: str) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        before = await stored(api)
        begun = b"--b\r\n" + FILE[0].encode() + b"\r\n\r\n" + b"x" * 300_000
        chunked = b"%x\r\n%s\r\n" % (len(begun), begun)
        _, writer = await _sent(api, key, head, chunked if "chunked" in head else begun)

        async def is_written() -> bool:
            return bool(on_disk(tmp_path))

        async def is_gone() -> bool:
            return not [*(tmp_path / "blobs").glob("files/*/*")]

        await eventually(is_written, "the first bytes")
        writer.transport.abort()
        await eventually(is_gone, "them to go")
        assert await stored(api) == before

    on_api(scenario, valkey, tmp_path, sim)


def test_an_upload_that_comes_too_slowly_is_given_up(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "PATIENCE_S", 0.0)
    monkeypatch.setattr(forms, "SLOWEST", 10**9)

    async def scenario(api: Api) -> None:
        key = await api.key()
        sent = await _sent(api, key, "Content-Length: 500000", b"--b\r\n" + FILE[0].encode() + b"\r\n\r\n")
        assert await _status(*sent) == 408
        assert not on_disk(tmp_path)

    on_api(scenario, valkey, tmp_path, sim)


@pytest.mark.parametrize(
    "make", [case[1] for case in HOSTILE if "bomb" in case[0] or "up" in case[0] or "link" in case[0]]
)
def test_of_a_hostile_archive_there_is_no_job(
    valkey: Valkey, tmp_path: Path, sim: RunningSim, make: Callable[[], bytes]
) -> None:
    async def scenario(api: Api) -> None:
        key = await api.key()
        file = await api.upload(key, make(), "a.zip")
        before, disk = await stored(api), on_disk(tmp_path)
        headers = {"Idempotency-Key": "once"}
        body = JOB | {"items": {"file": file}}
        status, problem, _ = await api.ask("POST", "/v1/jobs", key, json=body, headers=headers)
        assert (status, str(tmp_path) in json.dumps(problem)) == (422, False)
        assert (await stored(api), on_disk(tmp_path)) == (before, disk)

    on_api(scenario, valkey, tmp_path, sim)
