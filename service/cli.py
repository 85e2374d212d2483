"""The commands of CONTRACT section 7."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
import typer
from pydantic import SecretStr

from service import __version__, tables
from service.adapters import embedded
from service.adapters.mongo.client import connected
from service.adapters.mongo.files import documents_in
from service.adapters.mongo.replica_set import initiate
from service.app import Stop, Stores, mongodb_url, schedule_policy, serve, stores_of, wall_clock
from service.checking import findings_on
from service.domain.advice import Circumstances
from service.domain.config import instant_from
from service.domain.councilor import InvalidCouncilor, parse_councilor
from service.domain.interval import ScheduleError, interval_from
from service.domain.planning import AgentDocument
from service.listing import items_of, jobs_of
from service.ports import Misconfigured, ServiceError
from service.settings import (
    Settings,
    WrongSettings,
    settings_from_environment,
    unknown_variables,
)
from service.telemetry import configure_logging
from service.web.server import CannotListen

log = structlog.get_logger()

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


def main() -> None:
    """Run a command and end the process with its exit code: 0 fine, 1 failed, 2 wrong usage."""
    try:
        cli()
    except (WrongSettings, Misconfigured, CannotListen) as error:
        _end(error, WRONG_USAGE)
    except ServiceError as error:
        _end(error, FAILED)


def _end(error: ServiceError, code: int) -> NoReturn:
    for line in str(error).splitlines():
        print(f"councilor-scheduler: {line}", file=sys.stderr)  # noqa: T201 a command speaks
    raise SystemExit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"councilor-scheduler {__version__}")
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version


@cli.command()
def run(
    is_embedded: Annotated[
        bool, typer.Option("--embedded", help="Start a local mongod as a replica set of one.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the embedded mongod keeps its data.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="auto, console or json; wins over SCHEDULER_LOG_FORMAT.")
    ] = None,
) -> None:
    """Run the scheduler until SIGTERM or Ctrl-C."""
    chosen = {"scheduler_log_format": log_format} if log_format is not None else {}
    settings = settings_from_environment(**chosen)
    configure_logging(settings.scheduler_log_format, settings.scheduler_log_level)
    for line in unknown_variables(os.environ):
        typer.echo(f"councilor-scheduler: {line}", err=True)
    if data_dir is not None and not is_embedded:
        raise typer.BadParameter("--data-dir goes with --embedded")
    if not is_embedded:
        mongodb_url(settings)
        _run_loop(_served(settings))
        return
    folder = data_dir or embedded.default_data_dir(os.environ, sys.platform)
    _run_loop(_served_embedded(settings, folder))


async def _served(settings: Settings) -> None:
    stop = Stop()
    _stop_on_signals(stop)
    await serve(settings, stop)


async def _served_embedded(settings: Settings, data_dir: Path) -> None:
    stop = Stop()
    _stop_on_signals(stop)
    async with embedded.embedded_mongod(
        data_dir=data_dir, environ=os.environ, initiate=initiate
    ) as mongod:
        log.info("embedded_mongod_started", url=mongod.url, data_dir=str(data_dir))
        ended = asyncio.create_task(mongod.wait(), name="embedded mongod")
        ended.add_done_callback(lambda task: _mongod_ended(stop, task))
        try:
            await serve(settings.model_copy(update={"mongodb_url": SecretStr(mongod.url)}), stop)
        finally:
            ended.cancel()


def _mongod_ended(stop: Stop, task: "asyncio.Task[int]") -> None:
    if not task.cancelled():
        stop.fail(ServiceError(f"the embedded mongod ended with exit code {task.result()}"))


def _stop_on_signals(stop: Stop) -> None:
    """The first signal drains, the second ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop_or_exit() -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
            signal.signal(name, lambda *_: os._exit(FAILED))
        stop.ask()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop_or_exit)


@cli.command()
def demo(
    run_for: Annotated[
        str | None, typer.Option("--for", metavar="60s", help="End after this long.")
    ] = None,
) -> None:
    """Show it all: a local MongoDB, a stand-in Conductor, and a writer that changes documents."""
    from service.demo.story import tell  # noqa: PLC0415 the service itself does not need it

    _run_loop(tell(_duration(run_for) if run_for is not None else None))


@cli.command()
def jobs(as_json: AsJson = False) -> None:
    """List the councilors with their next runs and last results."""

    async def listed(stores: Stores, settings: Settings) -> None:
        documents = await stores.agents.find(None)
        stored = await stores.stored_jobs.load()
        found = jobs_of(documents, stored, schedule_policy(settings))
        items = await items_of(
            sorted(found, key=lambda job: job.agent_id), stores.agents, stores.ledger
        )
        tables.show_jobs(items, wall_clock(), as_json=as_json)

    _with_stores(listed)


@cli.command()
def history(
    agent_id: AgentId,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many rows, latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what became of a councilor's slots."""

    async def shown(stores: Stores, _: Settings) -> None:
        rows = await stores.ledger.history(agent_id, limit)
        if not rows and not await stores.agents.find([agent_id]):
            raise ServiceError(f"there is no agent {agent_id}")
        tables.show_history([row.fields for row in rows], as_json=as_json)

    _with_stores(shown)


@cli.command()
def promote(
    agent_id: AgentId,
    prompt: Annotated[str, typer.Option(help="What the agent shall do.")],
    every: Annotated[str | None, typer.Option(metavar="30m", help="An interval.")] = None,
    cron: Annotated[str | None, typer.Option(metavar='"0 9 * * 1"', help="Five fields.")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA zone of a cron.")] = None,
    name: Annotated[str | None, typer.Option(help="The name of the task.")] = None,
    title: Annotated[str | None, typer.Option(help="The councilor's title.")] = None,
) -> None:
    """Make an agent a councilor: it runs PROMPT again and again."""
    if (every is None) == (cron is None):
        raise typer.BadParameter("give either --every or --cron")
    schedule = {"type": "interval", "value": every} if every else {"type": "cron", "value": cron}
    config = {
        "title": title or name or agent_id,
        "schedule": {**schedule, "enabled": True, **({"timezone": timezone} if timezone else {})},
        "task": {"name": name or title or agent_id, "prompt": prompt},
    }
    changes = {"is_councilor": True, "councilor_config": config}
    judged = parse_councilor(
        {"agent_id": agent_id, **changes}, schedule_policy(settings_from_environment())
    )
    if isinstance(judged, InvalidCouncilor):
        raise ServiceError(f"{judged.problem.message}: {judged.problem.hint}")
    _edit(agent_id, changes, "promoted")


@cli.command()
def pause(agent_id: AgentId) -> None:
    """Let a councilor's slots pass until it is resumed."""
    _edit_councilor(agent_id, {"councilor_config.schedule.enabled": False}, "paused")


@cli.command()
def resume(agent_id: AgentId) -> None:
    """Let a paused councilor run again, from its next slot on."""
    _edit_councilor(agent_id, {"councilor_config.schedule.enabled": True}, "resumed")


@cli.command("run-now")
def run_now(agent_id: AgentId) -> None:
    """Ask for one run, whatever the schedule says."""
    _edit_councilor(agent_id, {"councilor_run_requested_at": wall_clock()}, "asked for a run")


@cli.command()
def demote(agent_id: AgentId) -> None:
    """Make a councilor an ordinary agent again."""
    _edit(agent_id, {"is_councilor": False, "councilor_config": None}, "demoted")


@cli.command()
def check(
    agent_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT_ID]...", help="Default: all councilors.")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", help="JSON with one document or a list, or a folder of such files."),
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="Judge as of then.")] = None,
    count: Annotated[int, typer.Option(min=0, max=1000, help="How many next runs.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Judge councilors without running them; exit code 1 where one is invalid."""
    settings = settings_from_environment()
    instant = _instant(at) if at is not None else wall_clock()

    if files and agent_ids:
        raise typer.BadParameter("give either agents or files")
    if files:
        found = [each for file in files for each in documents_in(file)]
    else:
        stored = _with_stores(lambda stores, _: _found(stores, agent_ids))
        found = [(document, "") for document in stored]
    findings = findings_on(
        [document for document, _ in found],
        schedule_policy(settings),
        Circumstances(settings.scheduler_run_timeout, instant),
        count,
        are_stored=not files,
    )
    tables.show_findings(findings, [source for _, source in found], as_json=as_json)
    if any(finding.is_invalid for finding in findings):
        raise typer.Exit(FAILED)


async def _found(stores: Stores, agent_ids: list[str] | None) -> list[AgentDocument]:
    documents = list(await stores.agents.find(agent_ids or None))
    known = {(document.fields or {}).get("agent_id") for document in documents}
    if missing := [agent_id for agent_id in agent_ids or () if agent_id not in known]:
        raise ServiceError(f"there is no agent {', '.join(missing)}")
    return documents


def _edit(
    agent_id: str, changes: dict[str, object], done: str, *, councilors_only: bool = False
) -> None:
    async def edited(stores: Stores, _: Settings) -> None:
        if await stores.agents.edit(agent_id, changes, councilors_only=councilors_only):
            return
        if await stores.agents.find([agent_id]):
            raise ServiceError(f"{agent_id} is no councilor: promote it first")
        raise ServiceError(f"there is no agent {agent_id}")

    _with_stores(edited)
    typer.echo(f"{agent_id}: {done}")


def _edit_councilor(agent_id: str, changes: dict[str, object], done: str) -> None:
    _edit(agent_id, changes, done, councilors_only=True)


def _with_stores(work: Callable[[Stores, Settings], Awaitable[_T]]) -> _T:
    settings = settings_from_environment()
    configure_logging(settings.scheduler_log_format, "error", sys.stderr)
    url = mongodb_url(settings)

    async def connected_work() -> _T:
        async with connected(url) as client:
            return await work(stores_of(client, settings, owner="cli"), settings)

    return asyncio.run(connected_work())


def _run_loop(work: Coroutine[Any, Any, None]) -> None:
    if find_spec("uvloop") is None:
        asyncio.run(work)
        return
    import uvloop  # noqa: PLC0415 the extra `speed`: used where it is installed

    uvloop.run(work)


def _duration(text: str) -> timedelta:
    try:
        return interval_from(text)
    except ScheduleError as error:
        raise typer.BadParameter(f"{error}: {error.hint}") from error


def _instant(text: str) -> datetime:
    instant = instant_from(text)
    if instant is None or not 1970 <= instant.year <= 3000:
        raise typer.BadParameter(f'"{text}" is not an instant such as 2026-11-23T09:00:00Z')
    return instant
