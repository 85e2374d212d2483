"""How the demo ends: by a clock, by a signal, or at once; and what must be gone afterwards."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.adapters.embedded import EmbeddedUnavailable
from service.ports import ServiceError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FAILED = 1


class Exits:
    """Asked to end once, the demo ends in good order; asked twice, at once."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._kill: Callable[[], None] | None = None
        self._folder: Path | None = None
        self.is_clean = False
        """Tell whether the demo sees for itself that it was asked; else it is cancelled."""

    def ask(self) -> None:
        """Ask the demo to end in good order."""
        self._asked.set()

    async def asked(self) -> None:
        """Return when the demo shall end."""
        await self._asked.wait()

    def at_once(self, kill: Callable[[], None], folder: Path) -> None:
        """Say what there is to do where the demo has to end at once."""
        self._kill, self._folder = kill, folder

    @contextmanager
    def on_signals(self, show: "asyncio.Task[None]") -> Iterator[None]:
        """Let signals end the show: the first in good order, the second at once."""
        loop = asyncio.get_running_loop()

        def end() -> None:
            for name in _SIGNALS:
                loop.remove_signal_handler(name)
                signal.signal(name, lambda *_: self._exit())
            self.ask()
            if not self.is_clean:
                show.cancel()

        for name in _SIGNALS:
            loop.add_signal_handler(name, end)
        try:
            yield
        finally:
            for name in _SIGNALS:
                loop.remove_signal_handler(name)

    def _exit(self) -> None:
        if self._kill is not None and self._folder is not None:
            with suppress(ProcessLookupError):
                self._kill()
            shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(_FAILED)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder that is gone afterwards, except for a log that the reason of a failure names."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    except OSError as error:
        raise ServiceError(f"no temporary folder ({error.strerror}): set TMPDIR to one") from error
    gone = folder
    try:
        yield folder
    except EmbeddedUnavailable as error:
        if str(folder) in str(error):
            gone = folder / "db"
        raise
    finally:
        shutil.rmtree(gone, ignore_errors=True)
