"""The writer's acts: it changes documents as any program would, and looks at what comes of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from rich.text import Text

from service.adapters.mongo.writer import PlainWriter
from service.demo import board
from service.demo.cast import Part
from service.demo.ears import Ears, Event, named
from service.demo.facts import Window
from service.demo.narrator import Narrator
from service.domain.execution import epoch_ms
from service.domain.interval import every_from
from service.domain.schedule import Timetable
from service.ports import Clock

_PATIENCE_SECONDS = 20.0
_GLANCES, _GLANCE_SECONDS = 40, 0.05
_TICK = timedelta(milliseconds=1)

Update = Mapping[str, object]


class Acts:
    """What the writer can do; each act returns when its effect has been seen."""

    def __init__(self, writer: PlainWriter, narrator: Narrator, ears: Ears, clock: Clock) -> None:
        self._writer = writer
        self._narrator = narrator
        self._ears = ears
        self._clock = clock
        self.windows: list[Window] = []
        """When no run was wanted of whom, as the writer remembers it."""

    async def insert(self, *parts: Part) -> None:
        """Insert ordinary agents: nothing happens."""
        self._narrator.wrote(f"inserts {len(parts)} ordinary agents: no reaction, as it should be")
        await self._writer.insert([part.agent for part in parts])

    async def insert_promoted(self, part: Part) -> None:
        """Insert an agent that is a councilor from its first moment."""
        shown = {"agent_id": part.agent_id, "is_councilor": True, "councilor_config": ...}
        headline = f"inserts {part.name}, a councilor from the start"
        scheduled = self._ears.next(named("job_scheduled", part.agent_id))
        self._narrator.wrote(headline, {"insertOne": shown}, timed=part.agent_id)
        await self._writer.insert([{**part.agent, **part.promotion}])
        await heard(scheduled)

    async def promote(self, part: Part, *, in_full: bool = False) -> None:
        """Make an agent a councilor; `in_full` shows the whole command."""
        headline, update = f"promotes {part.name}", {"$set": part.promotion}
        scheduled = self._ears.next(named("job_scheduled", part.agent_id))
        if in_full:
            self._narrator.commanded(headline, part.agent_id, part.promotion)
        else:
            self._narrator.wrote(headline, timed=part.agent_id)
        self._end_window(part)
        await self._send(part, update)
        await heard(scheduled)

    async def promote_broken(self, part: Part) -> None:
        """Promote with a schedule that means nothing; tell what the document then says."""
        config = {"schedule": part.schedule, "task": ...}
        shown = {"$set": {"is_councilor": True, "councilor_config": config}}
        headline, update = f"promotes {part.name}, with a mistake", {"$set": part.promotion}
        await self._change(part, headline, update, "job_rejected", shown)
        await self._read_verdict(part)

    async def break_schedule(self, part: Part, when: str) -> None:
        """Make a mistake in a schedule that was fine; tell what the document then says."""
        await self.reschedule(part, when, f"breaks {part.name}", "job_rejected")
        await self._read_verdict(part)

    async def reschedule(
        self, part: Part, when: str, headline: str, effect: str = "job_scheduled"
    ) -> None:
        """Replace the whole schedule."""
        schedule = replace(part, when=when).schedule
        update = {"$set": {"councilor_config.schedule": schedule}}
        await self._change(part, headline, update, effect)

    async def pause(self, part: Part) -> None:
        """Let slots pass from now on."""
        update = {"$set": {"councilor_config.schedule.enabled": False}}
        await self._change(part, f"pauses {part.name}", update, "job_paused")
        self.windows.append(Window(part.agent_id, is_pause=True, since=self._clock()))

    async def resume(self, part: Part) -> None:
        """Let an interval councilor run again; tell how many slots the pause has let pass."""
        since, until = self._end_window(part), self._clock()
        update = {"$set": {"councilor_config.schedule.enabled": True}}
        await self._change(part, f"resumes {part.name}", update, "job_resumed")
        if since is None:
            return
        passed = await self._slots(part, since, until)
        started = await self._writer.starts(part.agent_id, since, until)
        headline = f"has counted: {passed} slots passed, {started or 'none'} started"
        self._narrator.found(headline, "slots by the schedule, starts by the ledger")

    async def demote(self, part: Part) -> None:
        """Make a councilor an ordinary agent again."""
        update = {"$set": {"is_councilor": False}, "$unset": {"councilor_config": ""}}
        await self._change(part, f"demotes {part.name}", update, "job_removed")
        self.windows.append(Window(part.agent_id, is_pause=False, since=self._clock()))

    async def rewrite(self, part: Part, prompt: str) -> None:
        """Replace the task; quote the first run that comes due after that."""
        update = {"$set": {"councilor_config.task": {"name": part.name, "prompt": prompt}}}
        self._narrator.wrote(f"gives {part.name} a new prompt", update)
        await self._send(part, update)
        since, is_start = epoch_ms(self._clock()), named("run_started", part.agent_id)
        started = self._ears.next(lambda event: is_start(event) and _slot_ms(event) > since)
        await self._quote(part, await heard(started), "reads what the very next run says")

    async def run_now(self, part: Part) -> None:
        """Ask for one run, and quote it."""
        update = {"$set": {"councilor_run_requested_at": self._clock()}}
        started = self._ears.next(named("run_started", part.agent_id))
        self._narrator.wrote(f"wants {part.name} to run now", update, timed=part.agent_id)
        await self._send(part, update)
        await self._quote(part, await heard(started), "reads what it says")

    async def look(self) -> None:
        """Show every councilor, as the documents have them."""
        self._narrator.show(Text(), board.councilors(await self._writer.standings(), self._clock()))

    async def _change(
        self, part: Part, headline: str, update: Update, effect: str, shown: Update | None = None
    ) -> None:
        seen = self._ears.next(named(effect, part.agent_id))
        self._narrator.wrote(headline, shown or update, timed=part.agent_id)
        await self._send(part, update)
        await heard(seen)

    async def _send(self, part: Part, update: Update) -> None:
        if not await self._writer.update(part.agent_id, update):
            self._narrator.found("finds no such agent", "somebody has taken it away")

    def _end_window(self, part: Part) -> datetime | None:
        """End the time in which no run of this agent was wanted; answers since when it was so."""
        for window in self.windows:
            if window.agent_id == part.agent_id and window.until is None:
                window.until = self._clock()
                return window.since
        return None

    async def _slots(self, part: Part, since: datetime, until: datetime) -> int:
        """How many slots the schedule has in a time, whatever became of them."""
        status = (await self._writer.find(part.agent_id)).get("councilor_status", {})
        if "accepted_at" not in status:
            return 0
        timetable = Timetable(every_from(part.when), status["accepted_at"])
        first, last = timetable.next_slot(since - _TICK), timetable.latest_slot(until - _TICK)
        return timetable.count(first, last) if last is not None and first <= last else 0

    async def _quote(self, part: Part, started: Event | None, headline: str) -> None:
        """Wait for the end of a run, and show what the ledger has of it."""
        if started is None:
            return
        run = started["execution_id"]
        names = ("run_finished", "run_failed")
        ended = self._ears.next(
            lambda event: event["event"] in names and event["execution_id"] == run
        )
        if await heard(ended) is not None:
            said = await self._writer.output(str(run)) or "(nothing)"
            self._narrator.found(headline, f"“{' '.join(said.split())}”")

    async def _read_verdict(self, part: Part) -> None:
        """Show what the service has written beside the mistake, a moment after it was seen."""
        for _ in range(_GLANCES):
            status = (await self._writer.find(part.agent_id)).get("councilor_status", {})
            if status.get("error") is not None:
                self._narrator.found("reads the hint in councilor_status", status["error"]["hint"])
                return
            await asyncio.sleep(_GLANCE_SECONDS)


async def heard(event: asyncio.Future[Event]) -> Event | None:
    """What was waited for; None where it has not come for so long that it is not worth waiting."""
    await asyncio.wait([event], timeout=_PATIENCE_SECONDS)
    return event.result() if event.done() else None


def _slot_ms(event: Event) -> int:
    """The slot of a scheduled run, from its `execution_id`."""
    last = str(event["execution_id"]).rpartition("_")[2]
    return int(last) if last.isdecimal() else 0
