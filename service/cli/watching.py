"""A live view: looked up again and again, until Ctrl-C; a database that is away is told of."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, NoReturn

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from service.app import Stores, wall_clock
from service.cells import instant, text
from service.cli.common import (
    FINE,
    PROGRAM,
    duration_argument,
    leave_at_once,
    silence_of,
    with_stores,
)
from service.domain.interval import interval_text
from service.ports import Clock, ServiceError
from service.settings import Settings
from service.tables import console

_NO_ANSWER = "MongoDB has not answered yet"

Watched = Annotated[
    bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C; not with --json.")
]
Every = Annotated[
    str, typer.Option("--every", metavar="2s", help="How often --watch looks; at least 1s.")
]


@dataclass(frozen=True, slots=True)
class View:
    """What is to be seen: a line, and below it what is as wide as it may be."""

    headline: str
    body: Callable[[int], RenderableType]


Look = Callable[[], Awaitable[View]]
Show = Callable[["Screen"], None]


@dataclass(frozen=True, slots=True)
class Screen:
    """A view as high as the terminal at most; what is cut off is counted."""

    title: str
    view: View
    trouble: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = Group(Text(self.title, "dim"), Text(self.view.headline), Text(""))
        yield head
        foot = text(self.trouble, "bold red")
        taken = len(console.render_lines(head)) + len(console.render_lines(foot))
        room = max(2, options.size.height - taken)
        body = console.render_lines(self.view.body(options.max_width))
        yield from _lines(body if len(body) <= room else body[: room - 1])
        if len(body) > room:
            yield Text(f"… {len(body) - room + 1:,} lines more than there is room for", "dim")
        if self.trouble:
            yield foot


def _lines(lines: Sequence[Sequence[Segment]]) -> RenderResult:
    for line in lines:
        yield from line
        yield Segment.line()


async def watch(
    name: str,
    first: View,
    look: Look,
    show: Show,
    clock: Clock,
    *,
    every: timedelta,
    tick: timedelta = timedelta(seconds=1),
) -> NoReturn:
    """Show a view and look again, for ever; while nothing is seen, the last view stays.

    It says then since when, with each `tick`.
    """
    view, seen_at, trouble = first, clock(), ""

    def shown(trouble: str) -> None:
        now = clock()
        title = f"{name} · {instant(now)} UTC · every {interval_text(every)} · Ctrl-C ends"
        show(Screen(title, view, trouble and _since(trouble, seen_at, now)))

    while True:
        shown(trouble)
        await asyncio.sleep(every.total_seconds())
        looking = asyncio.create_task(_seen(look), name="look")
        try:
            while not (await asyncio.wait([looking], timeout=tick.total_seconds()))[0]:
                shown(trouble or _NO_ANSWER)
        finally:
            looking.cancel()
        match looking.result():
            case View() as seen:
                view, seen_at, trouble = seen, clock(), ""
            case ServiceError() as error:
                trouble = silence_of(error)


async def _seen(look: Look) -> View | ServiceError:
    try:
        return await look()
    except ServiceError as error:
        return error


def _since(trouble: str, seen_at: datetime, now: datetime) -> str:
    away = interval_text(now - seen_at)
    return f"{trouble} (last seen {away} ago)"


def run_watch(
    name: str,
    look: Callable[[Stores, Settings], Awaitable[View]],
    every: str,
    *,
    as_json: bool,
) -> NoReturn:
    """Watch in this terminal until Ctrl-C, then end the process with 0.

    Raises BadParameter where nobody would see it, and what the first look raises.
    """
    interval = duration_argument(every)
    if as_json:
        raise typer.BadParameter("--watch is for people and --json for programs: give one of them")
    if not sys.stdout.isatty() or console().is_dumb_terminal:
        raise typer.BadParameter(
            "--watch needs a terminal, and standard output is none: leave it out, or use --json"
        )

    async def watched(stores: Stores, settings: Settings) -> NoReturn:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.add_signal_handler(signal.SIGTERM, task.cancel)  # so that the cursor comes back
        first = await look(stores, settings)
        with Live(console=console(), auto_refresh=False, vertical_overflow="crop") as live:
            await watch(
                f"{PROGRAM} {name}",
                first,
                lambda: look(stores, settings),
                lambda screen: live.update(screen, refresh=True),
                wall_clock,
                every=interval,
            )

    try:
        with_stores(watched)
    except (KeyboardInterrupt, asyncio.CancelledError):
        leave_at_once(FINE)
