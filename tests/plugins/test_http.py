"""What plugins are given for vendors over HTTP, against a server that does all that vendors do."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from marketd.domain.errors import (
    MarketdError,
    NotReady,
    ProviderFailed,
    ProviderRateLimited,
    UnknownSymbol,
)
from marketd.plugins import http
from marketd.plugins.http import HttpClient, decode

KEY = "hush-hush"


async def answer(request: web.Request) -> web.StreamResponse:
    if request.headers.get("X-Key") != KEY:
        return web.json_response({}, status=401)
    status = int(request.query.get("status", 200))
    if "elsewhere" in request.query:
        raise web.HTTPFound(request.query["elsewhere"])
    if "cut" in request.query:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"[1")
        assert request.transport is not None
        request.transport.close()
        return response
    headers = {"Retry-After": request.query["wait"]} if "wait" in request.query else {}
    return web.Response(status=status, text=request.query.get("text", "[1, 2]"), headers=headers)


async def many(request: web.Request) -> web.Response:
    return web.json_response(list(range(int(request.query["count"]))))


@pytest.fixture
async def vendor() -> AsyncIterator[TestServer]:
    app = web.Application()
    app.add_routes([web.get("/v1/answer", answer), web.get("/v1/many", many)])
    async with TestServer(app) as server:
        yield server


@pytest.fixture
async def client(vendor: TestServer) -> AsyncIterator[HttpClient]:
    client = HttpClient("Acme", str(vendor.make_url("/v1/")), headers={"X-Key": KEY})
    yield client
    await client.close()


def numbers(answered: Any) -> list[int]:
    return [int(one) for one in answered]


async def test_an_answer_is_read(client: HttpClient) -> None:
    assert await client.get("/answer", {"text": "[3, 4]", "nothing": None}, numbers) == [3, 4]


async def test_while_a_large_answer_is_decoded_the_loop_goes_on() -> None:
    body = json.dumps([{"symbol": f"S{number}", "name": "x" * 400} for number in range(20_000)])
    turns: list[int] = [0]
    at: list[int] = []

    def work() -> Any:
        at.append(turns[0])
        decoded = decode(body)
        at.append(turns[0])
        return decoded

    decoding = asyncio.create_task(asyncio.to_thread(work))
    while not decoding.done():
        turns[0] += 1
        await asyncio.sleep(0)
    assert decoding.result() == json.loads(body)
    assert at[1] - at[0] >= 3


@pytest.mark.parametrize("text", ["[NaN]", "[1", "[" * 100_000])
def test_what_is_no_json_is_not_decoded(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        decode(text)


async def test_a_large_answer_is_read_in_another_thread(client: HttpClient) -> None:
    def where(answered: Any) -> tuple[int, threading.Thread]:
        return len(answered), threading.current_thread()

    assert await client.get("/many", {"count": 3}, where) == (3, threading.main_thread())
    length, thread = await client.get("/many", {"count": 50_000}, where)
    assert length == 50_000
    assert thread is not threading.main_thread()


@pytest.mark.parametrize(
    ("status", "kind", "transient"),
    [
        (302, ProviderFailed, False),
        (400, ProviderFailed, False),
        (401, ProviderFailed, False),
        (403, ProviderFailed, False),
        (404, UnknownSymbol, None),
        (408, ProviderFailed, True),
        (429, ProviderRateLimited, True),
        (500, ProviderFailed, True),
        (503, ProviderFailed, True),
    ],
)
async def test_a_status_is_told_as_what_it_means(
    client: HttpClient, status: int, kind: type[MarketdError], transient: bool | None
) -> None:
    with pytest.raises(MarketdError) as told:
        await client.get("/answer", {"status": status}, numbers)
    assert type(told.value) is kind
    assert getattr(told.value, "transient", None) is transient
    assert told.value.message.startswith("Acme")


async def test_the_vendor_s_own_figure_of_patience_is_passed_on(client: HttpClient) -> None:
    for wait, expected in (("7", 7.0), ("soon", None), ("-1", None)):
        with pytest.raises(ProviderRateLimited) as told:
            await client.get("/answer", {"status": 429, "wait": wait}, numbers)
        assert told.value.retry_after_s == expected


@pytest.mark.parametrize("text", ["", "<html>", "[1", '["a"]', "3", '{"a": {}}', "null"])
async def test_what_cannot_be_read_is_the_vendor_s_failure(client: HttpClient, text: str) -> None:
    with pytest.raises(ProviderFailed, match="cannot be read"):
        await client.get("/answer", {"text": text}, numbers)


async def test_an_answer_that_is_cut_off_is_no_answer(client: HttpClient) -> None:
    with pytest.raises(ProviderFailed, match="cannot be reached"):
        await client.get("/answer", {"cut": 1}, numbers)


async def test_an_answer_without_an_end_is_given_up(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_LARGEST_BODY", 1_000)
    with pytest.raises(ProviderFailed, match="more than one answer"):
        await client.get("/many", {"count": 10_000}, numbers)


async def test_a_key_does_not_follow_a_redirection(client: HttpClient, vendor: TestServer) -> None:
    with pytest.raises(ProviderFailed, match="302"):
        await client.get("/answer", {"elsewhere": str(vendor.make_url("/v1/many?count=1"))}, numbers)


async def test_no_sentence_holds_the_key_or_the_address(vendor: TestServer) -> None:
    stolen = HttpClient("Acme", str(vendor.make_url("/v1")), headers={"X-Key": "stolen-key"})
    nowhere = HttpClient("Acme", "http://127.0.0.1:1", headers={"X-Key": "stolen-key"})
    for client in (stolen, nowhere):
        with pytest.raises(ProviderFailed) as told:
            await client.get("/answer", {}, numbers)
        assert "stolen" not in told.value.message
        assert "127.0.0.1" not in told.value.message
        await client.close()


async def test_closed_it_asks_nobody_and_it_may_be_closed_unused(client: HttpClient) -> None:
    await client.close()
    with pytest.raises(NotReady):
        await client.get("/answer", {}, numbers)
