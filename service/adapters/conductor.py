"""Conductor over HTTP, in both of its dialects; every ending of a call is a value."""

import asyncio
import hashlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from service.domain.execution import Order, Reason
from service.ports import Answer, Failure

_LARGEST_ANSWER = 16 * 1024 * 1024
_LONGEST_MESSAGE = 2_000
_CONNECT_SECONDS = 10
_LONGEST_WISH = 86_400
_CONNECTS_WITHIN = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
_KEEP_ALIVE_SECONDS = 2
"""Shorter than a server's (uvicorn: 5 s): a request on a connection that the server is just closing
would fail, and could not be told from one that was accepted."""
_HEALTH_SECONDS = 10
"""Its health answers slowly under load."""
_NOBODY_BEHIND = {502, 503, 504}
_GATEWAY_ERRORS = {429, *_NOBODY_BEHIND}
_SUCCEEDED = {"completed", "success"}


class Dialect(StrEnum):
    """Which of Conductor's interfaces to speak."""

    CONDUCTOR = "conductor"
    AGENTS = "agents"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent for an order."""

    url: URL
    headers: Mapping[str, str]
    body: Mapping[str, object]


class HttpConductor:
    """The port `Conductor`. Each order is sent once; a failure says whether it may be repeated.

    That is so where nothing was accepted: no connection was made, or the server asked to come
    again. In the dialect `agents` the server refuses a `task_id` that it has seen, so there a
    call that it may have accepted can be repeated too.
    """

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, dialect: Dialect, cwd: str | None
    ) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._dialect = dialect
        self._cwd = cwd

    async def execute(self, order: Order) -> Answer:
        try:
            async with (
                asyncio.timeout(order.timeout.total_seconds()),
                self._posted(order) as response,
            ):
                body = await response.content.read(_LARGEST_ANSWER + 1)
                while len(body) <= _LARGEST_ANSWER and (more := await response.content.readany()):
                    body += more
                answer = answer_of(response.status, response.content_type, body)
                if answer.failure is None:
                    return answer
                failure = self._weighed(answer.failure, response.status, response.headers)
                return replace(answer, failure=failure)
        except aiohttp.ConnectionTimeoutError:
            return self._unreached(f" within {_CONNECT_SECONDS} s")
        except TimeoutError:
            seconds = order.timeout.total_seconds()
            return _failed(Reason.TIMEOUT, f"no answer within {seconds:g} s")
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            return self._unreached(f": {getattr(error, 'strerror', None) or type(error).__name__}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = str(error) or type(error).__name__
            summary = (
                f"the connection to {self._shown_url} broke before the answer was whole: {detail}"
            )
            refuses_repeats = self._dialect is Dialect.AGENTS
            failure = Failure(
                Reason.CONDUCTOR_DISCONNECTED, summary, may_repeat=refuses_repeats, is_down=True
            )
            return Answer(output=None, failure=failure)

    async def is_there(self) -> bool:
        bounded = aiohttp.ClientTimeout(total=_HEALTH_SECONDS, sock_connect=_CONNECT_SECONDS)
        try:
            url = URL(f"{self._base_url}/health", encoded=True)
            async with self._session.get(url, timeout=bounded, allow_redirects=False) as response:
                return response.status < 500  # a Conductor that has no such page is there, too
        except (aiohttp.ClientError, OSError, ValueError):
            return False

    def _unreached(self, how: str) -> Answer:
        """Nobody has heard of the order: it may be sent again."""
        summary = f"cannot connect to {self._shown_url} (CONDUCTOR_API_URL){how}"
        failure = Failure(Reason.CONDUCTOR_UNAVAILABLE, summary, may_repeat=True, is_down=True)
        return Answer(output=None, failure=failure)

    def _weighed(self, failure: Failure, http_status: int, headers: Mapping[str, str]) -> Failure:
        """A failure with what its status means for further calls."""
        says_when = headers.get("Retry-After") is not None
        asks_to_return = http_status == 429 or (http_status == 503 and says_when)
        refuses_repeats = self._dialect is Dialect.AGENTS and http_status in _NOBODY_BEHIND
        return replace(
            failure,
            may_repeat=asks_to_return or refuses_repeats,
            retry_after=_retry_after(headers) if asks_to_return else None,
            is_down=http_status in _NOBODY_BEHIND,
        )

    def _posted(self, order: Order) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        request = request_for(order, self._base_url, self._dialect, self._cwd)
        return self._session.post(
            request.url,
            data=orjson.dumps(request.body, default=str),
            headers=request.headers,
            timeout=_CONNECTS_WITHIN,
            allow_redirects=False,
        )

    @property
    def _shown_url(self) -> str:
        url = URL(self._base_url)
        return str(url.with_user(None)) if url.is_absolute() else self._base_url


@asynccontextmanager
async def connected(
    base_url: str, dialect: Dialect, cwd: str | None, *, trust: ssl.SSLContext | None = None
) -> AsyncIterator[HttpConductor]:
    """A Conductor client with its own connections, closed at the end.

    `trust` knows who may sign its certificate; None: those whom the system knows.
    """
    connector = aiohttp.TCPConnector(
        limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS, ssl=trust if trust is not None else True
    )
    # Nothing that one agent's answer sets goes along with another's request.
    cookies = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=cookies) as session:
        yield HttpConductor(session, base_url, dialect, cwd)


def trust_in(file: str | None, folders: str | None) -> ssl.SSLContext:
    """Know the authorities in a file, and in folders by their hashes, instead of the system's.

    OpenSSL's own reading of SSL_CERT_FILE goes on to the system's folder, and says nothing of a
    file that is not there. Raises OSError where a file or a folder is none.
    """
    for folder in folders.split(os.pathsep) if folders else ():
        os.scandir(folder).close()  # OpenSSL looks into it when it needs to, and tells nothing
    context = ssl.create_default_context(cafile=file, capath=folders)
    context.set_alpn_protocols(["http/1.1"])
    return context


def request_for(order: Order, base_url: str, dialect: Dialect, cwd: str | None) -> Request:
    """The request of CONTRACT section 5 for an order."""
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": _header(order.execution_id),
        "X-Councilor-Scheduled-For": order.scheduled_for.isoformat(),
    }
    path, body = "/conductor/execute", _conductor_body(order, order.cwd or cwd)
    if dialect is Dialect.AGENTS:
        # A dot segment would be folded away by whoever normalizes the path.
        name = quote(order.agent_id, safe="")
        name = name if name.strip(".") else name.replace(".", "%2E")
        path, body = f"/agents/{name}/execute", _agents_body(order, order.cwd or cwd)
    return Request(_url(f"{base_url}{path}"), headers, body)


@lru_cache(maxsize=1_024)
def _url(text: str) -> URL:
    return URL(text, encoded=True)


def _conductor_body(order: Order, cwd: str | None) -> dict[str, object]:
    optional = {
        "cwd": cwd,
        "ai_provider": order.ai_provider,
        "context_files": list(order.task.context_files) or None,
        "output_format": order.task.output_format,
    }
    return {
        # Versions of Conductor differ in which name of a pair they read.
        "agent_id": order.agent_id,
        "agent_name": order.agent_id,
        "input_text": order.task.prompt,
        "prompt": order.task.prompt,
        "instance_id": order.instance_id,
        "context_mode": "stateless",
        "timeout": _seconds(order.timeout),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _agents_body(order: Order, cwd: str | None) -> dict[str, object]:
    provider = {"provider": order.ai_provider} if order.ai_provider is not None else {}
    return {
        "user_input": order.task.prompt,
        "cwd": cwd,
        # The server refuses one that it has seen: a repeated call cannot become a second run.
        "task_id": hashlib.sha256(order.execution_id.encode()).hexdigest()[:24],
        "timeout": _seconds(order.timeout),
        **provider,
        "instance_id": order.instance_id,
        "context_mode": "stateless",
        "wait_for_result": True,
        "is_councilor_execution": True,
        "councilor_config": order.config,
    }


def answer_of(http_status: int, content_type: str, body: bytes) -> Answer:
    """Judge what came back. A failed run often comes as HTTP 200."""
    if len(body) > _LARGEST_ANSWER:
        return _failed(
            Reason.CONDUCTOR_REJECTED, f"the answer is larger than {_LARGEST_ANSWER} bytes"
        )
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    said, is_json = _parsed(text)
    if http_status >= 300:
        reason = (
            Reason.CONDUCTOR_UNAVAILABLE
            if http_status in _GATEWAY_ERRORS
            else Reason.CONDUCTOR_REJECTED
        )
        return _failed(reason, f"HTTP {http_status}", _complaint(said) or _shortened(text))
    if not is_json:
        found = content_type if text.strip() else "nothing"
        summary = f"the answer is not JSON but {found}"
        return _failed(Reason.CONDUCTOR_REJECTED, summary, _shortened(text))
    return _judged(said, text)


def _parsed(text: str) -> tuple[Any, bool]:
    """What a JSON text says, and whether it is one."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text), True
    try:
        # Also reads what orjson refuses: NaN, and half of a surrogate pair, which BSON cannot hold.
        said = json.loads(text)
        whole = json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")
        return json.loads(whole), True
    except (ValueError, RecursionError):
        return None, False


def _judged(said: Any, text: str) -> Answer:
    if not isinstance(said, dict):
        return Answer(output=text)
    outputs = (said.get(name) for name in ("result", "output", "stdout"))
    output = next((value for value in outputs if isinstance(value, str)), text)
    status = said.get("status")
    if status is not None and str(status).lower() not in _SUCCEEDED:
        failure = f"status {str(status)[:40]}"
    elif code := next((c for n in ("exit_code", "returncode") if _is_bad(c := said.get(n))), None):
        failure = f"exit code {str(code)[:40]}"
    else:
        return Answer(output=output)
    complaint = _complaint(said) or _shortened(output if output != text else "")
    return Answer(output=output, failure=Failure(Reason.FAILED, failure, complaint))


def _is_bad(code: object) -> bool:
    return code is not None and str(code).strip() not in ("0", "0.0", "False")


def _complaint(said: Any) -> str:
    """What the answer itself says is wrong, in the fields where servers say it."""
    if not isinstance(said, dict):
        return ""
    for name in ("error", "message", "detail", "stderr"):
        value = said.get(name)
        if isinstance(value, dict):
            value = value.get("message") or orjson.dumps(value).decode()
        if isinstance(value, str) and value.strip():
            return _shortened(value)
    return ""


def _failed(reason: Reason, summary: str, said: str = "") -> Answer:
    return Answer(output=None, failure=Failure(reason, summary, said))


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"


def _retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """How long Retry-After wants us to wait, as seconds or as a date (RFC 9110, 10.2.3)."""
    wish = headers.get("Retry-After", "")
    if wish.isascii() and wish.isdecimal():
        return timedelta(seconds=min(int(wish[:9]), _LONGEST_WISH))
    try:
        # Counted by the server's own clock, whatever ours says.
        wait = parsedate_to_datetime(wish) - parsedate_to_datetime(headers["Date"])
        return min(wait, timedelta(seconds=_LONGEST_WISH))
    except (KeyError, TypeError, ValueError):
        return None


def _seconds(duration: timedelta) -> int | float:
    seconds = duration.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _header(text: str) -> str:
    """Header values are printable ASCII; what is not travels percent-encoded."""
    return text if text.isascii() and text.isprintable() else quote(text, safe="")
