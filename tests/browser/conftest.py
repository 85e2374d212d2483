"""A real browser on the real service: Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.flow.conftest import conductor, db, start

__all__ = ["conductor", "db", "start"]

Open = Callable[..., Awaitable[Page]]

_ARGUMENTS = [
    *("--no-sandbox", "--disable-dev-shm-usage"),  # as in a container, where CI may run
    *("--disable-background-networking", "--disable-component-update"),
]


def chromium() -> str:
    """Where the browser is; skips the test where there is none."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs a browser: apt-get install chromium, or set CHROMIUM to one")
    return found


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def opened(browser: Browser) -> AsyncIterator[Open]:
    """Open an address in a window of its own; whatever the page complains of fails the test."""
    complaints = list[str]()
    async with AsyncExitStack() as stack:

        async def open_page(
            url: str,
            *,
            size: tuple[int, int] = (1360, 900),
            theme: str = "light",
            waits: bool = True,
            expects_errors: bool = False,
        ) -> Page:
            context = await browser.new_context(
                viewport={"width": size[0], "height": size[1]},
                color_scheme="dark" if theme == "dark" else "light",
            )
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
            page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
            if not expects_errors:
                page.on(
                    "console",
                    lambda said: complaints.append(said.text) if said.type == "error" else None,
                )
            await page.goto(url)
            if waits:
                await page.wait_for_selector("#live[data-state=live]")
            return page

        yield open_page
    assert complaints == []
