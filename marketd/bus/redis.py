"""Nodes through one Redis: Pub/Sub for what is told, keys that expire for who leads.

Redis may be restarted, emptied or cut off at any time. Here it is tried again until it answers; what
was published meanwhile is lost, and what has become of a lease the next claim tells.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from marketd.bus.base import LEASE_MS, BusAway, Heard, Held, Leases, MessageBus
from marketd.redis_link import kind_of
from marketd.supervisor import raise_if_cancelled

_TIMEOUT_S = 0.5
_PAUSE_S = 0.5
# How often a listener asks whether the server still hears it, and how long that may say nothing.
_PING_S, _MUTE_S = 1.0, 3.0
# How soon it subscribes to what is wanted anew.
_LOOK_S = 0.2
# What may wait to be published; the oldest gives way.
_MOST_WAITING = 10_000
# The most commands in one write.
_BATCH = 200

_CLAIM = """
local held = redis.call('HMGET', KEYS[1], 'node', 'note')
if held[1] and held[1] ~= ARGV[1] then return held end
redis.call('HSET', KEYS[1], 'node', ARGV[1], 'note', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {ARGV[1], ARGV[2]}
"""
_RELEASE = "if redis.call('HGET', KEYS[1], 'node') == ARGV[1] then redis.call('DEL', KEYS[1]) end"


def connect(url: str) -> Redis:
    """A client that keeps nobody waiting; to be closed with `aclose`."""
    return Redis.from_url(
        url,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        # Once more at once, for a kept connection that the server has closed meanwhile.
        retry=Retry(NoBackoff(), 1),
    )


class RedisBus(MessageBus):
    """One node's way to all that name the same `space` in the same Redis, while `run` runs."""

    def __init__(self, redis: Redis, space: str) -> None:
        self._redis = redis
        self._prefix = f"marketd:{space}:told:"
        self._heard: dict[bytes, Heard] = {}
        self._is_changed = True
        self._waiting: deque[tuple[bytes, bytes]] = deque(maxlen=_MOST_WAITING)
        self._filled = asyncio.Event()

    def publish(self, channel: str, message: bytes) -> None:
        self._waiting.append((self._name(channel), message))
        self._filled.set()

    def subscribe(self, channel: str, heard: Heard) -> None:
        self._heard[self._name(channel)] = heard
        self._is_changed = True

    def unsubscribe(self, channel: str, heard: Heard) -> None:
        name = self._name(channel)
        if self._heard.get(name) == heard:
            del self._heard[name]
            self._is_changed = True

    async def run(self) -> None:
        """Publishes and listens until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            group.create_task(self._listen())

    async def _send(self) -> None:
        while True:
            raise_if_cancelled()
            await self._filled.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
            if not self._waiting:
                self._filled.clear()
            try:
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for channel, message in batch:
                        pipeline.publish(channel, message)
                    await pipeline.execute()
            except (RedisError, OSError):
                # All of it is lost, as messages may be: what is old by then would only be in the way.
                await asyncio.sleep(_PAUSE_S)
                self._waiting.clear()

    async def _listen(self) -> None:
        while True:
            raise_if_cancelled()
            try:
                async with self._redis.pubsub() as pubsub:
                    await self._hear(pubsub)
            except (RedisError, OSError):
                await asyncio.sleep(_PAUSE_S)

    async def _hear(self, pubsub: PubSub) -> None:
        """One connection's life: raises when it ends, or when the server is mute.

        The client library makes a broken one anew by itself, and would go on listening to a server that
        was cut off. All is done by one task, since two might do so at once.
        """
        loop = asyncio.get_running_loop()
        answered_s = pinged_s = loop.time()
        # With one channel of its own it is subscribed at all times, without which no ping goes.
        subscribed = {self._prefix.encode()}
        await pubsub.subscribe(*subscribed)
        self._is_changed = True
        while loop.time() - answered_s < _MUTE_S:
            raise_if_cancelled()
            wanted = {self._prefix.encode(), *self._heard} if self._is_changed else subscribed
            self._is_changed = False
            if new := wanted - subscribed:
                await pubsub.subscribe(*new)
            if old := subscribed - wanted:
                await pubsub.unsubscribe(*old)
            subscribed = wanted
            if loop.time() - pinged_s >= _PING_S:
                pinged_s = loop.time()
                await pubsub.ping()
            message: dict[str, Any] | None = await pubsub.get_message(timeout=_LOOK_S)
            if message is None:
                continue
            answered_s = loop.time()
            heard = self._heard.get(message["channel"]) if message["type"] == "message" else None
            if heard is not None:
                heard(message["data"])
        raise ConnectionError("the server is mute")

    def _name(self, channel: str) -> bytes:
        return f"{self._prefix}{channel}".encode()


class RedisLeases(Leases):
    """One node's leases among all that name the same `space` in the same Redis."""

    def __init__(self, redis: Redis, space: str) -> None:
        self.node = uuid4().hex
        self._redis = redis
        self._prefix = f"marketd:{space}:lead:"
        self._claim = redis.register_script(_CLAIM)
        self._release = redis.register_script(_RELEASE)

    async def claim(self, wanted: Mapping[str, bytes]) -> dict[str, Held]:
        commands = [(name, [self.node, note, LEASE_MS]) for name, note in wanted.items()]
        answers = await self._each(self._claim, commands)
        return {
            name: Held(node.decode(), note) for name, (node, note) in zip(wanted, answers, strict=True)
        }

    async def release(self, names: Iterable[str]) -> None:
        await self._each(self._release, [(name, [self.node]) for name in names])

    async def _each(self, script: AsyncScript, commands: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        """What the script answers for each name and its arguments."""
        answers: list[Any] = []
        try:
            for first in range(0, len(commands) or 1, _BATCH):
                async with (
                    asyncio.timeout(2 * _TIMEOUT_S),
                    self._redis.pipeline(transaction=False) as pipeline,
                ):
                    pipeline.ping()
                    for name, arguments in commands[first : first + _BATCH]:
                        await script([self._prefix + name], arguments, client=pipeline)
                    answers += (await pipeline.execute())[1:]
        except (RedisError, OSError) as error:
            raise BusAway(kind_of(error)) from error
        finally:
            raise_if_cancelled()
        return answers
