"""Real servers that take messages: SMTP by aiosmtpd, and a webhook by aiohttp."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message as Mail
from email.policy import default
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass
class MailServer:
    """Keeps what it is sent; where it `refuses`, it takes no mail."""

    port: int = 0
    mails: list[Mail] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    refuses: bool = False
    sessions: int = 0

    @property
    def url(self) -> str:
        people = "from=councilors@example.com&to=ops@example.com"
        return f"mailto://127.0.0.1:{self.port}?{people}"

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 aiosmtpd's name
        self.sessions += 1
        if self.refuses:
            return "451 come back later"
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        self.recipients.append(envelope.rcpt_tos)
        return "250 taken"


@asynccontextmanager
async def mail_server() -> AsyncIterator[MailServer]:
    """A real SMTP server on the loopback interface, on this loop."""
    kept = MailServer()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(kept, hostname="localhost"), "127.0.0.1", 0
    )
    with closing(server):
        kept.port = server.sockets[0].getsockname()[1]
        yield kept


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A server that takes connections and says nothing; its port."""
    ended = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ended.set()
        server.close()


@dataclass
class Webhook:
    """Keeps the JSON that it is sent, and the requests' addresses."""

    base: str = ""
    said: list[Mapping[str, Any]] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    status: int = 200

    async def take(self, request: web.Request) -> web.Response:
        self.addresses.append(request.path_qs)
        self.said.append(await request.json())
        return web.Response(status=self.status)


@asynccontextmanager
async def webhook() -> AsyncIterator[Webhook]:
    """A real HTTP server; `base` is its address without the scheme."""
    kept = Webhook()
    app = web.Application()
    app.router.add_post("/{path:.*}", kept.take)
    async with TestServer(app) as server:
        kept.base = f"127.0.0.1:{server.port}"
        yield kept
