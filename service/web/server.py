"""The HTTP server: who may ask, what errors look like, where it listens."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import structlog
from aiohttp import web

from service.ports import Misconfigured, ServiceError, Unavailable

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE: web.AppKey[Callable[[web.Request], web.Response]] = web.AppKey("page")
"""Answers the page, which asks for the token itself, to whoever opens it without one."""
OPEN_PATHS = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    503: "unavailable",
}


class CannotListen(ServiceError):
    """The address is taken, or not ours."""


def answer(content: object, status: int = 200) -> web.Response:
    """A JSON answer; dates are ISO-8601 in UTC."""
    body = orjson.dumps(content, default=plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body, status=status, content_type="application/json")


def error_answer(status: int, code: str, message: str) -> web.Response:
    """An error as CONTRACT section 8 has it."""
    return answer({"error": {"code": code, "message": message}}, status)


def plain(value: Any) -> str | dict[str, Any]:
    """What a document may hold that JSON has no word for; integers beyond 64 bits, say."""
    return dict(value) if isinstance(value, dict) else str(value)


def application(token: str | None) -> web.Application:
    """An application that turns errors into answers and, with a token, asks for it."""
    return web.Application(middlewares=[_answer_errors, _asking_for(token)])


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = _CODES.get(error.status, "error")
        response = error_answer(error.status, code, error.text or error.reason)
    except (Unavailable, Misconfigured) as error:
        response = error_answer(503, "unavailable", f"MongoDB does not answer: {error}")
    except Exception:
        log.exception("request_failed", path=request.path)
        response = error_answer(500, "internal_error", "the service failed; its log says why")
    if not response.prepared:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
    return response


def _asking_for(token: str | None) -> Any:
    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        is_open = token is None or request.path in OPEN_PATHS
        if not is_open and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            response = _unauthorized(request)
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        return await handler(request)

    return ask


def _unauthorized(request: web.Request) -> web.Response:
    page = request.app.get(PAGE)
    if request.path == "/" and page is not None:
        response = page(request)
        response.set_status(401)
        return response
    return error_answer(401, "unauthorized", "send Authorization: Bearer <token>")


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Listen until the end of the context; gives the port. Raises CannotListen."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            cause = error.strerror or error
            raise CannotListen(
                f"SCHEDULER_HTTP_HOST, SCHEDULER_HTTP_PORT: cannot listen on {host}:{port}: "
                f"{cause}; choose another port, or 0 for any free one"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
