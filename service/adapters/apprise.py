"""Messages to the outside through Apprise, whose URLs say where and how: e-mail, chats, webhooks.

Apprise is synchronous, and tells in its log what it does, secrets included: each message has a
thread, and that log is silent. It is imported only where there are URLs.
"""

import asyncio
import logging
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from service.domain.digest import Message
from service.domain.notification import Target
from service.domain.severity import Severity
from service.ports import Refused, ServiceError, Unavailable

if TYPE_CHECKING:
    from apprise import Apprise

_LONGEST_SECONDS = 60.0
"""Longer than any single step may take: Apprise gives a mail server 15 s for each."""
_SILENT = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib", "slixmpp", "paho")
_MAIL = frozenset(
    {
        *("mailto", "mailtos", "brevo", "mailersend", "mailgun", "o365", "azure", "postmark"),
        *("resend", "sendgrid", "sendpulse", "ses", "smtp2go", "sparkpost"),
    }
)
_WEBHOOKS = frozenset({"json", "jsons", "xml", "xmls", "form", "forms"})
_BARE = {"http": "json", "https": "jsons"}
_OF_HOSTS = {"mailto", "mailtos", "http", "https"} | _WEBHOOKS
"""Schemes whose host is one; others have a token in its place."""
_REFUSED = {400, 413, 415, 422}
"""What services answer to a message that they will never take."""
_BETWEEN = re.compile(r"[\s,]+(?=[a-z0-9]{1,32}://)", re.IGNORECASE)
_TYPES = {Severity.SUCCESS: "success", Severity.WARNING: "warning", Severity.ERROR: "failure"}


class WrongUrls(ServiceError):
    """These URLs cannot be used; `problems` has a sentence for each that shows nothing secret."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Heard(logging.Handler):
    """The statuses that a service has answered: a plugin tells them to its log and nobody else."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        said = record.args if isinstance(record.args, tuple) else ()
        self.statuses |= {part for part in said if isinstance(part, int)}


@dataclass(frozen=True, slots=True)
class _Service:
    """A target, and the Apprise object that sends there and nowhere else."""

    target: Target
    sends: "Apprise"
    heard: _Heard

    def send(self, message: Message) -> ServiceError | None:
        """In a thread: send, and tell what is wrong, if anything is. What errors say is secret."""
        self.heard.statuses.clear()
        try:
            if self.sends.notify(**_said(message)):
                return None
        except Exception as error:  # noqa: BLE001 a plugin's fault is told, and nobody else's
            return Unavailable(type(error).__name__)
        if refused := self.heard.statuses & _REFUSED:
            return Refused(f"it is refused with status {min(refused)}")
        return Unavailable("it was not taken")


class AppriseMessenger:
    """The port `Messenger`. At most one thread a target: one that hangs is not joined by others.

    The threads are daemons: none of them keeps the process from ending.
    """

    def __init__(
        self, services: Iterable[_Service], *, longest_seconds: float = _LONGEST_SECONDS
    ) -> None:
        self._services = {service.target: service for service in services}
        self._busy: set[Target] = set()
        self._longest_seconds = longest_seconds

    @property
    def targets(self) -> Sequence[Target]:
        return list(self._services)

    async def send(self, target: Target, message: Message) -> None:
        if target in self._busy:
            raise Unavailable("an earlier message to it has not come to an end yet")
        self._busy.add(target)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[ServiceError | None] = loop.create_future()

        def end(trouble: ServiceError | None) -> None:
            self._busy.discard(target)
            if not answer.done():
                answer.set_result(trouble)

        def work() -> None:
            trouble = self._services[target].send(message)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(end, trouble)

        try:
            Thread(target=work, name="notify", daemon=True).start()
        except RuntimeError as error:  # the machine, or the container, has no more of them
            self._busy.discard(target)
            raise Unavailable("no thread can be started for it") from error
        try:
            async with asyncio.timeout(self._longest_seconds):
                trouble = await answer
        except TimeoutError:
            seconds = self._longest_seconds
            raise Unavailable(f"it was not taken within {seconds:g} s") from None
        if trouble is not None:
            raise trouble


def _said(message: Message) -> Mapping[str, Any]:
    from apprise import NotifyFormat, NotifyType  # noqa: PLC0415 imported where it is needed

    # As text, so that whatever needs another format escapes it.
    return {
        "title": message.title,
        "body": message.body,
        "notify_type": NotifyType(_TYPES[message.severity]),
        "body_format": NotifyFormat.TEXT,
    }


def split(urls: str) -> Sequence[str]:
    """The URLs in a text, told apart as Apprise does it: commas and blanks may be part of one."""
    return [url for url in _BETWEEN.split(urls.strip(" \t\r\n,")) if url]


def messenger_from(urls: str, *, longest_seconds: float = _LONGEST_SECONDS) -> AppriseMessenger:
    """A messenger for the URLs in this text, apart by commas or blanks. Raises WrongUrls."""
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        # Of the modules of services that nobody here uses (`imghdr`, until Python 3.13).
        warnings.simplefilter("ignore")
        found = [_service_of(place, url) for place, url in enumerate(split(urls), start=1)]
    services = [service for service in found if isinstance(service, _Service)]
    problems = [
        f"the URL at place {place} {trouble}"
        for place, trouble in enumerate(found, start=1)
        if isinstance(trouble, str)
    ]
    if problems:
        raise WrongUrls(problems)
    return AppriseMessenger(services, longest_seconds=longest_seconds)


def _service_of(place: int, url: str) -> _Service | str:
    """The service of a URL, or what is wrong with that."""
    from apprise import (  # noqa: PLC0415 it takes a third of a second, and most have no URLs
        Apprise,
        AppriseAsset,
        NotifyFormat,
        PersistentStoreMode,
    )

    scheme = url.split("://", 1)[0].lower() if "://" in url else ""
    if not scheme or any(c.isspace() for c in url):
        return "is none: write one such as mailto://… or json://…"
    if scheme in _OF_HOSTS and _is_ambiguous(url):
        return "has an @, or a part, whose place is not clear; write %40, %2F, %3F or %23 in names"
    # Nothing is kept on disk.
    asset = AppriseAsset(app_id="councilor-scheduler", storage_mode=PersistentStoreMode.MEMORY)
    plugin = Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if plugin is None and scheme in _BARE:
        plugin = Apprise.instantiate(_as_webhook(url), asset=asset, suppress_exceptions=True)
    if plugin is None or (scheme in _MAIL and not getattr(plugin, "targets", True)):
        hint = "add ?from=…&to=…" if scheme in _MAIL else "for a webhook write json://…"
        return f"is none that Apprise understands; {hint}"
    if scheme in _MAIL and "format=" not in url:
        # In the HTML that it makes of texts, lines cannot wrap.
        plugin.notify_format = NotifyFormat.TEXT
    # How often messages go out is decided elsewhere, and less often than any service minds.
    plugin.request_rate_per_sec = 0
    # One that `getLogger` gave would have what it is told, secrets included, in all logs.
    plugin.logger = logging.Logger("notify", logging.WARNING)  # noqa: LOG001
    plugin.logger.addHandler(heard := _Heard())
    sends = Apprise(asset=asset)
    sends.add(plugin)
    return _Service(_target_of(place, scheme, url, plugin), sends, heard)


def _is_ambiguous(url: str) -> bool:
    """Tell whether what looks like the host may be a part of a password that is not escaped."""
    rest = url.split("://", 1)[1]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    before_query, _, query = rest[len(authority) :].partition("?")
    # `to=ops@example.com` is how mails are addressed; nothing else has a reason for an @.
    parameters = re.split("[&;]", query)
    strays = [before_query, *(each.partition("=")[0] for each in parameters)]
    host = authority.rpartition("@")[2]
    port = "" if host.startswith("[") else host.partition(":")[2]
    return (
        any("@" in stray for stray in strays)
        or any("#" in each and "@" in each.partition("#")[2] for each in parameters)
        or not (port == "" or port.isdecimal())
    )


def _target_of(place: int, scheme: str, url: str, plugin: Any) -> Target:
    schemes = {scheme, *_texts(plugin.protocol), *_texts(plugin.secure_protocol)}
    names = schemes | {str(plugin.service_name).lower()}
    if schemes & _WEBHOOKS:
        names.add("webhook")
    host = urlsplit(url).hostname if scheme in _OF_HOSTS else None
    return Target(place, scheme, host or "", frozenset(names), is_mail=bool(schemes & _MAIL))


def _texts(value: object) -> Sequence[str]:
    if isinstance(value, str):
        return [value]
    return [str(part) for part in value] if isinstance(value, Iterable) else []


def _as_webhook(url: str) -> str:
    """A plain address as one of Apprise's, whose own parameters its query must not become."""
    parts = urlsplit(url)
    query = [(f"-{name}", value) for name, value in parse_qsl(parts.query, keep_blank_values=True)]
    webhook = (_BARE[parts.scheme.lower()], parts.netloc, parts.path)
    return urlunsplit((*webhook, urlencode(query, quote_via=quote), ""))
