"""The live view: goes on while the database is away, says so, and fits its terminal."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from io import StringIO
from typing import Any, NoReturn

import pytest
from rich.console import Console
from rich.text import Text

from service.cli.watching import Screen, View, watch
from service.ports import Unavailable
from tests.fakes import FakeClock
from tests.steps import going

QUICK = timedelta(milliseconds=1)


def view(headline: str, lines: int = 1) -> View:
    return View(headline, lambda _: Text("\n".join(f"line {n}" for n in range(lines))))


class Database:
    """Answers what it is told to: a view, an error, or nothing for now."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.screens: asyncio.Queue[Screen] = asyncio.Queue()
        self.answers: asyncio.Queue[View | Exception] = asyncio.Queue()

    async def look(self) -> View:
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def watching(self) -> Coroutine[Any, Any, NoReturn]:
        show, first = self.screens.put_nowait, view("first")
        return watch("jobs", first, self.look, show, self.clock, every=QUICK, tick=QUICK)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        async with going(self.watching()):
            yield

    async def shown(self, headline: str, trouble: str) -> None:
        """Return when this is on the screen."""
        async with asyncio.timeout(5):
            while True:
                screen = await self.screens.get()
                if (screen.view.headline, screen.trouble) == (headline, trouble):
                    return


async def test_what_is_seen_is_shown_again_and_again() -> None:
    database = Database()
    async with database.watched():
        await database.shown("first", "")
        for headline in ("second", "third"):
            database.answers.put_nowait(view(headline))
            await database.shown(headline, "")


async def test_a_database_that_goes_away_is_told_of_until_it_is_back() -> None:
    database = Database()
    lost = Unavailable("AutoReconnect: db:27017: closed (configured timeouts: socketTimeoutMS: 1)")
    async with database.watched():
        await database.shown("first", "")
        database.clock.advance(timedelta(seconds=30))
        database.answers.put_nowait(view("second"))
        await database.shown("second", "")
        database.clock.advance(timedelta(seconds=12))
        database.answers.put_nowait(lost)
        said = "MongoDB does not answer: AutoReconnect: db:27017: closed"
        await database.shown("second", f"{said} (last seen 12s ago)")
        database.clock.advance(timedelta(seconds=60))
        await database.shown("second", f"{said} (last seen 1m12s ago)")
        database.answers.put_nowait(view("third"))
        await database.shown("third", "")


async def test_a_database_that_only_keeps_silent_is_told_of_too() -> None:
    database = Database()
    async with database.watched():
        await database.shown("first", "MongoDB has not answered yet (last seen 0s ago)")
        database.answers.put_nowait(view("second"))
        await database.shown("second", "")


async def test_a_fault_of_ours_is_not_taken_for_the_databases() -> None:
    database = Database()
    database.answers.put_nowait(KeyError("ours"))
    watching = database.watching()
    with pytest.raises(KeyError):
        await asyncio.wait_for(watching, 5)


@pytest.mark.parametrize("trouble", ["", "MongoDB does not answer"])
def test_what_is_too_high_is_cut_and_counted(trouble: str) -> None:
    console = Console(file=StringIO(), width=60, height=10)
    console.print(Screen("title", view("headline", 30), trouble), end="")
    assert isinstance(console.file, StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert len(lines) <= 10
    shown = sum(line.startswith("line ") for line in lines)
    assert lines[:4] == ["title", "headline", "", "line 0"]
    assert f"… {30 - shown} lines more than there is room for" in lines
    assert (lines[-1] == trouble) is bool(trouble)
