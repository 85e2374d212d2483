"""Writes verdicts behind: jobs take effect first, documents say so as soon as they can."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from service import garbage
from service.domain.councilor import DocumentKey
from service.domain.jobs import AgentDocument, Desired, Past
from service.domain.verdict import Verdict, verdict_on
from service.ports import Agents, Misconfigured, Told, Unavailable
from service.telemetry import Telemetry

_BATCH = 100
_TOLD_AT_ONCE = 20
"""Answers that are worked upon before the event loop may turn to something else."""
_MOST_WAITS, _WAIT_SECONDS = 20, 0.05
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A document, what it wants, and what is known of its past."""

    document: AgentDocument
    desired: Desired
    past: Past
    now: datetime
    skipped_slot: datetime | None = None
    has_job: bool = True
    """Not where another document has the `agent_id`, or there is none."""

    @property
    def verdict(self) -> Verdict:
        """What the document should say."""
        return verdict_on(self.desired, self.past, self.skipped_slot, self.now)


class Verdicts:
    """Run `write` as a task. Of several verdicts on one document, the latest counts.

    While there is more to be judged than is judged at once (`is_busy`), they come slowly.

    `told` is called with each verdict that was written, or refused, and with what the document
    says since; not where the document was judged again meanwhile.
    """

    def __init__(
        self,
        agents: Agents,
        telemetry: Telemetry,
        told: Callable[[Judged, Told | None], None],
        is_busy: Callable[[], bool],
    ) -> None:
        self._agents = agents
        self._telemetry = telemetry
        self._told = told
        self._is_busy = is_busy
        self._unsaid: dict[DocumentKey, Judged] = {}
        self._departed: dict[DocumentKey, object] = {}
        self._has_any = asyncio.Event()
        self._has_written = False
        self.trouble: str | None = None
        """Why verdicts cannot be written, until a person changes something."""
        telemetry.verdicts_counted(lambda: len(self._unsaid) + len(self._departed))

    def say(self, judged: Judged) -> None:
        """Have this verdict written."""
        self.forget(judged.document.key)
        self._unsaid[judged.document.key] = judged
        self._has_any.set()

    def clear(self, key: DocumentKey) -> None:
        """Have the verdict of a document that is no councilor removed."""
        self.forget(key)
        self._departed[key] = object()  # another each time: it may have come back in between
        self._has_any.set()

    def forget(self, key: DocumentKey) -> None:
        """There is nothing to be said any more: the document was judged again."""
        self._unsaid.pop(key, None)
        self._departed.pop(key, None)

    async def write(self) -> None:
        """Write what there is to be said, again and again where that fails, until cancelled.

        Raises Misconfigured where the first of all writes finds that waiting will not help.
        """
        pause = _SHORTEST_PAUSE
        while True:
            await self._has_any.wait()
            for _ in range(_MOST_WAITS):
                if not self._is_busy():
                    break
                await asyncio.sleep(_WAIT_SECONDS)
            try:
                await self._write_some()
            except (Unavailable, Misconfigured) as error:
                self._failed(error)
                await asyncio.sleep(random.uniform(0, pause))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                pause = _SHORTEST_PAUSE
                self._has_written, self.trouble = True, None

    def _failed(self, error: Unavailable | Misconfigured) -> None:
        self._telemetry.database_failed(error)
        if isinstance(error, Misconfigured):
            if not self._has_written:
                raise error
            self.trouble = str(error)
            # Until somebody grants it again, jobs go by what was assumed of them.
            for judged in list(self._unsaid.values()):
                if judged.past.accepted_at is None:
                    self._tell(judged, None)

    def _tell(self, judged: Judged, told: Told | None) -> None:
        try:
            self._told(judged, told)
        except Exception as error:  # noqa: BLE001 one bad document must not stop the others
            self._telemetry.document_failed(judged.document.key, error)

    def _verdicts_on(self, batch: Sequence[Judged]) -> Iterator[tuple[AgentDocument, Verdict]]:
        for judged in batch:
            try:
                yield judged.document, judged.verdict
            except Exception as error:  # noqa: BLE001 one bad document must not stop the others
                self._telemetry.document_failed(judged.document.key, error)

    async def _write_some(self) -> None:
        departed = dict(islice(self._departed.items(), _BATCH))
        batch = list(islice(self._unsaid.values(), _BATCH))
        await self._agents.clear_verdicts(list(departed))
        told = await self._agents.write_verdicts(list(self._verdicts_on(batch)))
        for key, time in departed.items():
            if self._departed.get(key) is time:
                del self._departed[key]
        for place, judged in enumerate(batch):
            if place % _TOLD_AT_ONCE == _TOLD_AT_ONCE - 1:
                await asyncio.sleep(0)
            key = judged.document.key
            if self._unsaid.get(key) is judged:  # else it was judged again
                del self._unsaid[key]
                # One that is left out has changed: it will be judged anew.
                if key in told:
                    self._tell(judged, told[key])
        garbage.spare(len(told))
        if not self._unsaid and not self._departed:
            self._has_any.clear()
