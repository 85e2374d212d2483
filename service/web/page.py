"""The dashboard: one answer with all that it needs, so that nothing else is ever loaded."""

import base64
import gzip
import hashlib
from functools import cache
from importlib import resources

from aiohttp import web

from service.web.server import PAGE, SECURITY_HEADERS

_STYLES = ("uplot.css", "page.css")
_SCRIPTS = ("uplot.js", "words.js", "api.js", "charts.js", "table.js", "detail.js", "page.js")


def add_page(app: web.Application) -> None:
    """Register the route `/`."""
    app[PAGE] = page_answer
    app.router.add_get("/", _page)


async def _page(request: web.Request) -> web.Response:
    return page_answer(request)


def page_answer(request: web.Request) -> web.Response:
    """The page, which asks for the token where one is wanted, and holds nobody's secrets."""
    page, policy = _page_and_policy()
    headers = {**SECURITY_HEADERS, "Content-Security-Policy": policy, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        page = _compressed(page)
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=page, headers=headers, content_type="text/html", charset="utf-8")


@cache
def _page_and_policy() -> tuple[bytes, str]:
    """The page, and a policy under which nothing but its own scripts may run."""
    styles = [_asset(name) for name in _STYLES]
    scripts = [_asset(name) for name in _SCRIPTS]
    page = _asset("page.html")
    page = page.replace("<!--styles-->", "\n".join(f"<style>{style}</style>" for style in styles))
    page = page.replace("<!--scripts-->", "\n".join(f"<script>{text}</script>" for text in scripts))
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(scripts)}",
            f"style-src {_hashes(styles)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    return page.encode(), policy


@cache
def _compressed(page: bytes) -> bytes:
    return gzip.compress(page, 9, mtime=0)


def _asset(name: str) -> str:
    return resources.files("service.web").joinpath("assets", name).read_text("utf-8")


def _hashes(texts: list[str]) -> str:
    """https://www.w3.org/TR/CSP3/#grammardef-hash-source."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
