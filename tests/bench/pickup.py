"""`pickup`: how soon a change of one document is in effect, in quiet and beside a bulk import."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import sleep

from pymongo.collection import Collection

from service.app import wall_clock
from tests.bench.deployment import Deployment
from tests.bench.documents import Document, agent, councilors, insert, interval
from tests.bench.figures import Benchmark, Options, Row, Sample, percentile
from tests.bench.instances import Instance
from tests.bench.journal import Journal, Unmeasured
from tests.bench.load import seconds_for, seed

_CHANGES = 300
_OF_EACH = 2 * _CHANGES // 4
"""Councilors that are edited in both parts; as many are paused, and as many resumed."""
_APART_SECONDS = 0.02
_IMPORTED_TIMES = 5
_EVENTS = ("job_scheduled", "job_paused", "job_resumed")


@dataclass(frozen=True, slots=True)
class Written:
    """A change that a majority has: the log event that it leads to, its acknowledgement's time."""

    agent_id: str
    event: str
    at: float
    is_new: bool = False
    """Whether the document is, too: an import's new documents cannot be told from it."""


def _changed(agents: Collection[Document], first: int) -> Iterator[Written]:
    """Edit, pause and resume a councilor each, promote a new one, and so on, from the `first` on.

    Each is touched once: of a pause that is taken back before it is seen, no log tells.
    """
    for number in range(_CHANGES):
        act, turn = number // 4 + first, number % 4
        name = f"agent-{act + turn * _OF_EACH:06}"
        match turn:
            case 0:
                schedule = {"councilor_config.schedule": {**interval("7h"), "enabled": True}}
                agents.update_one({"agent_id": name}, {"$set": schedule})
                yield _written(name, "job_scheduled")
            case 1 | 2:
                enabled = {"councilor_config.schedule.enabled": turn == 2}
                agents.update_one({"agent_id": name}, {"$set": enabled})
                yield _written(name, "job_resumed" if turn == 2 else "job_paused")
            case _:
                document = agent(act, interval("6h"), first="new")
                agents.insert_one(document)
                yield replace(_written(document["agent_id"], "job_scheduled"), is_new=True)
        sleep(_APART_SECONDS)


def _seeded(n: int) -> list[Document]:
    """Councilors, and some of them paused that will be resumed."""
    if n < 3 * _OF_EACH:
        raise Unmeasured(f"at least {3 * _OF_EACH} councilors are needed")
    documents = councilors(n, wall_clock())
    for document in documents[2 * _OF_EACH : 3 * _OF_EACH]:
        document["councilor_config"]["schedule"]["enabled"] = False
    return documents


def _written(agent_id: str, event: str) -> Written:
    return Written(agent_id, event, wall_clock().timestamp())


def latencies(changes: Sequence[Written], journal: Journal, since: int) -> list[float]:
    """The seconds from each acknowledgement to the log event; 0 where that came first."""
    told: dict[tuple[str, str], float] = {}
    for event in journal.events(*_EVENTS, since=since):
        told.setdefault((event.agent_id, event.name), event.at)
    return [max(told[change.agent_id, change.event] - change.at, 0.0) for change in changes]


@contextmanager
def _importing(agents: Collection[Document], n: int) -> Iterator[None]:
    """Promote many others meanwhile, a thousand at a time."""
    documents = [agent(number, interval("12h"), first="imported") for number in range(n)]
    faults: list[BaseException] = []

    def import_all() -> None:
        try:
            insert(agents, documents)
        except BaseException as fault:  # noqa: BLE001 raised again below
            faults.append(fault)

    thread = threading.Thread(target=import_all, name="bulk import")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if faults:
        raise faults[0]


def _measured(
    instance: Instance, agents: Collection[Document], first: int, *, imported: int
) -> tuple[list[float], list[float]]:
    """The latencies of changes, and of new documents."""
    since = instance.journal.size
    with _importing(agents, imported):
        changes = list(_changed(agents, first))
    for event in _EVENTS:
        count = sum(change.event == event for change in changes)
        expected = count + imported if event == "job_scheduled" else count
        instance.wait_logged(event, expected, seconds_for(imported), since)
    new = [change for change in changes if change.is_new]
    others = [change for change in changes if not change.is_new]
    return latencies(others, instance.journal, since), latencies(new, instance.journal, since)


def _figures(seconds: Sequence[float], kind: str) -> Mapping[str, float]:
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {f"{kind}_{k}_ms": percentile(seconds, share) * 1_000 for k, share in shares.items()}


def _pickup(deployment: Deployment, n: int, options: Options) -> Iterator[Sample]:
    for _ in range(options.runs):
        database = deployment.database()
        # As every writer that looks agents up by name has it; the service itself needs none.
        database["agents"].create_index("agent_id", unique=True)
        seed(deployment, database, _seeded(n))
        with deployment.serving(database) as instance:
            instance.wait_ready(seconds_for(n))
            sleep(1)
            agents, imported = database["agents"], n * _IMPORTED_TIMES
            quiet, quiet_new = _measured(instance, agents, 0, imported=0)
            beside, new = _measured(instance, agents, _CHANGES // 4, imported=imported)
            instance.stop()
        yield {
            **_figures([*quiet, *quiet_new], "quiet"),
            **_figures(beside, "beside"),
            **_figures(new, "new"),
        }


PICKUP = Benchmark(
    "pickup",
    f"{_CHANGES} edits, pauses, resumes and promotions one by one: majority acknowledgement to "
    f"log event; then the same beside a bulk import of {_IMPORTED_TIMES} n promoted agents",
    (10_000,),
    (
        Row("quiet_p50_ms", "a change, p50", "ms", "O(log n)", "not noticed"),
        Row("quiet_p99_ms", "a change, p99", "ms", "O(log n)", "not noticed"),
        Row("quiet_max_ms", "a change, max", "ms", "O(log n)", "not noticed"),
        Row("beside_p50_ms", "a change beside an import, p50", "ms", "O(1)", "not noticed"),
        Row("beside_p99_ms", "a change beside an import, p99", "ms", "O(1)", "not noticed"),
        Row("beside_max_ms", "a change beside an import, max", "ms", "O(1)", "not noticed"),
        Row("new_p99_ms", "a new document beside it, p99", "ms", "O(imported)", "not noticed"),
    ),
    _pickup,
)
