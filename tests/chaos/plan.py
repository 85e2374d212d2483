"""Which faults strike when: drawn from a seed before anything starts, so it can be repeated."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

_WARM_UP_SECONDS = 4.0
"""Councilors are accepted and run before the first fault."""


class Kind(StrEnum):
    """What can go wrong."""

    REPLICA_KILL = "replica-kill"
    REPLICA_STOP = "replica-stop"
    REPLICA_RESTART = "replica-restart"
    PRIMARY_KILL = "primary-kill"
    PRIMARY_STOP = "primary-stop"
    SECONDARY_KILL = "secondary-kill"
    SECONDARY_STOP = "secondary-stop"
    PARTITION = "partition"
    STEP_DOWN = "step-down"
    OPLOG_ROLL = "oplog-roll"
    HALF_OPEN = "half-open"
    LOST_ANSWERS = "lost-answers"
    CUT = "cut"
    FAIL_GETMORE = "fail-getmore"
    FAIL_INSERT = "fail-insert"
    FAIL_UPDATE = "fail-update"
    AGENTS_DROP = "agents-drop"
    AGENTS_RENAME = "agents-rename"
    JOBS_DROP = "jobs-drop"
    CONDUCTOR_REFUSE = "conductor-refuse"
    CONDUCTOR_503 = "conductor-503"
    CONDUCTOR_429 = "conductor-429"
    CONDUCTOR_500 = "conductor-500"
    CONDUCTOR_ERROR = "conductor-error"
    CONDUCTOR_HANG = "conductor-hang"
    CONDUCTOR_CLOSE = "conductor-close"
    CONDUCTOR_SLOW = "conductor-slow"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `at` seconds after the start, for about `seconds`. Nothing else decides on it."""

    kind: Kind
    at: float
    seconds: float
    replica: int
    detail: str = ""

    def __str__(self) -> str:
        whom = f" of replica {self.replica}" if self.kind in _OF_REPLICAS else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.at:6.2f} s  {self.kind}{whom}{detail} for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class _Lane:
    """Faults that never strike together. Each is followed by a `rest` (shortest, longest)."""

    kinds: Mapping[Kind, tuple[float, float]]
    rest: tuple[float, float]


_OF_REPLICAS = {Kind.REPLICA_KILL, Kind.REPLICA_STOP, Kind.REPLICA_RESTART, Kind.OPLOG_ROLL}
_REPLICAS = _Lane(
    {
        Kind.REPLICA_KILL: (0.2, 5.0),
        Kind.REPLICA_STOP: (0.5, 12.0),
        Kind.REPLICA_RESTART: (0.1, 1.0),
    },
    rest=(1.0, 6.0),
)
LANES = (
    _REPLICAS,
    _REPLICAS,  # two at a time: sometimes all but one are away
    _Lane(
        {  # never more than one member without its majority
            Kind.PRIMARY_KILL: (2.0, 6.0),
            Kind.PRIMARY_STOP: (0.5, 12.0),
            Kind.SECONDARY_KILL: (2.0, 6.0),
            Kind.SECONDARY_STOP: (0.5, 8.0),
            Kind.PARTITION: (5.0, 9.0),
            Kind.STEP_DOWN: (1.0, 1.0),
            Kind.OPLOG_ROLL: (4.0, 8.0),
        },
        rest=(5.0, 9.0),
    ),
    _Lane(
        {
            Kind.HALF_OPEN: (0.1, 0.1),
            Kind.LOST_ANSWERS: (0.5, 4.0),
            Kind.CUT: (0.1, 0.1),
            Kind.FAIL_GETMORE: (0.5, 3.0),
            Kind.FAIL_INSERT: (0.5, 3.0),
            Kind.FAIL_UPDATE: (0.5, 3.0),
        },
        rest=(1.0, 5.0),
    ),
    _Lane(
        {
            Kind.AGENTS_DROP: (0.1, 0.5),
            Kind.AGENTS_RENAME: (0.2, 1.5),
            Kind.JOBS_DROP: (0.1, 0.1),
        },
        rest=(12.0, 30.0),
    ),
    _Lane(
        {
            Kind.CONDUCTOR_REFUSE: (1.0, 6.0),
            Kind.CONDUCTOR_503: (0.5, 4.0),
            Kind.CONDUCTOR_429: (0.5, 4.0),
            Kind.CONDUCTOR_500: (0.5, 3.0),
            Kind.CONDUCTOR_ERROR: (0.5, 3.0),
            Kind.CONDUCTOR_HANG: (0.3, 1.5),
            Kind.CONDUCTOR_CLOSE: (0.5, 3.0),
            Kind.CONDUCTOR_SLOW: (1.0, 5.0),
        },
        rest=(3.0, 8.0),
    ),
)
_DETAILS: Mapping[Kind, Sequence[str]] = {
    Kind.FAIL_GETMORE: ("10107", "286", "280", "136", "237", "close", "block"),
    Kind.FAIL_INSERT: ("11600", "189", "unconfirmed", "close", "block"),
    Kind.FAIL_UPDATE: ("11600", "189", "unconfirmed", "close", "block"),
}


def plan_of(
    seed: int, seconds: float, *, replicas: int, only: Collection[Kind] = ()
) -> tuple[Fault, ...]:
    """The faults of a run, by the time at which they strike; the same for the same arguments."""
    faults: list[Fault] = []
    for number, lane in enumerate(LANES):
        faults += _faults_of(lane, Random(f"{seed} lane {number}"), seconds, replicas, only)
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _faults_of(
    lane: _Lane, rng: Random, seconds: float, replicas: int, only: Collection[Kind]
) -> list[Fault]:
    kinds = [kind for kind in lane.kinds if not only or kind in only]
    faults: list[Fault] = []
    at = _WARM_UP_SECONDS + rng.uniform(0, lane.rest[1])
    while kinds and at < seconds:
        kind = rng.choice(kinds)
        lasts = rng.uniform(*lane.kinds[kind])
        detail = rng.choice(_DETAILS.get(kind, ("",)))
        fault = Fault(kind, round(at, 2), round(lasts, 2), rng.randrange(replicas), detail)
        faults.append(fault)
        at += lasts + rng.uniform(*lane.rest)
    return faults
