"""What several commands share: the application, its arguments, a connected database."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from service.adapters.mongo.client import Client, connected
from service.app import Stores, mongodb_url, stores_of
from service.settings import Settings, settings_from_environment
from service.telemetry import configure_logging

_T = TypeVar("_T")

FAILED, WRONG_USAGE = 1, 2

cli = typer.Typer(
    name="councilor-scheduler",
    help="Schedules recurring agent runs from nothing but documents in MongoDB.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AgentId = Annotated[str, typer.Argument(metavar="AGENT_ID", help="The agent's agent_id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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
