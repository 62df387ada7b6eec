"""A client of the stream, for tests."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import ormsgpack
from aiohttp import ClientSession, WSMsgType

PATH = "/api/v1/stream"
JSON, MSGPACK = "marketd.json", "marketd.msgpack"
PATIENCE_S = 10


class Socket:
    """A client of the stream."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.raw = socket
        self._packed = socket.protocol == MSGPACK

    async def say(self, message: Any) -> None:
        if self._packed:
            await self.raw.send_bytes(ormsgpack.packb(message))
        else:
            await self.raw.send_str(json.dumps(message))

    async def hear(self) -> dict[str, Any]:
        """The next message, in the frame that the subprotocol says."""
        frame = await self.raw.receive(timeout=PATIENCE_S)
        assert frame.type is (WSMsgType.BINARY if self._packed else WSMsgType.TEXT), frame
        body: dict[str, Any] = ormsgpack.unpackb(frame.data) if self._packed else json.loads(frame.data)
        return body

    async def hear_of(self, kind: str) -> dict[str, Any]:
        """The next message of a type."""
        while (message := await self.hear())["type"] != kind:
            pass
        return message

    async def ask(self, message: Any) -> dict[str, Any]:
        """What is answered to a message; bars of what is followed already may come before it."""
        await self.say(message)
        while (answer := await self.hear())["type"] in {"bar", "snapshot", "status", "gap"}:
            pass
        return answer

    async def refused(self, message: Any, code: str) -> str:
        """The sentence of the error that answers a message, once the socket has proved to be open."""
        answer = await self.ask(message)
        said_id = message.get("id", "") if isinstance(message, dict) else ""
        assert answer == {
            "type": "error",
            "id": said_id if isinstance(said_id, str) else "",
            "code": code,
            "message": answer.get("message"),
        }
        assert await self.ask({"type": "ping", "id": "open?"}) == {"type": "pong", "id": "open?"}
        sentence: str = answer["message"]
        assert sentence[0].isalnum()
        assert sentence.endswith(".")
        assert len(sentence) < 200
        return sentence

    async def ended(self) -> int | None:
        """The code that the daemon closes with, whatever comes before."""
        while (frame := await self.raw.receive(timeout=PATIENCE_S)).type in (
            WSMsgType.TEXT,
            WSMsgType.BINARY,
        ):
            pass
        return frame.data if frame.type is WSMsgType.CLOSE else self.raw.close_code


Connect = Callable[..., Awaitable[Socket]]


async def connected(session: ClientSession, **options: Any) -> Socket:
    return Socket(await session.ws_connect(PATH, max_msg_size=0, **options))
