"""Agent ids for a shell that completes a command: a few, at once, or none."""

import asyncio
import threading
from contextlib import suppress
from datetime import timedelta

from service.adapters.mongo.client import connected
from service.app import mongodb_url, stores_of
from service.settings import settings_from_environment

_MOST = 200
_PATIENCE = timedelta(seconds=1)
_SAFE = frozenset("_-.@+,/%:=")


def agent_ids_for(incomplete: str) -> list[str]:
    """The ids that begin so; none where the database does not answer within a second."""
    found: list[str] = []

    def look() -> None:
        # Whatever goes wrong, nobody who types wants to read of it.
        with suppress(Exception):
            found.extend(asyncio.run(_ids_beginning(incomplete)))

    # A thread that nobody waits for: looking a name up, say, has no limit that we could set.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_PATIENCE.total_seconds())
    return [agent_id for agent_id in dict.fromkeys(found) if is_safe(agent_id)]


def is_safe(agent_id: str) -> bool:
    """Tell whether a shell takes this for a word: it may evaluate what it is offered."""
    is_plain = all(c in _SAFE or c.isalnum() for c in agent_id)
    return is_plain and agent_id.isprintable() and not agent_id.startswith("-")


async def _ids_beginning(text: str) -> list[str]:
    settings = settings_from_environment()
    async with connected(mongodb_url(settings), patience=_PATIENCE) as client:
        return [*await stores_of(client, settings, owner="cli").agents.ids(text, _MOST)]
