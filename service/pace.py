"""A distance between starts that would otherwise all come at once."""

import asyncio
from datetime import timedelta

_SPACING = timedelta(milliseconds=50)
"""After an outage all councilors are late at once: their runs start one after the other."""


class Pace:
    """Lets one through at a time, in order, with a distance between two."""

    def __init__(self, spacing: timedelta = _SPACING) -> None:
        self._spacing = spacing.total_seconds()
        self._one = asyncio.Lock()
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until it is one's turn; a caller that is cancelled takes none."""
        async with self._one:
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, self._next - now))
            self._next = max(now, self._next) + self._spacing
