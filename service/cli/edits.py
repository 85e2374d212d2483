"""What a wish means for an agent's document: the fields to set, and what is said of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from service.cells import instant
from service.domain.config import instant_from
from service.domain.councilor import SchedulePolicy
from service.domain.jobs import Absence, AgentDocument, Desired, JobState
from service.domain.planning import desired_job
from service.ports import ServiceError

ENABLED = "councilor_config.schedule.enabled"
PAUSED_UNTIL = "councilor_config.schedule.paused_until"
SKIP_NEXT = "councilor_config.schedule.skip_next"
_NOTHING_RUNS = "nothing runs until that is mended"


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as its document is now, or would be."""

    agent_id: str
    document: AgentDocument
    desired: Desired | Absence

    @property
    def fields(self) -> Mapping[str, object]:
        return self.document.fields or {}

    @property
    def state(self) -> str:
        """As `check` says it."""
        return "not_councilor" if isinstance(self.desired, Absence) else self.desired.state.value

    @property
    def trouble(self) -> str | None:
        """What keeps it from running at all."""
        desired = self.desired
        if isinstance(desired, Absence) or desired.state is not JobState.INVALID:
            return None
        return desired.problem.message if desired.problem is not None else "it cannot be read"

    @property
    def schedule(self) -> Mapping[str, object]:
        """What its schedule says. Raises ServiceError where there is none to be changed."""
        if isinstance(self.desired, Absence):
            raise ServiceError(f"{self.agent_id} is no councilor: promote it first")
        config = self.fields.get("councilor_config")
        schedule = config.get("schedule") if isinstance(config, Mapping) else None
        if not isinstance(schedule, Mapping):
            raise ServiceError(f"{self.agent_id} has no schedule: {self.trouble}")
        return schedule

    @property
    def skipped_slot(self) -> datetime | None:
        """The slot that `skip_next` takes out, or took out, as the service has said."""
        status = self.fields.get("councilor_status")
        return instant_from(status.get("skipped_slot")) if isinstance(status, Mapping) else None


def agent_in(agent_id: str, document: AgentDocument, policy: SchedulePolicy) -> Agent:
    """The agent that a document is about."""
    return Agent(agent_id, document, desired_job(document, policy))


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to be set (None unsets): nothing where all is so already. `said` is for people."""

    done: str
    said: str
    changes: Mapping[str, object] = field(default_factory=dict)


def pausing(agent: Agent, until: datetime | None) -> Edit:
    """Let slots pass: until it is resumed, or until an instant."""
    is_paused = agent.schedule.get("enabled") is False
    if until is None:
        said = "was paused already" if is_paused else "paused"
        return Edit("paused", said, {} if is_paused else {ENABLED: False})
    if is_paused:
        return Edit("paused", "was paused already, without an end: resume it first")
    if instant_from(agent.schedule.get("paused_until")) == until:
        return Edit("paused", f"was paused until {instant(until)} UTC already")
    return Edit("paused", f"paused until {instant(until)} UTC", {PAUSED_UNTIL: until})


def resuming(agent: Agent, now: datetime) -> Edit:
    """End either kind of pause."""
    changes: dict[str, object] = {}
    if agent.schedule.get("enabled") not in (True, None):
        changes[ENABLED] = True
    until = instant_from(agent.schedule.get("paused_until"))
    if until is not None and until > now:
        changes[PAUSED_UNTIL] = None
    return Edit("resumed", "resumed" if changes else "was not paused", changes)


def asking_for_run(
    agent: Agent, now: datetime, *, is_running: bool, is_anybody_there: bool
) -> Edit:
    """Ask for one run; what becomes of it depends on what the document says when it is seen."""
    if isinstance(agent.desired, Absence):
        raise ServiceError(f"{agent.agent_id} is no councilor: promote it first")
    said = "asked for a run"
    if agent.trouble is not None:
        said += f", which will be skipped: it is invalid: {agent.trouble}"
    elif is_running:
        said += ", which starts when the present one has ended"
    elif agent.desired.state is JobState.PAUSED:
        said += ", although it is paused, and stays so"
    if not is_anybody_there:
        said += "; no scheduler is alive: it runs if one is within the hour"
    return Edit("run_requested", said, {"councilor_run_requested_at": now})


def demoting(agent: Agent) -> Edit:
    """Make it an ordinary agent."""
    if isinstance(agent.desired, Absence) and agent.fields.get("councilor_config") is None:
        return Edit("demoted", "was no councilor")
    return Edit("demoted", "demoted", {"is_councilor": False, "councilor_config": None})


def promoting(agent: Agent, whole: Mapping[str, object], parts: Mapping[str, object]) -> Edit:
    """Make it a councilor with a `whole` configuration; of one that is, change these parts."""
    if not _is_configured(agent):
        return Edit("promoted", "promoted", whole)
    if all(_at(agent.fields, path) == value for path, value in parts.items()):
        return Edit("promoted", "was promoted already, just so")
    return Edit("promoted", "was promoted already; changed", {"is_councilor": True, **parts})


def _is_configured(agent: Agent) -> bool:
    config = agent.fields.get("councilor_config")
    if not isinstance(config, Mapping) or agent.fields.get("is_councilor") is not True:
        return False
    return all(isinstance(config.get(part), Mapping) for part in ("schedule", "task"))


def _at(fields: object, path: str) -> object:
    for name in path.split("."):
        fields = fields.get(name) if isinstance(fields, Mapping) else None
    return fields


def edited(agent: Agent, edit: Edit, policy: SchedulePolicy) -> Agent:
    """The agent as it is once this is written."""
    fields = dict(agent.fields)
    for path, value in edit.changes.items():
        _put(fields, path.split("."), value)
    return agent_in(agent.agent_id, replace(agent.document, fields=fields), policy)


def _put(fields: dict[str, object], path: list[str], value: object) -> None:
    name, *rest = path
    if rest:
        inner = fields.get(name)
        part = dict(inner) if isinstance(inner, Mapping) else {}
        fields[name] = part
        _put(part, rest, value)
    elif value is None:
        fields.pop(name, None)
    else:
        fields[name] = value


def told_of(edit: Edit, after: Agent) -> str:
    """What is said of an edit, and of an agent that does not run in spite of it."""
    if after.trouble is None or "councilor_run_requested_at" in edit.changes:
        return edit.said
    return f"{edit.said}; it is invalid: {after.trouble}; {_NOTHING_RUNS}"
