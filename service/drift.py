"""Jobs that a comparison puts right although the changes should have: faults, to be told of."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice

from service.domain.councilor import DocumentKey
from service.domain.jobs import AgentDocument, JobState
from service.ports import Agents, JobTable, ServiceError
from service.telemetry import Telemetry

_MOST = 100
"""As many are looked into; more of them say nothing new."""
_JUDGED = ("agent_id", "is_councilor", "councilor_config")

_Shown = tuple[str, JobState, str]


class Followed:
    """How far the changes have told of everything, and what was read again at about that time.

    The documents of `recent` may have been read in a state that came after `position`, of which
    the changes have not told.
    """

    def __init__(self) -> None:
        self.position: datetime | None = None
        self._latest, self._earlier = set[DocumentKey](), set[DocumentKey]()

    @property
    def recent(self) -> set[DocumentKey]:
        """What was read since the second before the present one of cluster time."""
        return self._latest | self._earlier

    def reached(self, position: datetime | None) -> None:
        """Say that everything before this was told."""
        if position is None or position != self.position:
            self._latest, self._earlier = set(), self._latest
        self.position = position

    def read(self, keys: Iterable[DocumentKey]) -> None:
        """Say that these were read again."""
        self._latest.update(keys)


class Drift:
    """One comparison: what it corrects is `noticed`, and `told` where it is surely drift.

    Between two streams lies a gap, and what was written in it only a comparison can find. So a job
    that was wrong has drifted only where its document is still what it was at `position`, up to
    which the stream before this comparison has told of everything. `excused` are documents of which
    it did tell, and that were not read again yet, or that were read in a later state.
    """

    def __init__(
        self,
        agents: Agents,
        jobs: JobTable,
        telemetry: Telemetry,
        *,
        position: datetime | None = None,
        excused: Collection[DocumentKey] = (),
    ) -> None:
        self._agents = agents
        self._jobs = jobs
        self._telemetry = telemetry
        self._position = position
        self._excused = excused
        self._kinds: dict[DocumentKey, str] = {}

    @contextmanager
    def noticed(self, documents: Sequence[AgentDocument]) -> Iterator[None]:
        """Reconcile these documents inside, on the occasion of the comparison."""
        if self._position is None:
            yield
            return
        before = {document.key: self._shown(document.key) for document in documents}
        yield
        for key, was in before.items():
            kind = _kind_of(was, self._shown(key))
            if kind is not None and not self._is_excused(key, was, kind):
                self._kinds[key] = kind

    def _is_excused(self, key: DocumentKey, was: _Shown | None, kind: str) -> bool:
        # Where its `agent_id` has a job all the same, another document has come in between.
        is_ousted = kind == "extra" and was is not None and self._jobs.of_agent(was[0]) is not None
        return is_ousted or key in self._excused

    async def tell(self) -> None:
        """Say what has drifted, as far as that is sure and the database answers."""
        if self._position is None or not self._kinds:
            return
        with suppress(ServiceError):  # the next comparison looks again
            keys = list(islice(self._kinds, _MOST))
            documents = await self._agents.look(keys)
            past = await self._agents.as_of(
                [(document, [self._position]) for document in documents]
            )
            drifted = {
                document.key.hex(): self._kinds[document.key]
                for document, (then,) in zip(documents, past, strict=True)
                if then is not None and _judged(then) == _judged(document)
            }
            if drifted:
                self._telemetry.drift_found(drifted)

    def _shown(self, key: DocumentKey) -> _Shown | None:
        job = self._jobs.of_document(key)
        return None if job is None else (job.agent_id, job.state, job.spec_hash)


def _kind_of(was: _Shown | None, shown: _Shown | None) -> str | None:
    if was == shown:
        return None
    if was is None:
        return "missing"
    return "extra" if shown is None else "stale"


def _judged(document: AgentDocument) -> Mapping[str, object]:
    fields = document.fields or {}
    return {name: fields[name] for name in _JUDGED if name in fields}
