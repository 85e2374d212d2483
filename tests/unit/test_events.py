"""What listeners hear: everything, in order, once; and who is too slow is left behind."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.events import EventPolicy, Events
from service.listeners import Listener
from service.ports import JournalEntry, LedgerEntry, NotificationEntry, Unavailable, WatchLost
from service.telemetry import Telemetry
from tests.fakes import NOON
from tests.steps import eventually, going, turned


def entry(number: int, status: str = "completed", **fields: Any) -> LedgerEntry:
    """The `number`-th thing that was written; its position is that number, in hex."""
    row = {"councilor_id": "scout", "execution_id": f"exec_{number}", "status": status}
    return LedgerEntry(f"{number:04X}", {**row, "started_at": NOON, **fields})


class FakeJournal:
    """Remembers from `oldest` on; `write` appends for all who follow."""

    def __init__(self) -> None:
        self.written = list[JournalEntry]()
        self.oldest = 0
        self.followers = 0
        self.opened = 0
        self.lost: WatchLost | None = None
        self.is_away = False
        self.news = asyncio.Condition()

    async def write(self, *entries: JournalEntry) -> None:
        async with self.news:
            self.written += entries
            self.news.notify_all()

    async def lose(self, reason: str) -> None:
        async with self.news:
            self.lost = WatchLost(reason, "lost by the test")
            self.news.notify_all()

    @asynccontextmanager
    async def follow(self, position: str | None = None) -> AsyncIterator["_Following"]:
        if self.is_away:
            raise Unavailable("the fake database is down")
        place = len(self.written)
        if position is not None:
            places = [n for n, one in enumerate(self.written) if one.position == position]
            if not places or places[0] < self.oldest:
                raise WatchLost("286", "that is forgotten")
            place = places[0] + 1
        self.followers += 1
        self.opened += 1
        try:
            yield _Following(self, place)
        finally:
            self.followers -= 1


class _Following:
    def __init__(self, journal: FakeJournal, place: int) -> None:
        self._journal = journal
        self._place = place

    @property
    def position(self) -> str | None:
        written = self._journal.written
        return written[self._place - 1].position if self._place else None

    async def entries(self) -> Sequence[JournalEntry]:
        journal = self._journal
        async with journal.news:
            if journal.followers > 1 and self._place == len(journal.written):
                return ()  # somebody catches up
            await journal.news.wait_for(lambda: journal.lost or self._place < len(journal.written))
            if journal.lost is not None:
                lost, journal.lost = journal.lost, None
                raise lost
            found = journal.written[self._place :]
            self._place = len(journal.written)
            return found


@asynccontextmanager
async def coming_back(events: Events, last_id: str) -> AsyncIterator[Listener]:
    async with events.listening() as listener:
        await events.catch_up(listener, last_id)
        yield listener


async def heard_by(listener: Any, count: int) -> list[tuple[str, str | None]]:
    """The names and ids of so many events."""
    told = list[tuple[str, str | None]]()
    async with asyncio.timeout(5):
        while len(told) < count:
            told += [(event.name, event.id) for event in await listener.heard(1)]
    return told


@pytest.fixture
def journal() -> FakeJournal:
    return FakeJournal()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def events(journal: FakeJournal, telemetry: Telemetry) -> Events:
    return Events(journal, telemetry, EventPolicy(remembered=5, waiting=20, linger_seconds=60))


NAMES = {
    "running": "councilor_started",
    "completed": "councilor_completed",
    "error": "councilor_error",
    "skipped": "councilor_skipped",
    "missed": "councilor_skipped",
    "of another program": "councilor_completed",
}


@pytest.mark.parametrize(("status", "name"), NAMES.items())
async def test_a_row_is_told_by_its_status(
    events: Events, journal: FakeJournal, status: str, name: str
) -> None:
    async with going(events.follow()), events.listening() as listener:
        await journal.write(entry(1, status, error="why", output="all of it", nonce="x"))
        (event,) = await listener.heard(1)
        assert event.name == name
        assert not {"output", "nonce"} & event.fields.keys()
        assert ("error" in event.fields) == (name == "councilor_error")


async def test_a_notification_is_told_as_it_is(events: Events, journal: FakeJournal) -> None:
    async with going(events.follow()), events.listening() as listener:
        await journal.write(NotificationEntry("1", {"title": "Look"}))
        (event,) = await listener.heard(1)
        assert (event.name, event.fields) == ("councilor_notification", {"title": "Look"})


async def test_nothing_is_followed_before_somebody_listens(
    events: Events, journal: FakeJournal
) -> None:
    async with going(events.follow()):
        await turned()
        assert journal.opened == 0
        async with events.listening():
            assert journal.followers == 1


async def test_who_comes_back_hears_what_is_remembered_here_and_nothing_twice(
    events: Events, journal: FakeJournal
) -> None:
    async with going(events.follow()):
        async with events.listening() as listener:
            await journal.write(entry(1), entry(2))
            assert await heard_by(listener, 2)
        await journal.write(entry(3))
        await turned()
        async with coming_back(events, "0001") as listener:
            await journal.write(entry(4))
            told = await heard_by(listener, 3)
        assert [place for _, place in told] == ["0002", "0003", "0004"]
        assert journal.opened == 1  # the ledger was not asked again


async def test_who_comes_from_elsewhere_hears_what_the_ledger_remembers(
    events: Events, journal: FakeJournal
) -> None:
    await journal.write(*(entry(n) for n in range(1, 4)))
    async with going(events.follow()), events.listening() as other:
        async with coming_back(events, "0001/7") as listener:
            await journal.write(entry(4))
            told = await heard_by(listener, 3)
        assert [place for _, place in told] == ["0002", "0003", "0004"]
        assert await heard_by(other, 1) == [("councilor_completed", "0004")]


@pytest.mark.parametrize("last_id", ["", "nonsense", "9999", "/", "0001"])
async def test_what_is_forgotten_is_said_to_be_lost(
    events: Events, journal: FakeJournal, last_id: str
) -> None:
    await journal.write(entry(1), entry(2))
    journal.oldest = 2
    async with going(events.follow()), coming_back(events, last_id) as listener:
        assert await heard_by(listener, 1) == [("events_lost", None)]


async def test_more_than_is_remembered_is_said_to_be_lost(
    events: Events, journal: FakeJournal
) -> None:
    await journal.write(*(entry(n) for n in range(1, 9)))
    async with going(events.follow()), coming_back(events, "0001") as listener:
        assert await heard_by(listener, 1) == [("events_lost", None)]


async def test_what_comes_on_and_on_does_not_keep_anybody_from_being_caught_up(
    events: Events, journal: FakeJournal
) -> None:
    """Up to where the ledger was followed when it came: the rest it hears as it comes."""
    await journal.write(*(entry(n) for n in range(1, 4)))
    async with going(events.follow()), events.listening() as other:
        await journal.write(entry(4))
        assert await heard_by(other, 1)
        async with events.listening() as listener:
            await journal.write(entry(5), entry(6))
            await events.catch_up(listener, "0002")
            told = await heard_by(listener, 4)
        assert [place for _, place in told] == ["0003", "0004", "0005", "0006"]


async def test_what_came_while_it_was_caught_up_is_heard_once(
    events: Events, journal: FakeJournal
) -> None:
    await journal.write(*(entry(n) for n in range(1, 5)))
    async with going(events.follow()), events.listening() as other, events.listening() as listener:
        await journal.write(entry(5), entry(6))
        assert len(await heard_by(other, 2)) == 2  # and this one has been told of them, too
        await events.catch_up(listener, "0003")
        await journal.write(entry(7))
        told = await heard_by(listener, 4)
    assert [place for _, place in told] == ["0004", "0005", "0006", "0007"]


async def test_who_came_while_nothing_was_followed_is_told_that_something_is_lost(
    journal: FakeJournal, telemetry: Telemetry
) -> None:
    journal.is_away = True
    events = Events(journal, telemetry, EventPolicy(open_seconds=0.01))
    async with going(events.follow()), events.listening() as listener:
        journal.is_away = False
        assert await heard_by(listener, 1) == [("events_lost", None)]


async def test_a_stream_that_breaks_is_gone_on_with_where_it_was(
    events: Events, journal: FakeJournal
) -> None:
    async with going(events.follow()), events.listening() as listener:
        await journal.write(entry(1))
        assert await heard_by(listener, 1) == [("councilor_completed", "0001")]
        await journal.lose("network")
        await journal.write(entry(2))
        assert await heard_by(listener, 1) == [("councilor_completed", "0002")]


async def test_where_the_server_has_forgotten_it_the_listeners_are_told(
    events: Events, journal: FakeJournal
) -> None:
    async with going(events.follow()), events.listening() as listener:
        await journal.write(entry(1))
        assert await heard_by(listener, 1)
        await journal.lose("286")
        assert await heard_by(listener, 1) == [("events_lost", None)]

        async def goes_on() -> bool:
            return journal.followers == 1

        await eventually(goes_on)


async def test_a_listener_that_does_not_listen_ends_and_the_others_go_on(
    events: Events, journal: FakeJournal, telemetry: Telemetry
) -> None:
    async with going(events.follow()), events.listening() as slow, events.listening() as quick:
        for number in range(1, 22):
            await journal.write(entry(number))
            assert await heard_by(quick, 1)
        assert (slow.is_over, quick.is_over) == (True, False)
        assert await slow.heard(1) == []
    said = telemetry.exposition().decode()
    assert "councilor_event_listeners_left_behind_total 1.0" in said


async def test_without_a_database_there_is_still_a_listener(
    journal: FakeJournal, telemetry: Telemetry
) -> None:
    journal.is_away = True
    events = Events(journal, telemetry, EventPolicy(open_seconds=0.01))
    async with going(events.follow()), events.listening() as listener:
        events.job_removed("scout")
        (event,) = await listener.heard(1)
        assert (event.name, event.id) == ("job_changed", None)


async def test_what_a_replica_knows_by_itself_has_a_place_of_its_own(
    events: Events, journal: FakeJournal
) -> None:
    """So that whoever comes back to it hears the rest."""
    async with going(events.follow()):
        async with events.listening() as listener:
            await journal.write(entry(1))
            assert await heard_by(listener, 1)
            events.job_removed("a")
            events.job_removed("b")
            told = await heard_by(listener, 2)
        assert told == [("job_changed", "0001/1"), ("job_changed", "0001/2")]
        async with coming_back(events, "0001/1") as listener:
            assert await heard_by(listener, 1) == [("job_changed", "0001/2")]


async def test_the_end_of_the_service_is_the_end_of_its_listeners(events: Events) -> None:
    async with going(events.follow()) as (task,), events.listening() as listener:
        task.cancel()
        await asyncio.wait([task])
        assert listener.is_over
    async with asyncio.timeout(5), events.listening() as late:
        assert late.is_over
