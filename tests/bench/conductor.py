"""`python -m tests.bench.conductor`: a Conductor that answers at once, and knows who came twice.

It costs as little as it can, since it shares the machine with what is measured. The first line of
its output is its port; the end of its input ends it. `GET /__calls` says what came,
`POST /__reset/200` forgets that and answers from now on after 200 ms.
"""

import asyncio
import re
import sys
from time import monotonic

import orjson

_KEY = re.compile(rb"\r\nidempotency-key: *([^\r]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


def _response(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


_DONE = _response(b'{"status":"completed","result":"ok"}')
_HEALTHY = _response(b'{"status":"ok"}')


class Calls:
    """Every call by its idempotency key: when it first came, and how often."""

    def __init__(self) -> None:
        self.latency_seconds = 0.0
        self.reset(0.0)

    def reset(self, latency_seconds: float) -> None:
        """Forget them all, and answer after this long from now on."""
        self.latency_seconds = latency_seconds
        self._first: dict[bytes, float] = {}
        self._total = 0

    def count(self, key: bytes, at: float) -> None:
        """Take note of a call."""
        self._total += 1
        self._first.setdefault(key, at)

    def totals(self) -> dict[str, float]:
        """How many came, how many of them again, and how long the first ones took to come."""
        times = self._first.values()
        return {
            "calls": self._total,
            "duplicates": self._total - len(self._first),
            "seconds": max(times, default=0.0) - min(times, default=0.0),
        }


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time, bodies with a length."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._unread) < whole:
                return
            self._unread = self._unread[whole:]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if (key := _KEY.search(head)) is not None:
            self._calls.count(key[1], monotonic())
            self._write_later(_DONE)
        elif path == b"/__calls":
            self._transport.write(_response(orjson.dumps(self._calls.totals())))
        elif path.startswith(b"/__reset/"):
            self._calls.reset(float(path.rpartition(b"/")[2]) / 1_000)
            self._transport.write(_HEALTHY)
        else:
            self._transport.write(_HEALTHY)

    def _write_later(self, answer: bytes) -> None:
        if (seconds := self._calls.latency_seconds) > 0:
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, self._transport.write, answer)
        else:
            self._transport.write(answer)


async def _serve() -> None:
    loop, calls = asyncio.get_running_loop(), Calls()
    server = await loop.create_server(lambda: Connection(calls), "127.0.0.1", 0, backlog=4_096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
