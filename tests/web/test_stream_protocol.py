"""The WebSocket: what may be said on it, what is answered, and how it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError
from asking import NOW, START, Api, M, Start, worded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talking import JSON, MSGPACK, PATH, PATIENCE_S, Connect, Socket, connected

from marketd.clock import ManualClock
from marketd.config import StreamConfig
from marketd.config.settings import ByteCount, Millis
from marketd.daemon import Daemon
from marketd.domain.token import pack
from marketd.streaming.ring import Cursor

SECOND = 1000
BTC = {
    "type": "subscribe",
    "id": "1",
    "market": "crypto",
    "provider": "sim",
    "symbols": ["BTC/USD"],
    "timeframe": "1m",
}
NAMES = {key: BTC[key] for key in ("market", "provider", "timeframe")} | {"symbol": "BTC/USD"}
ODD = BTC | {"market": "odd", "provider": "files", "symbols": ["ODD"]}
CURSOR = Cursor(START, "ring", 0).token()
# A stream, as the answers list it.
BARS = NAMES | {"channel": "bars"}


def named(answer: dict[str, Any]) -> list[dict[str, str]]:
    """The streams of a `subscribed`; each says from where on live is whole."""
    assert all(Cursor.parse(stream["cursor"], field="cursor") for stream in answer["streams"])
    return [{key: stream[key] for key in BARS} for stream in answer["streams"]]


# --- subprotocols


async def test_the_first_subprotocol_that_both_know_is_spoken_and_json_without_one(
    connect: Connect,
) -> None:
    for offered, chosen in (
        ((), None),
        ((JSON,), JSON),
        ((MSGPACK,), MSGPACK),
        ((MSGPACK, JSON), MSGPACK),
        ((JSON, MSGPACK), JSON),
        (("graphql-ws", MSGPACK), MSGPACK),
        (("graphql-ws",), None),
    ):
        socket = await connect(protocols=offered)
        assert socket.raw.protocol == chosen
        assert await socket.ask({"type": "ping", "id": "7"}) == {"type": "pong", "id": "7"}


@pytest.mark.parametrize("command", [ODD | {"since": START}, BTC | {"since": NOW - 5 * M}])
async def test_messagepack_says_what_json_says(connect: Connect, command: dict[str, Any]) -> None:
    heard = []
    for protocol in (JSON, MSGPACK):
        socket = await connect(protocols=[protocol])
        await socket.say(command)
        messages = [await socket.hear(), await socket.hear()]
        messages[1]["bars"] = [list(map(worded, bar)) for bar in messages[1]["bars"]]
        # The second knows more of the series, which the first one's question has read.
        cursors = [messages[0]["streams"][0].pop("cursor"), messages[1].pop("cursor")]
        assert all(isinstance(cursor, str) for cursor in cursors)
        heard.append(messages)
    assert heard[0] == heard[1]
    assert [message["type"] for message in heard[0]] == ["subscribed", "snapshot"]
    assert heard[0][1]["bars"]


# --- what is answered


async def test_ping_is_answered_whatever_else_is_in_it(socket: Socket) -> None:
    assert await socket.ask({"type": "ping"}) == {"type": "pong", "id": ""}
    assert await socket.ask({"type": "ping", "id": "é☃", "at": 5}) == {"type": "pong", "id": "é☃"}


async def test_a_subscription_is_answered_by_its_streams_and_followed_by_the_forming_bar(
    socket: Socket, api: Api
) -> None:
    await socket.say(BTC | {"symbols": ["BTC/USD", "ETH/USD", "BTC/USD"]})
    answer = await socket.hear()
    assert (answer["type"], answer["id"]) == ("subscribed", "1")
    assert named(answer) == [BARS, BARS | {"symbol": "ETH/USD"}]
    forming = (await api.ohlcv(limit=1))["bars"][0]
    heard: dict[str, dict[str, Any]] = {}
    while len(heard) < 2:
        message = await socket.hear()
        heard[message["symbol"]] = message
    cursor = heard["BTC/USD"].pop("cursor")
    assert heard["BTC/USD"] == {"type": "bar", **NAMES, "bar": forming, "closed": False, "rev": 0}
    assert isinstance(cursor, str)


async def test_with_since_the_closed_bars_from_there_come_first(socket: Socket, api: Api) -> None:
    await socket.say(BTC | {"since": START})
    await socket.hear()
    snapshot = await socket.hear()
    assert snapshot.pop("cursor")
    bars = (await api.ohlcv(since=START, before=NOW - NOW % M))["bars"]
    assert snapshot == {"type": "snapshot", **NAMES, "bars": bars, "complete": True}
    assert len(bars) == 30


async def test_since_is_the_same_in_rfc_3339_and_in_milliseconds(connect: Connect) -> None:
    heard = []
    for since in (START, "2024-03-05T14:00:00Z", "2024-03-05T15:00:00+01:00"):
        socket = await connect()
        await socket.say(BTC | {"since": since})
        heard.append(await socket.hear_of("snapshot"))
    assert heard[0] == heard[1] == heard[2]


async def test_what_is_unsubscribed_is_heard_no_more_and_may_be_subscribed_again(
    socket: Socket, clock: ManualClock
) -> None:
    both = BTC | {"symbols": ["BTC/USD", "ETH/USD"]}
    assert (await socket.ask(both))["type"] == "subscribed"
    leave = BTC | {"type": "unsubscribe", "id": "2"}
    assert await socket.ask(leave) == {"type": "unsubscribed", "id": "2", "streams": [BARS]}
    for _ in range(3):
        clock.advance(M)
        assert (await socket.hear_of("bar"))["symbol"] == "ETH/USD"
    assert named(await socket.ask(BTC)) == [BARS]


async def test_to_unsubscribe_what_is_not_followed_changes_nothing(socket: Socket) -> None:
    leave = BTC | {"type": "unsubscribe", "id": "9"}
    nothing = {"type": "unsubscribed", "id": "9", "streams": []}
    assert await socket.ask(leave) == nothing
    assert (await socket.ask(BTC))["type"] == "subscribed"
    assert await socket.ask(leave | {"timeframe": "5m"}) == nothing
    assert await socket.ask(leave | {"symbols": ["NOBODY", "ETH/USD"]}) == nothing


async def test_the_same_stream_twice_is_a_conflict_and_nothing_of_the_command_is_done(
    socket: Socket,
) -> None:
    assert (await socket.ask(BTC))["type"] == "subscribed"
    both = BTC | {"id": "2", "symbols": ["ETH/USD", "BTC/USD"]}
    assert "BTC/USD" in await socket.refused(both, "conflict")
    assert (await socket.ask(BTC | {"symbols": ["ETH/USD"]}))["type"] == "subscribed"
    assert (await socket.ask(BTC | {"timeframe": "5m"}))["type"] == "subscribed"


# --- what is refused


# What a change of a good command is refused with: the code, and a part of the sentence.
UNFIT: list[tuple[dict[str, Any], str, str]] = [
    ({"market": "moon"}, "unknown_market", "moon"),
    ({"provider": "nobody"}, "unknown_provider", "nobody"),
    ({"symbols": ["BTC/USD", "BTC/EUR"]}, "unknown_symbol", "BTC/EUR"),
    ({"symbols": ["\0\u202e'\"💥"]}, "unknown_symbol", "symbol"),
    ({"timeframe": "1x"}, "invalid_input", "timeframe has to be"),
    ({"timeframe": 60}, "invalid_input", "timeframe has to be"),
    ({"channel": "trades"}, "invalid_input", "channel has to be bars or ticks"),
    ({"channel": "ticks"}, "invalid_input", "timeframe is for bars"),
    ({"channel": None}, "invalid_input", "channel has to be bars"),
    ({"since": -1}, "invalid_input", "since has to be"),
    ({"since": 1.5}, "invalid_input", "since has to be"),
    ({"since": "1724-01-01T00:00:00Z"}, "invalid_input", "since has to be"),
    ({"since": None}, "invalid_input", "since has to be"),
    ({"since": True}, "invalid_input", "since has to be"),
    ({"before": 5}, "invalid_input", "before is not known here"),
    ({"symbols": []}, "invalid_input", "at least one symbol"),
    ({"symbols": "BTC/USD"}, "invalid_input", "symbols has to be a list"),
    ({"symbols": [5]}, "invalid_input", "symbols holds something"),
    ({"symbols": [""]}, "invalid_input", "symbols holds something"),
    ({"symbols": ["BTC/USD", "x" * 129]}, "invalid_input", "symbols holds something"),
    ({"symbols": [["BTC/USD"]]}, "invalid_input", "symbols holds something"),
    ({"symbols": ["BTC/USD"] * 101}, "limit_exceeded", "max_symbols"),
    ({"symbols": [f"S{n}" for n in range(5_000)]}, "limit_exceeded", "max_symbols"),
    ({"market": 5}, "invalid_input", "market has to be text"),
    ({"provider": ""}, "invalid_input", "provider has to be text"),
    ({"params": {"colour": "red"}}, "invalid_input", "colour"),
    ({"params": {"colour": 5}}, "invalid_input", "params holds something"),
    ({"params": []}, "invalid_input", "params has to be"),
    ({"params": {f"p{n}": "" for n in range(1000)}}, "limit_exceeded", "keys"),
    ({f"k{n}": n for n in range(1000)}, "limit_exceeded", "keys"),
    ({"id": 5}, "invalid_input", "id has to be text"),
    ({"type": "Subscribe"}, "invalid_input", "subscribe, unsubscribe, ping"),
    ({"type": None}, "invalid_input", "subscribe, unsubscribe, ping"),
    ({"type": {}}, "invalid_input", "subscribe, unsubscribe, ping"),
    ({"resume": "", "id": "r"}, "invalid_input", "resume has to be text"),
    ({"resume": "x" * 401}, "invalid_input", "resume has to be text"),
    ({"resume": "garbage"}, "invalid_input", "resume"),
    ({"resume": "é"}, "invalid_input", "resume"),
    ({"resume": pack("cursor", "")}, "invalid_input", "resume"),
    ({"resume": pack("cursor", str(START))}, "invalid_input", "resume"),
    ({"resume": pack("cursor", "-5.ring.0")}, "invalid_input", "resume"),
    ({"resume": pack("cursor", f"{START}.ring.-1")}, "invalid_input", "resume"),
    ({"resume": pack("cursor", f"{START}.ring.٥")}, "invalid_input", "resume"),
    ({"resume": pack("cursor", f"{10**15}.ring.0")}, "invalid_input", "resume"),
    ({"resume": pack("cursor", f"{'9' * 100}.ring.0")}, "invalid_input", "resume"),
    ({"resume": pack("since", f"{START}.ring.0")}, "invalid_input", "resume"),
    ({"resume": CURSOR, "since": START}, "invalid_input", "resume takes one"),
    (
        {"resume": CURSOR, "symbols": ["BTC/USD", "ETH/USD"]},
        "invalid_input",
        "resume takes one",
    ),
]


@pytest.mark.parametrize("protocol", [JSON, MSGPACK])
async def test_a_command_that_cannot_be_obeyed_is_an_error_with_its_id_and_changes_nothing(
    connect: Connect, protocol: str
) -> None:
    socket = await connect(protocols=[protocol])
    for change, code, part in UNFIT:
        assert part in await socket.refused(BTC | change, code)
    assert (await socket.ask(BTC))["type"] == "subscribed"


async def test_the_cursor_of_another_stream_is_refused(socket: Socket) -> None:
    subscribed = await socket.ask(BTC)
    resume = {"resume": subscribed["streams"][0]["cursor"]}
    trades = {key: BTC[key] for key in BTC if key != "timeframe"} | {"channel": "ticks"}
    for other in (
        BTC | {"symbols": ["ETH/USD"]},
        BTC | {"timeframe": "5m"},
        BTC | {"timeframe": "100t"},
        trades,
    ):
        assert "another stream" in await socket.refused(other | resume, "invalid_input")
    await socket.ask(BTC | {"type": "unsubscribe"})
    assert (await socket.ask(BTC | resume))["type"] == "subscribed"
    assert (await socket.hear_of("resumed"))["recovered"]


async def test_what_is_missing_in_a_command_is_named(socket: Socket) -> None:
    for missing in ("market", "provider", "symbols", "timeframe"):
        command = {key: value for key, value in BTC.items() if key != missing}
        assert await socket.refused(command, "invalid_input") == f"{missing} is missing."
    assert "type" in await socket.refused({"id": "1"}, "invalid_input")


async def test_an_id_that_is_too_long_is_answered_by_its_beginning(socket: Socket) -> None:
    answer = await socket.ask({"type": "ping", "id": "x" * 100})
    assert (answer["type"], answer["id"]) == ("error", "x" * 64)


async def test_broken_json_is_an_error(socket: Socket) -> None:
    for text in ("", "{", "nonsense", "[" * 5000, '{"type":"ping"}}', '{"a":"\\ud800"}', "NaN", "\0"):
        await socket.raw.send_str(text)
        answer = await socket.hear()
        assert (answer["type"], answer["id"], answer["code"]) == ("error", "", "invalid_input")
        assert (await socket.ask({"type": "ping"}))["type"] == "pong"


async def test_broken_messagepack_is_an_error(connect: Connect) -> None:
    socket = await connect(protocols=[MSGPACK])
    for data in (b"", b"\xc1", b"\x81", b"\x81\x01\x02", b"\xc7\x00\x05", b"\x91" * 5000):
        await socket.raw.send_bytes(data)
        assert (await socket.hear())["code"] == "invalid_input"
        assert (await socket.ask({"type": "ping"}))["type"] == "pong"


@pytest.mark.parametrize("protocol", [JSON, MSGPACK])
async def test_a_message_that_is_no_object_is_an_error(connect: Connect, protocol: str) -> None:
    socket = await connect(protocols=[protocol])
    for message in ([], [1], 5, "ping", None, True, 1.5):
        await socket.refused(message, "invalid_input")


async def test_a_frame_of_the_wrong_kind_is_an_error(connect: Connect) -> None:
    text, packed = await connect(), await connect(protocols=[MSGPACK])
    await text.raw.send_bytes(b'{"type":"ping"}')
    assert "text frames" in (await text.hear())["message"]
    await packed.raw.send_str('{"type":"ping"}')
    assert "binary frames" in (await packed.hear())["message"]
    for socket in (text, packed):
        assert (await socket.ask({"type": "ping"}))["type"] == "pong"


async def test_the_limits_of_a_client_are_told_by_their_names(start: Start) -> None:
    daemon = await start(stream=StreamConfig(max_symbols=2, max_subscriptions=3))
    async with ClientSession(daemon.url) as session:
        socket = await connected(session)
        three = BTC | {"symbols": ["BTC/USD", "ETH/USD", "SOL/USD"]}
        assert "2 symbols (max_symbols)" in await socket.refused(three, "limit_exceeded")
        two = BTC | {"symbols": ["BTC/USD", "ETH/USD"]}
        assert (await socket.ask(two))["type"] == "subscribed"
        five = two | {"timeframe": "5m"}
        assert "3 streams (max_subscriptions)" in await socket.refused(five, "limit_exceeded")
        assert (await socket.ask(BTC | {"timeframe": "5m"}))["type"] == "subscribed"
        await socket.refused(BTC, "conflict")


async def test_who_says_much_at_once_keeps_nobody_else_waiting(connect: Connect, daemon: Daemon) -> None:
    def messages() -> float:
        return daemon.metrics.registry.get_sample_value("marketd_stream_messages_total") or 0

    talkative, other = await connect(), await connect()
    for number in range(500):
        await talkative.say({"type": "ping", "id": str(number)})
    assert (await other.ask({"type": "ping"}))["type"] == "pong"
    assert messages() < 250
    for number in range(500):
        assert (await talkative.hear())["id"] == str(number)


async def test_a_message_over_the_bound_closes_the_socket_and_one_below_does_not(start: Start) -> None:
    daemon = await start(stream=StreamConfig(max_message=ByteCount(10_000)))
    async with ClientSession(daemon.url) as session:
        socket = await connected(session)
        assert (await socket.ask({"type": "ping", "x": "x" * 9_900}))["type"] == "pong"
        await socket.say({"type": "ping", "x": "x" * 10_000})
        assert await socket.ended() == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_more_than_64_kb_is_too_big_by_default(socket: Socket) -> None:
    assert (await socket.ask({"type": "ping", "x": "x" * 65_000}))["type"] == "pong"
    await socket.say({"type": "ping", "x": "x" * 66_000})
    assert await socket.ended() == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_text_that_is_no_utf_8_closes_the_socket(socket: Socket) -> None:
    await socket.raw.send_frame(b"\xff\xfe", WSMsgType.TEXT)
    assert await socket.ended() == aiohttp.WSCloseCode.INVALID_TEXT


async def test_a_handshake_with_an_unknown_key_is_refused(connect: Connect, daemon: Daemon) -> None:
    async with ClientSession(daemon.url) as session:
        with pytest.raises(WSServerHandshakeError) as refused:
            await session.ws_connect(f"{PATH}?x=1")
    assert refused.value.status == 400


leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.floats()
)
values = leaves | st.lists(leaves, max_size=3) | st.dictionaries(st.text(max_size=5), leaves, max_size=3)
commands = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["subscribe", "unsubscribe", "ping"]) | values,
        "id": st.text(max_size=70) | values,
        "market": st.just("crypto") | values,
        "provider": st.just("sim") | values,
        "symbols": st.lists(st.sampled_from(["BTC/USD", "DOGE/BTC"]), max_size=2) | values,
        "timeframe": st.sampled_from(["1m", "7m", "1M"]) | values,
        "since": st.integers(NOW - 10 * M, NOW + M) | values,
        "resume": st.builds(lambda t: Cursor(t, "ring", 0).token(), st.integers(NOW - M, NOW)) | values,
        "params": st.just({}) | values,
        "channel": st.just("bars") | values,
        "else": values,
    },
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=commands | values)
async def test_whatever_is_said_is_answered_once_and_the_socket_stays_open(
    connect: Connect, message: Any
) -> None:
    socket = await connect(protocols=[MSGPACK])
    answer = await socket.ask(message)
    assert answer["type"] in {"error", "pong", "subscribed", "unsubscribed"}
    said_id = message.get("id", "") if isinstance(message, dict) else ""
    assert answer["id"] == (said_id[:64] if isinstance(said_id, str) else "")
    await socket.say({"type": "ping", "id": "after"})
    while (answer := await socket.hear()).get("id") != "after":
        assert answer["type"] in {"bar", "snapshot", "resumed"}
    await socket.raw.close()


# --- how it lives and ends


async def test_the_daemon_leaves_with_1001(start: Start) -> None:
    daemon = await start()
    async with ClientSession(daemon.url) as session:
        sockets = [await connected(session) for _ in range(3)]
        assert (await sockets[0].ask(BTC))["type"] == "subscribed"
        stopping = asyncio.create_task(daemon.stop())
        assert [await one.ended() for one in sockets] == [aiohttp.WSCloseCode.GOING_AWAY] * 3
        await stopping


async def test_a_client_is_pinged_and_one_that_does_not_answer_is_given_up(start: Start) -> None:
    daemon = await start(stream=StreamConfig(heartbeat=Millis(100)))
    async with ClientSession(daemon.url) as session:
        alive = await connected(session)
        listening = asyncio.create_task(alive.hear())
        mute = await connected(session, autoping=False)
        assert (await mute.raw.receive(timeout=PATIENCE_S)).type is WSMsgType.PING
        frame = await mute.raw.receive(timeout=PATIENCE_S)
        assert frame.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
        await alive.say({"type": "ping"})
        assert (await listening)["type"] == "pong"
        await alive.raw.close()


async def test_a_command_that_waits_for_its_provider_keeps_others_of_its_streams_waiting_alone(
    connect: Connect, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = daemon.loader.provider("sim").plugin
    get_symbols, may_answer = plugin.get_symbols, asyncio.Event()

    async def waiting(market: str) -> Any:
        await may_answer.wait()
        return await get_symbols(market)

    monkeypatch.setattr(plugin, "get_symbols", waiting)
    socket, gone = await connect(), await connect()
    for one in (socket, gone):
        await one.say(BTC)
        await one.say(BTC | {"id": "2", "type": "unsubscribe"})
        assert await one.ask({"type": "ping"}) == {"type": "pong", "id": ""}
        assert named(await one.ask(ODD | {"id": "3"}))[0]["provider"] == "files"
    await gone.raw.close()
    clients = daemon.metrics.stream_clients._value
    async with asyncio.timeout(PATIENCE_S):
        while clients.get() != 1:  # noqa: ASYNC110 - a gauge has no event
            await asyncio.sleep(0.01)
    may_answer.set()
    assert named(await socket.hear_of("subscribed")) == [BARS]
    assert await socket.hear_of("unsubscribed") == {"type": "unsubscribed", "id": "2", "streams": [BARS]}


async def test_nothing_is_left_of_a_client_that_went_away(
    connect: Connect, daemon: Daemon, clock: ManualClock
) -> None:
    def count(name: str) -> float | None:
        return daemon.metrics.registry.get_sample_value(f"marketd_stream_{name}")

    gone, staying = await connect(), await connect()
    for socket in (gone, staying):
        await socket.ask(BTC)
    assert (count("clients"), count("subscriptions"), count("upstreams")) == (2, 2, 1)
    await gone.raw.close()
    async with asyncio.timeout(PATIENCE_S):
        while count("clients") != 1:
            clock.advance(SECOND)
            await staying.hear()
    assert (count("subscriptions"), count("upstreams")) == (1, 1)
