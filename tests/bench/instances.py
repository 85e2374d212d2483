"""Processes that are measured or that stand beside: started, asked, ended, none left behind."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from time import monotonic, sleep
from typing import Any

import orjson

from tests.bench import machine
from tests.bench.journal import Journal, Unmeasured

_HERE = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 60.0
_READY_POLL_SECONDS = 0.005
_ASK_SECONDS = 30.0


class Instance:
    """The service as a process; `began` is when it was started, by the monotonic clock."""

    def __init__(
        self, process: "Popen[bytes]", control: socket.socket, log: Path, began: float
    ) -> None:
        self.began = began
        self.journal = Journal(log)
        self._process = process
        self._control = control.makefile("rwb")
        self._port: int | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def rss_bytes(self) -> int:
        return machine.rss_bytes(self.pid)

    @property
    def cpu_seconds(self) -> float:
        return machine.cpu_seconds(self.pid)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def reset(self) -> None:
        """Let the watcher forget what it has seen."""
        self._asked(b"reset\n")

    @property
    def longest_stall_ms(self) -> float:
        """The longest stall of the loop since the last `reset`."""
        return float(self.report()["longest_stall_ms"])

    def report(self) -> Mapping[str, float]:
        """What the watcher has seen since the last `reset`."""
        return self._asked(b"report\n")

    def wait_ready(self, within: float) -> float:
        """Return the seconds from the start to the first 200 of /readyz."""
        until = self.began + within
        while monotonic() < until and self.is_alive:
            with (
                suppress(OSError, http.client.HTTPException, _NotYet),
                closing(self.connection()) as connection,
            ):
                while monotonic() < until:
                    if status_of(connection, "/readyz") == 200:
                        return monotonic() - self.began
                    sleep(_READY_POLL_SECONDS)
            sleep(_READY_POLL_SECONDS)
        raise Unmeasured(f"the service is not ready within {within:g} s: {self._last_words()}")

    def wait_logged(self, event: str, count: int, within: float, since: int = 0) -> None:
        """Return when the log has an event so often. Raises Unmeasured."""
        self.journal.tally(event, since).wait(count, within, alive=lambda: self.is_alive)

    def connection(self) -> http.client.HTTPConnection:
        """A connection to its HTTP server."""
        if self._port is None:
            started = next(self.journal.events("scheduler_started"), None)
            if started is None:
                raise _NotYet
            self._port = int(started.fields["http_port"])
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ASK_SECONDS)

    def got(self, path: str) -> Any:
        """What it answers, as JSON."""
        with closing(self.connection()) as connection:
            connection.request("GET", path)
            return orjson.loads(connection.getresponse().read())

    def stop(self) -> None:
        """End it by SIGTERM. Raises Unmeasured where it does not end well."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Unmeasured(f"the service does not stop within {_STOP_SECONDS:g} s") from None
        if code != 0:
            raise Unmeasured(f"the service ended with {code}: {self._last_words()}")

    def _asked(self, command: bytes) -> dict[str, float]:
        self._control.write(command)
        self._control.flush()
        said: dict[str, float] = orjson.loads(self._control.readline())
        return said

    def _last_words(self) -> str:
        return self.journal.path.read_bytes()[-1_000:].decode("utf-8", "replace")


class _NotYet(Exception):
    """The service has not told its port."""


def status_of(connection: http.client.HTTPConnection, path: str) -> int:
    """Ask and leave the connection open."""
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response.status


@contextmanager
def serving(environ: Mapping[str, str], log: Path, *, is_watched: bool) -> Iterator[Instance]:
    """Run the service; killed at the end of the context if it still runs."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.bench.serving"]
    ours.settimeout(_ASK_SECONDS)
    with ours, log.open("wb") as output:
        began = monotonic()
        process = Popen(
            command if is_watched else [*command, "--unwatched"],
            env={**inherited(), **environ},
            stdin=theirs.fileno(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        theirs.close()
        with _ended(process):
            yield Instance(process, ours, log, began)


@contextmanager
def standing_in() -> Iterator[int]:
    """Run the stand-in Conductor; gives its port."""
    process = Popen(
        [sys.executable, "-m", "tests.bench.conductor"],
        env=inherited(),
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,
    )
    with _ended(process):
        assert process.stdout is not None
        yield int(process.stdout.readline())


def answer_of(module: str, *arguments: str, within: float) -> Any:
    """What a module prints, run as a process of its own: one line of JSON."""
    process = Popen(
        [sys.executable, "-m", module, *arguments],
        env=inherited(),
        stdin=DEVNULL,
        stdout=PIPE,
        start_new_session=True,
    )
    with _ended(process):
        try:
            said, _ = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            raise Unmeasured(f"{module} {arguments} takes more than {within:g} s") from None
        if process.returncode != 0:
            raise Unmeasured(f"{module} {arguments} ended with {process.returncode}")
        return orjson.loads(said)


def inherited() -> dict[str, str]:
    """What of this process' environment others get: nothing that is a setting."""
    names = ("PATH", "HOME", "MONGOD")
    environ = {name: os.environ[name] for name in names if name in os.environ}
    return environ | {"PYTHONPATH": str(_HERE)}


@contextmanager
def _ended(process: "Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def within_time(done: Callable[[], bool], what: str, *, within: float, every: float) -> float:
    """Ask until it is so; returns when that was, by the monotonic clock. Raises Unmeasured."""
    until = monotonic() + within
    while not done():
        if monotonic() > until:
            raise Unmeasured(f"not within {within:g} s: {what}")
        sleep(every)
    return monotonic()
