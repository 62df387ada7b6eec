"""What comes from a client that writes its bytes itself."""

from __future__ import annotations

import asyncio
import gzip
import logging
from typing import Any

import orjson
import pytest
from asking import spoken_problem

from marketd.daemon import Daemon

PATIENCE_S = 30
MOST_BODY = 64 * 1024
OHLCV = "/api/v1/ohlcv?market=crypto&provider=sim&timeframe=1m&symbol="


class Line:
    """A TCP connection to the daemon."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @staticmethod
    async def to(daemon: Daemon) -> Line:
        host, port = daemon.url.removeprefix("http://").split(":")
        return Line(*await asyncio.open_connection(host, int(port)))

    async def ask(self, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and body that are answered to `parts`, sent one after another."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self._reader.readexactly(int(headers["Content-Length"]))
        return int(status.split()[1]), headers, body

    async def ended(self) -> bool:
        """Whether the daemon has hung up, once it has said everything."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read() == b""

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@pytest.fixture
async def line(daemon: Daemon) -> Any:
    opened = await Line.to(daemon)
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def nothing_goes_wrong_inside(caplog: pytest.LogCaptureFixture) -> Any:
    """Nobody fills the log by sending rubbish."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def get(target: str | bytes, *headers: str) -> bytes:
    path = target if isinstance(target, bytes) else target.encode()
    return b"\r\n".join((b"GET " + path + b" HTTP/1.1", b"Host: x", *map(str.encode, headers), b"", b""))


def problem_in(answer: tuple[int, dict[str, str], bytes], status: int) -> dict[str, Any]:
    found, headers, body = answer
    return spoken_problem(found, headers, orjson.loads(body), status)


async def still_serves(line: Line) -> None:
    assert (await line.ask(get("/healthz")))[::2] == (200, b'{"status":"ok"}')


BROKEN = [
    b"\r\n\r\n\0\0\0",
    b"rubbish\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",  # TLS
    b"GET\r\n\r\n",
    b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n",
    get("/healthz", "X: " + "a" * 9000),
    get("/healthz", *(f"X{n}: a" for n in range(200))),
    get("/healthz?" + "a" * 9000),
    get(f"{OHLCV}é"),
    get(f"{OHLCV}".encode() + b"\xff\xfe"),
    get(b"/\xe9"),
    get("/healthz", "Content-Length: -5"),
    get("/healthz", "Content-Length: 1", "Content-Length: 2") + b"x",
    get("/healthz", "Content-Length: 9999999999999999999999"),
    get("/healthz", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    get("/healthz", "Transfer-Encoding: chunked") + b"zz\r\n",
]


async def test_what_is_not_http_gets_a_problem_and_then_the_line_is_closed(daemon: Daemon) -> None:
    for request in BROKEN:
        line = await Line.to(daemon)
        problem = problem_in(await line.ask(request), 400)
        assert problem["code"] == "bad_request"
        assert await line.ended()
        await line.close()


async def test_rubbish_after_a_good_request_is_rubbish_none_the_less(line: Line) -> None:
    await still_serves(line)
    problem_in(await line.ask(b"rubbish\r\n\r\n"), 400)
    assert await line.ended()


async def test_percent_rubbish_is_a_name_that_nobody_has(line: Line) -> None:
    for spelt, symbol in {
        "%zz%2": "%zz%2",
        "%": "%",
        "%ff": "\ufffd",
        "%ed%a0%80": "\ufffd\ufffd\ufffd",  # half of a surrogate pair
        "%c0%af": "\ufffd\ufffd",
        "%00": "\0",
        "%2522": "%22",
        "BTC%2fEUR": "BTC/EUR",
        "BTC+EUR": "BTC EUR",
    }.items():
        problem = problem_in(await line.ask(get(OHLCV + spelt)), 404)
        assert problem["detail"] == f"sim has no symbol {symbol} in the market crypto."
    await still_serves(line)


async def test_an_odd_address_is_a_404(line: Line) -> None:
    for target in ("http://x/nothing", "//healthz", "/../../etc/passwd", "/%2e%2e/docs"):
        problem_in(await line.ask(get(target)), 404)
    await still_serves(line)


@pytest.mark.parametrize("request_line", [b"OPTIONS *", b"CONNECT x:80"])
async def test_what_is_meant_for_a_proxy_is_a_404(line: Line, request_line: bytes) -> None:
    problem_in(await line.ask(request_line + b" HTTP/1.1\r\nHost: x\r\n\r\n"), 404)


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/ohlcv", "/api/v1/stream", "/nothing"])
async def test_a_body_of_two_megabytes_is_a_413_however_it_is_announced(line: Line, path: str) -> None:
    body = b"x" * 2_000_000
    said = get(path, f"Content-Length: {len(body)}")
    assert problem_in(await line.ask(said, body), 413)["code"] == "request_entity_too_large"
    await still_serves(line)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    unsaid = get(path, "Transfer-Encoding: chunked")
    assert problem_in(await line.ask(unsaid, chunked), 413)["code"] == "request_entity_too_large"
    await still_serves(line)


async def test_a_small_body_is_of_no_interest(line: Line) -> None:
    for said, body in (
        ("Content-Length: 2", b"{]"),
        ("Transfer-Encoding: chunked", b"2\r\n{]\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (MOST_BODY, b"x" * MOST_BODY)),
    ):
        assert (await line.ask(get("/healthz", said), body))[0] == 200


@pytest.mark.parametrize("packed", [b"hello", gzip.compress(b"\0" * 10_000_000)])
async def test_a_body_is_not_unpacked(line: Line, packed: bytes) -> None:
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
    request = get("/healthz", "Content-Encoding: gzip", "Transfer-Encoding: chunked")
    assert (await line.ask(request, chunked))[0] == 200
    await still_serves(line)


async def test_only_100_continue_can_be_expected(line: Line) -> None:
    for path in ("/healthz", "/nothing"):
        problem = problem_in(await line.ask(get(path, "Expect: tea")), 417)
        assert problem["code"] == "expectation_failed"
    await still_serves(line)


async def test_a_stream_needs_the_whole_handshake(line: Line) -> None:
    handshake = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    for headers in (
        [*handshake, "Sec-WebSocket-Key: short"],
        handshake,
        [*handshake[:2], "Sec-WebSocket-Version: 99", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="],
        ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="],
    ):
        status, sent, body = await line.ask(get("/api/v1/stream", *headers))
        assert problem_in((status, sent, body), 426)["code"] == "upgrade_required"
        assert sent["Upgrade"] == "websocket"
        assert sent["Sec-WebSocket-Version"] == "13"
    await still_serves(line)


async def test_many_requests_at_once_on_one_line_are_answered_in_order(line: Line) -> None:
    first = await line.ask(get("/healthz") * 50 + get("/nothing") + get("/healthz"))
    answers = [first, *[await line.answer() for _ in range(51)]]
    assert [status for status, _, _ in answers] == [200] * 50 + [404, 200]


async def test_a_client_that_hangs_up_in_the_middle_harms_nobody(daemon: Daemon, line: Line) -> None:
    for part in (
        b"GET /heal",
        get("/healthz", "Content-Length: 10") + b"hello",
        get("/healthz", "Transfer-Encoding: chunked") + b"5\r\nhel",
        get(f"{OHLCV}BTC/USD"),
    ):
        other = await Line.to(daemon)
        other._writer.write(part)
        await other.close()
    await still_serves(line)
