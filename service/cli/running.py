"""Commands that run the service: `run` and `demo`."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
from pydantic import SecretStr

from service.adapters import embedded
from service.adapters.mongo.replica_set import initiate
from service.app import Stop, mongodb_url, serve
from service.cli.common import FAILED, RUN, cli, duration_argument, examples
from service.loop import run_loop
from service.ports import ServiceError
from service.settings import (
    Settings,
    settings_from_environment,
    unknown_files,
    unknown_variables,
)
from service.telemetry import configure_logging

log = structlog.get_logger()


@cli.command(
    rich_help_panel=RUN,
    epilog=examples("run", "run --embedded --log-format console"),
)
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
    """Run the scheduler until SIGTERM or Ctrl-C.

    Needs MONGODB_URL, or --embedded, and calls CONDUCTOR_API_URL. A second signal ends it at once.
    """
    chosen = {"scheduler_log_format": log_format} if log_format is not None else {}
    settings = settings_from_environment(**chosen)
    configure_logging(settings.scheduler_log_format, settings.scheduler_log_level)
    for line in (*unknown_variables(os.environ), *unknown_files(os.environ)):
        typer.echo(f"councilor-scheduler: {line}", err=True)
    if data_dir is not None and not is_embedded:
        raise typer.BadParameter("--data-dir goes with --embedded")
    if not is_embedded:
        mongodb_url(settings)
        run_loop(_served(settings))
        return
    folder = data_dir or embedded.default_data_dir(os.environ, sys.platform)
    run_loop(_served_embedded(settings, folder))


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


@cli.command(rich_help_panel=RUN, epilog=examples("demo --for 60s"))
def demo(
    run_for: Annotated[
        str | None, typer.Option("--for", metavar="60s", help="End after this long.")
    ] = None,
) -> None:
    """Show it all: a local MongoDB, a stand-in Conductor, a writer that changes documents."""
    from service.demo.story import tell  # noqa: PLC0415 the service itself does not need it

    run_loop(tell(duration_argument(run_for) if run_for is not None else None))
