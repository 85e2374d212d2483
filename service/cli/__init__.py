"""The commands of CONTRACT section 7."""

import errno
import signal
import sys
from typing import Annotated, NoReturn

import typer

from service import __version__
from service.cli import reading, running, writing
from service.cli.common import (
    FAILED,
    FINE,
    INTERRUPTED,
    PROGRAM,
    WRONG_USAGE,
    cli,
    leave_at_once,
    silence_of,
)
from service.domain.printable import printable
from service.ports import Misconfigured, ServiceError, Unavailable
from service.settings import WrongSettings
from service.web.server import CannotListen

__all__ = ["cli", "main", "reading", "running", "writing"]

_NO_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
# What Typer raises for wrong usage of any kind; it exports one kind only.
_WrongUsage: type[Exception] = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run a command and end the process with its exit code: 0 fine, 1 failed, 2 wrong usage."""
    try:
        code = _code_of_command()
    except _WrongUsage as error:
        _end(_usage_line(error), WRONG_USAGE)
    except (WrongSettings, Misconfigured, CannotListen) as error:
        _end(str(error), WRONG_USAGE)
    except Unavailable as error:
        _end(silence_of(error), FAILED)
    except ServiceError as error:
        _end(str(error), FAILED)
    except KeyboardInterrupt:
        leave_at_once(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is left to do is nobody's concern
    if code == INTERRUPTED:
        leave_at_once(INTERRUPTED)
    raise SystemExit(code)


def _code_of_command() -> int:
    try:
        code = cli(prog_name=PROGRAM, standalone_mode=False) or FINE
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        leave_at_once(FAILED)
    except OSError as error:
        if error.errno not in _NO_OUTPUT:
            raise
        print(f"{PROGRAM}: cannot print: {error.strerror}", file=sys.stderr)  # noqa: T201
        leave_at_once(FAILED)
    return int(code)


def _usage_line(error: Exception) -> str:
    """What is wrong, and where to read what would be right."""
    context: typer.Context | None = getattr(error, "ctx", None)
    wrong = getattr(error, "format_message", error.__str__)().rstrip(".")
    wrong = wrong.removeprefix("Invalid value: ").replace("Value error, ", "")
    path = context.command_path if context is not None else PROGRAM
    return f"{' '.join(wrong.split())} (see {path} --help)"


def _end(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"{PROGRAM}: {printable(line)}", file=sys.stderr)  # noqa: T201 a command speaks
    raise SystemExit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@cli.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)
        raise typer.Exit(WRONG_USAGE)
