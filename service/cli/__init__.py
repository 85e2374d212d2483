"""The commands of CONTRACT section 7."""

import sys
from typing import Annotated, NoReturn

import typer

from service import __version__
from service.cli import reading, running, writing
from service.cli.common import FAILED, WRONG_USAGE, cli
from service.ports import Misconfigured, ServiceError
from service.settings import WrongSettings
from service.web.server import CannotListen

__all__ = ["cli", "main", "reading", "running", "writing"]


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
