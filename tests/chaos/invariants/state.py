"""What must hold of documents, jobs, replicas and logs when all is quiet again."""

from datetime import datetime, timedelta

from tests.chaos.cast import users_fields
from tests.chaos.history import Agent, Document, History, clock, has_run

_LAG = timedelta(seconds=3)
_INTERVALS_WITHOUT_RUN = 3

_Counts = tuple[int, int, float | None, datetime | None]


def jobs_equal_documents(history: History) -> list[str]:
    """One stored job a councilor, which says its state and its next slot; and no other."""
    jobs = {job["_id"]: job for job in history.jobs}
    wanted = {agent.agent_id: agent for agent in history.agents if agent.state is not None}
    found = [f"{name}: a job, but no councilor" for name in sorted(jobs.keys() - wanted.keys())]
    found += [f"{name}: a councilor, but no job" for name in sorted(wanted.keys() - jobs.keys())]
    for name in sorted(wanted.keys() & jobs.keys()):
        flaws = _flaws_of_job(history, wanted[name], jobs[name])
        found += [f"{name}: {flaw}" for flaw in flaws]
    return found


def verdicts_equal_documents(history: History) -> list[str]:
    """Every councilor's status says what its document wants; nobody else has one."""
    found: list[str] = []
    for agent in history.agents:
        status = (history.document_of(agent) or {}).get("councilor_status")
        said = status["state"] if status else None
        if said != agent.state:
            found.append(f"{agent.agent_id}: the status says {said}, it is {agent.state}")
        elif status and (status["error"] is not None) != (said == "invalid"):
            found.append(f"{agent.agent_id}: {said}, with the error {status['error']}")
        elif status and (status["accepted_at"] is None) != (said == "invalid"):
            found.append(f"{agent.agent_id}: {said}, accepted at {clock(status['accepted_at'])}")
    return found


def statistics_equal_the_ledger(history: History) -> list[str]:
    """Of documents that have been the same from the beginning, every run counts once."""
    found: list[str] = []
    for agent in history.agents:
        document = history.document_of(agent)
        if agent.is_whole and document is not None:
            rows = [r for r in history.rows if r["councilor_id"] == agent.agent_id and has_run(r)]
            there, counted = _shown(document.get("stats") or {}), _fold(rows)
            if there != counted:
                said = f"statistics {_told(there)}, by the ledger {_told(counted)}"
                found.append(f"{agent.agent_id}: {said}")
    return found


def users_fields_are_untouched(history: History) -> list[str]:
    """Every document has what the writer wrote last, and there is no other document."""
    there = {document["_id"]: users_fields(document) for document in history.documents}
    wanted = {a.document["_id"]: users_fields(a.document) for a in history.agents if a.document}
    found = [f"{key}: should not be there" for key in sorted(there.keys() - wanted.keys())]
    found += [f"{key}: is gone" for key in sorted(wanted.keys() - there.keys())]
    for key in sorted(there.keys() & wanted.keys()):
        if there[key] != wanted[key]:
            names = there[key].keys() | wanted[key].keys()
            differ = sorted(n for n in names if there[key].get(n) != wanted[key].get(n))
            found.append(f"{key}: {', '.join(differ)} is not what was written last")
    return found


def no_replica_is_stuck(history: History) -> list[str]:
    """Every replica is ready after the quiet time, and stops when it is told to."""
    forced = [f"replica {number} did not stop by itself" for number in history.not_stopped]
    return [*history.not_ready, *forced]


def no_agent_is_stuck(history: History) -> list[str]:
    """Every agent that nobody touched ran of late."""
    found: list[str] = []
    for agent in history.agents:
        if not agent.is_steady or agent.interval is None:
            continue
        slots = [r["scheduled_for"] for r in history.rows_of(agent.agent_id) if has_run(r)]
        since = history.settled - _LAG - agent.interval * _INTERVALS_WITHOUT_RUN
        if not slots or max(slots) < since:
            last = clock(max(slots, default=None))
            found.append(f"{agent.agent_id}: ran last for {last}, not since {clock(since)}")
    return found


def logs_keep_secrets(history: History) -> list[str]:
    """No log line shows a prompt, a password or a token."""
    return [
        f"a log line shows {secret}: {line[:300]}"
        for line in history.logs
        for secret in history.secrets
        if secret in line
    ]


def _flaws_of_job(history: History, agent: Agent, job: Document) -> list[str]:
    state, due = job["job_state"]["state"], job["next_run_time"]
    if state != agent.state:
        return [f"the job is {state}, the document says {agent.state}"]
    if state != "scheduled":
        return [f"{state}, but the job runs next at {clock(due)}"] if due is not None else []
    if due is None:
        return ["the job is scheduled, but for no time"]
    return _flaws_of_due(history, agent, due)


def _flaws_of_due(history: History, agent: Agent, due: datetime) -> list[str]:
    flaws: list[str] = []
    interval = agent.interval or timedelta(minutes=1)
    until = agent.schedule.get("paused_until") or history.jobs_read
    latest = max(history.jobs_read, until) + interval * (2 if "skip_next" in agent.schedule else 1)
    if not history.jobs_read - _LAG < due <= latest:
        flaws.append(f"the job runs next at {clock(due)}, seen at {clock(history.jobs_read)}")
    status = (history.document_of(agent) or {}).get("councilor_status") or {}
    origin = status.get("accepted_at") if agent.interval else due.replace(second=0, microsecond=0)
    if origin is not None and (due - origin) % interval:
        flaws.append(f"the job runs next at {clock(due)}, which is no slot since {clock(origin)}")
    return flaws


def _told(counts: _Counts) -> str:
    total, successes, rate, last = counts
    return f"{successes} of {total} ({rate} %), last {clock(last)}"


def _fold(rows: list[Document]) -> _Counts:
    successes = sum(row["severity"] == "success" for row in rows)
    rate = round(successes / len(rows) * 100, 1) if rows else None
    return len(rows), successes, rate, max((row["completed_at"] for row in rows), default=None)


def _shown(stats: Document) -> _Counts:
    return (
        stats.get("total_executions", 0),
        stats.get("successful_executions", 0),
        stats.get("success_rate"),
        stats.get("last_execution"),
    )
