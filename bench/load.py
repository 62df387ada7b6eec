"""Load generators on bare sockets: several times faster than what they measure."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from select import EPOLLIN, epoll
from typing import Protocol

from bench.process import Server

_CONNECTIONS = 8
_PATIENCE_S = 30.0
_HANDSHAKE = (
    b"GET /api/v1/stream HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bWFya2V0ZCBiZW5jaG1hcg==\r\n\r\n"
)


class Address(Protocol):
    """Where a server listens."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


def get(server: Address, path: str) -> bytes:
    """The body of one answer."""
    with _connect(server) as client:
        client.sendall(_request(path))
        buffer = memoryview(bytearray(1 << 24))
        start, end = _receive_answer(client, buffer)
        return bytes(buffer[start:end])


def metric(server: Address, name: str) -> float:
    """What a metric says, all its labels together."""
    lines = get(server, "/metrics").decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}[ {{]", line))


class Pace:
    """How fast a server answers, round by round, and the time of a core that each request took it."""

    def __init__(self, server: Server, paths: Iterator[str], *, seconds: float) -> None:
        self._server = server
        self._paths = paths
        self._seconds = seconds
        self.core_us: list[float] = []

    def requests_per_second(self) -> float:
        """One round."""
        core_s, started_s = self._server.cpu_seconds(), time.perf_counter()
        answered = _answers(self._server, self._paths, self._seconds)
        took_s = time.perf_counter() - started_s
        self.core_us.append((self._server.cpu_seconds() - core_s) / answered * 1e6)
        return answered / took_s


def _answers(server: Address, paths: Iterator[str], seconds: float) -> int:
    """Requests answered on a few kept-alive connections, each with one request under way.

    They are read in turn: while one answer is read the server works on the others.
    """
    buffer = memoryview(bytearray(1 << 24))
    with ExitStack() as stack:
        clients = [stack.enter_context(_connect(server)) for _ in range(_CONNECTIONS)]
        started_s = time.perf_counter()
        for client in clients:
            client.sendall(_request(next(paths)))
        answered = 0
        while time.perf_counter() < started_s + seconds:
            for client in clients:
                _receive_answer(client, buffer)
                client.sendall(_request(next(paths)))
            answered += len(clients)
        for client in clients:
            _receive_answer(client, buffer)
        return answered + len(clients)


class Audience:
    """WebSocket clients that only listen. Each may say one thing first, and waits for its answer.

    They come from several of the machine's own `addresses` in turn.
    """

    def __init__(self, server: Address, clients: int, say: bytes | None, *, addresses: int = 1) -> None:
        self._sockets = [
            self._join(server, say, f"127.0.0.{1 + number % addresses}") for number in range(clients)
        ]
        self._epoll = epoll()
        self._by_fd = {client.fileno(): client for client in self._sockets}
        for fd in self._by_fd:
            self._epoll.register(fd, EPOLLIN)

    def close(self) -> None:
        """All leave."""
        self._epoll.close()
        for client in self._sockets:
            client.close()

    def first_messages(self) -> int:
        """Takes one message a client and returns the length of its frame, which all have in common."""
        lengths = {len(_receive_frame(client)) for client in self._sockets}
        (length,) = lengths
        return length

    def take(self, messages: int, frame_length: int) -> None:
        """Returns when `messages` frames of `frame_length` bytes have come, all clients together.

        Since all are of one length, their bytes count them.
        """
        buffer = bytearray(1 << 20)
        left = messages * frame_length
        while left > 0:
            ready = self._epoll.poll(_PATIENCE_S)
            if not ready:
                raise TimeoutError(f"{left // frame_length} messages did not come.")
            for fd, _ in ready:
                left -= self._by_fd[fd].recv_into(buffer)
        if left < 0:
            raise RuntimeError("More came than was sent.")

    def say_all(self, says: Sequence[bytes]) -> None:
        """Each client says one of these, in turn."""
        for number, client in enumerate(self._sockets):
            client.sendall(_masked(says[number % len(says)]))

    def arrivals(self, until_s: float) -> Iterator[tuple[float, int, bytes]]:
        """What comes until then: when (`time.monotonic()`), to which client, and the bytes."""
        buffer = memoryview(bytearray(1 << 20))
        while (now_s := time.monotonic()) < until_s:
            for fd, _ in self._epoll.poll(until_s - now_s):
                count = _some(self._by_fd[fd], buffer)
                yield time.monotonic(), fd, bytes(buffer[:count])

    @staticmethod
    def _join(server: Address, say: bytes | None, address: str) -> socket.socket:
        client = _connect(server, address)
        client.sendall(_HANDSHAKE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            # By the byte, so that nothing of the first frame is taken along.
            head += _receive(client, 1)
        if not head.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(head.decode())
        if say is not None:
            client.sendall(_masked(say))
            _receive_frame(client)
        return client


def deaf(server: Address, say: bytes) -> socket.socket:
    """A client that says one thing and takes nothing, not even the answer to its handshake."""
    client = socket.socket()
    # The kernels at both ends take little of what is not read: they reckon in segments.
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect((server.host, server.port))
    client.sendall(_HANDSHAKE + _masked(say))
    return client


def frames(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where the payload of each whole frame in `data` begins and ends."""
    at = 0
    while len(data) - at >= 2:
        length, start = data[at + 1], at + 2
        if length >= 126:
            start += 2 if length == 126 else 8
            length = int.from_bytes(data[at + 2 : start], "big")
        if start + length > len(data):
            return
        at = start + length
        yield start, at


def _masked(say: bytes) -> bytes:
    # Clients mask what they say; with a mask of zeros it stays as it is.
    return struct.pack("!BBH4x", 0x81, 0x80 | 126, len(say)) + say


def _connect(server: Address, source: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection(
        (server.host, server.port), timeout=_PATIENCE_S, source_address=(source, 0)
    )
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n".encode()


def _receive_answer(client: socket.socket, buffer: memoryview) -> tuple[int, int]:
    """Reads one answer into `buffer`: where its body starts and ends there."""
    count = _some(client, buffer)
    while (head_end := bytes(buffer[: min(count, 4096)]).find(b"\r\n\r\n")) < 0:
        count += _some(client, buffer[count:])
    head = bytes(buffer[:head_end])
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(bytes(buffer[:count]).decode())
    start = head_end + 4
    end = start + int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while count < end:
        count += _some(client, buffer[count:])
    return start, end


def _some(client: socket.socket, buffer: memoryview) -> int:
    count = client.recv_into(buffer)
    if not count:
        raise ConnectionError("The server closed the connection.")
    return count


def _receive_frame(client: socket.socket) -> bytes:
    """One whole text frame, its head included."""
    head = _receive(client, 2)
    if head[0] != 0x81:
        raise RuntimeError(f"A frame of kind {head[0]:#x} came instead of a text.")
    if head[1] == 126:
        head += _receive(client, 2)
        return head + _receive(client, struct.unpack("!H", head[2:])[0])
    return head + _receive(client, head[1])


def _receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        if not piece:
            raise ConnectionError("The server closed the connection.")
        data += piece
    return data
