"""Who is told, and how."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from service.domain.digest import Message
from service.domain.notification import Delivery, Entry, Notification, Target
from service.ports.errors import ServiceError


class StoredNotifications(Protocol):
    """The collection `scheduler_notifications`: what people are told, and what is still to be sent.

    What is pending has an owner, who sends it; others may once that one is dead. So a message goes
    out at least once: again where its sender died, or lost the database, before that was marked.
    """

    async def prepare(self) -> None:
        """Have what makes these fast, and lets them expire. Raises Unavailable, Misconfigured.

        Without it everything else is as it is.
        """

    async def add(self, entries: Sequence[Entry]) -> Sequence["bool | ServiceError"]:
        """Write these as ours. What became of each: False where somebody has told of that ending.

        Refused where the server refuses the document. May be called again with the same entries:
        what an earlier try has written is True. Raises Unavailable, Misconfigured.
        """

    async def settle(
        self, notification_ids: Sequence[str], delivery: Delivery, attempts: int, at: datetime
    ) -> None:
        """Mark what was pending and is ours as sent, or as failed. Raises Unavailable."""

    async def owners_of_pending(self) -> frozenset[str]:
        """Who has something to send. Raises Unavailable."""

    async def adopt(self, owners: Collection[str], most: int) -> Sequence[Notification]:
        """Make what these owners have left pending ours, oldest first; answers what now is.

        Of several that do so at once, one gets each. Raises Unavailable: then some may be ours.
        """


class Messenger(Protocol):
    """What takes messages outside."""

    @property
    def targets(self) -> Sequence[Target]:
        """Where it can send."""

    async def send(self, target: Target, message: Message) -> None:
        """Send this, once. Raises Unavailable where it did not arrive, or that is not known.

        Raises Refused where it will never be taken as it is.
        """
