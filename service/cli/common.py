"""What several commands share: the application, its arguments, a connected database."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Annotated, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

from service.adapters.mongo.client import Client, connected
from service.app import Stores, mongodb_url, stores_of
from service.cli.completion import agent_ids_for
from service.domain.config import instant_from
from service.domain.interval import ScheduleError, interval_from
from service.ports import ServiceError
from service.settings import Settings, settings_from_environment
from service.telemetry import configure_logging

_T = TypeVar("_T")

PROGRAM = "councilor-scheduler"
FINE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
RUN, LOOK, WRITE, CHECK = "Run", "Look", "Write", "Check"
_ORDER = (
    *("run", "demo"),
    *("jobs", "history", "why"),
    *("promote", "pause", "resume", "run-now", "skip-next", "demote"),
    *("check", "schema"),
)
_MOST_IDS, _LONGEST_ID = 3_000, 200
"""What is looked through for an agent that may have been meant."""


class _InOrder(TyperGroup):
    """Commands as people look for them, not as their modules are imported."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        names = super().list_commands(ctx)
        known = {name: place for place, name in enumerate(_ORDER)}
        return sorted(names, key=lambda name: known.get(name, len(known)))


_EPILOG = """\
[bold]Exit codes[/bold]
0    fine, also where there was nothing to do
1    failed: no such agent, an invalid councilor, MongoDB does not answer
2    wrong usage or settings
130  interrupted

[bold]Environment[/bold]
MONGODB_URL         the replica set where the agents are: required
MONGODB_DATABASE    conductor_state
CONDUCTOR_API_URL   http://localhost:8000, asked by run
SCHEDULER_TIMEZONE, SCHEDULER_MIN_INTERVAL
                    UTC and 1m: by these, schedules are judged
NO_COLOR, FORCE_COLOR, COLUMNS
                    no colours, colours into a pipe, the width of tables
"""

cli = typer.Typer(
    name=PROGRAM,
    cls=_InOrder,
    help="Schedules recurring agent runs from nothing but documents in MongoDB.",
    epilog=_EPILOG,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\n".join(("[bold]Examples[/bold]", *(f"{PROGRAM} {command}" for command in commands)))


def utf8(text: str | None) -> str | None:
    """What can be written to a document: arguments, unlike those, may hold any bytes."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is no text in UTF-8") from None
    return text


AgentId = Annotated[
    str,
    typer.Argument(
        metavar="AGENT_ID",
        help="The agent's agent_id.",
        autocompletion=agent_ids_for,
        callback=utf8,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def instant_argument(text: str, also: str = "") -> datetime:
    """An ISO-8601 instant, in UTC where it names no zone; `also` says what else may be written."""
    instant = instant_from(text)
    if instant is None or not 1970 <= instant.year <= 3000:
        raise typer.BadParameter(f'"{text}" is not an instant such as 2026-11-23T09:00:00Z{also}')
    return instant


def duration_argument(text: str) -> timedelta:
    """An interval such as `90s`."""
    try:
        return interval_from(text)
    except ScheduleError as error:
        raise typer.BadParameter(f"{error}: {error.hint}") from error


def with_stores(work: Callable[[Stores, Settings], Awaitable[_T]]) -> _T:
    """Do something with the collections. Raises WrongSettings, and what the work raises."""
    return with_client(lambda client, settings: work(_stores(client, settings), settings))


def with_client(work: Callable[[Client, Settings], Awaitable[_T]]) -> _T:
    """Do something with the database. Raises WrongSettings, and what the work raises."""
    settings = settings_from_environment()
    configure_logging(settings.scheduler_log_format, "error", sys.stderr)
    url = mongodb_url(settings)

    async def connected_work() -> _T:
        async with connected(url, retries_writes=True) as client:
            return await work(client, settings)

    return asyncio.run(connected_work())


def _stores(client: Client, settings: Settings) -> Stores:
    return stores_of(client, settings, owner="cli")


async def unknown_agent(stores: Stores, agent_id: str) -> ServiceError:
    """The error that there is no such agent, with those that may have been meant."""
    ids = [
        *await stores.agents.ids(agent_id[:2], _MOST_IDS),
        *await stores.agents.ids("", _MOST_IDS),
    ]
    return unknown_among(agent_id, ids)


def unknown_among(agent_id: str, known: Iterable[str]) -> ServiceError:
    """The same, where the others are known."""
    by_fold = {other.casefold(): other for other in known if len(other) <= _LONGEST_ID}
    fold = agent_id[:_LONGEST_ID].casefold()
    longer = [other for other in by_fold if other.startswith(fold)]
    likely = longer[:3] or get_close_matches(fold, by_fold, n=3, cutoff=0.7)
    meant = " or ".join(by_fold[other] for other in likely)
    return ServiceError(
        f"there is no agent {agent_id}" + (f"; did you mean {meant}?" if meant else "")
    )


def silence_of(error: ServiceError) -> str:
    """What is said of a database that does not answer, in one line."""
    trouble = " ".join(str(error).split(" (configured timeouts")[0].split())
    return f"MongoDB does not answer: {trouble}"


def leave_at_once(code: int) -> NoReturn:
    """End without waiting for the driver's threads, which may wait for a server for seconds."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue  # whoever read it has gone
    os._exit(code)
