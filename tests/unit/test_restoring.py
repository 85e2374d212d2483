"""A job that is taken over from where it is stored is the one that its document would make."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.adapters.mongo.client import Client
from service.adapters.mongo.jobs import MongoStoredJobs
from service.adapters.mongo.keys import key_of
from service.domain.councilor import SchedulePolicy
from service.domain.jobs import AgentDocument, Desired, Job, StoredJob, stored_of, whole_of
from service.domain.planning import Put, desired_job, past_of, plan
from service.domain.restoring import is_plain, restored
from tests.contract.test_agents import councilor
from tests.fakes import NOON, FakeClock

HOUR = timedelta(hours=1)
DIGEST = b"twelve bytes"
ACCEPTED = NOON - timedelta(days=3, minutes=7, milliseconds=123)


def with_schedule(**schedule: object) -> dict[str, Any]:
    fields = councilor(name="Ada")
    fields["councilor_config"]["schedule"] |= schedule
    return fields


DOCUMENTS: Mapping[str, dict[str, Any]] = {
    "interval": with_schedule(),
    "interval as it was written": with_schedule(value="60m"),
    "interval with spread": with_schedule(value="1h30m", spread="25m"),
    "cron": with_schedule(type="cron", value="*/20 9-17 * * 1", timezone="Europe/Berlin"),
    "cron of the usual zone": with_schedule(type="cron", value="@hourly"),
    "cron with spread": with_schedule(type="cron", value="0 * * * *", spread="90s"),
    "paused": with_schedule(enabled=False),
    "paused cron": with_schedule(type="cron", value="0 0 1 * *", enabled=False),
    "other policies": with_schedule(catch_up="all", overlap="queue_one"),
    "no catching up": with_schedule(catch_up="skip"),
    "a strange name": with_schedule() | {"name": "\u00c4da \U0001f600"},
}


def desired_of(fields: Mapping[str, object]) -> Desired:
    desired = desired_job(AgentDocument(key_of(1), fields), SchedulePolicy())
    assert isinstance(desired, Desired)
    return desired


def judged(fields: Mapping[str, object], stored: StoredJob | None, now: Any) -> Job:
    """The job that comes of judging the document, which says when it was accepted."""
    desired = desired_of(fields)
    said = {"spec_hash": desired.spec_hash, "accepted_at": ACCEPTED, "state": desired.state.value}
    (action,) = plan(desired, None, past_of(said, stored, desired), now)
    assert isinstance(action, Put)
    return action.job


def stored(fields: Mapping[str, object]) -> StoredJob:
    """What is stored of it, an hour ago."""
    job = judged(fields, None, NOON - HOUR).known_by(DIGEST)
    return replace(stored_of(job), whole=whole_of(job))


def is_same(job: Job | None, wanted: Job) -> bool:
    """Tell whether two jobs are one, to the text of their schedules."""
    assert job is not None
    assert job.spec is not None
    assert wanted.spec is not None
    return job == wanted and job.spec.schedule.text == wanted.spec.schedule.text


@pytest.mark.parametrize("fields", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("later", [-HOUR, 0 * HOUR, 50 * HOUR], ids=["at once", "soon", "outage"])
def test_a_job_taken_over_is_the_one_that_judging_makes(
    fields: dict[str, Any], later: timedelta
) -> None:
    left, now = stored(fields), NOON + later
    job = restored(left, key_of(1), DIGEST, now)
    assert is_same(job, judged(fields, left, now))
    assert job is not None
    assert left.whole is not None
    assert (job.digest, job.proof) == (DIGEST, left.whole.proof)
    assert job.known_by(DIGEST) is job or whole_of(job) == left.whole


def test_slots_that_nobody_settled_in_an_outage_are_still_to_come() -> None:
    left = stored(DOCUMENTS["interval"])
    job = restored(left, key_of(1), DIGEST, NOON + 50 * HOUR)
    assert job is not None
    assert job.next_run_at == left.next_run_at
    assert (left.next_run_at or NOON) < NOON


@pytest.mark.parametrize("fields", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.mongo
async def test_what_a_real_collection_has_kept_is_taken_over(
    client: Client, database: str, fields: dict[str, Any]
) -> None:
    job = judged(fields, None, NOON - HOUR).known_by(DIGEST)
    store = MongoStoredJobs(client, database, "jobs", owner="one", clock=FakeClock())
    await store.save([job], [])
    left = (await store.load())["scout"]
    assert left == stored(fields)
    assert is_same(restored(left, key_of(1), DIGEST, NOON), judged(fields, left, NOON))


TAMPERED: Mapping[str, Any] = {
    "agent_id": "another",
    "spec_hash": "0123456789abcdef",
    "state": "paused",
    "accepted_at": ACCEPTED + timedelta(milliseconds=1),
}
TAMPERED_WHOLE: Mapping[str, Any] = {
    "name": "Bob",
    "kind": "interval",
    "value": "*/21 9-17 * * 1",
    "timezone": "Europe/Paris",
    "delay_ms": 1,
    "catch_up": "skip",
    "overlap": "queue_one",
    "digest": b"another one.",
    "proof": b"no proof....",
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_job_that_somebody_has_changed_is_judged(name: str) -> None:
    left = replace(stored(DOCUMENTS["cron"]), **{name: TAMPERED[name]})
    assert restored(left, key_of(1), DIGEST, NOON) is None


@pytest.mark.parametrize("name", TAMPERED_WHOLE)
def test_a_job_whose_details_somebody_has_changed_is_judged(name: str) -> None:
    left = stored(DOCUMENTS["cron"])
    assert left.whole is not None
    assert getattr(left.whole, name) != TAMPERED_WHOLE[name]
    changed = replace(left, whole=left.whole._replace(**{name: TAMPERED_WHOLE[name]}))
    assert restored(changed, key_of(1), DIGEST, NOON) is None
    assert restored(left, key_of(1), DIGEST, NOON) is not None


def test_a_job_of_another_document_or_without_details_is_judged() -> None:
    left = stored(DOCUMENTS["interval"])
    assert restored(left, key_of(1), b"another one.", NOON) is None
    assert restored(replace(left, whole=None), key_of(1), DIGEST, NOON) is None
    assert restored(replace(left, accepted_at=None), key_of(1), DIGEST, NOON) is None


PLAIN = {
    "scheduled": (with_schedule(), True),
    "paused": (with_schedule(enabled=False), True),
    "a slot to be skipped": (with_schedule(skip_next=True), False),
    "paused until a day": (with_schedule(paused_until=NOON + HOUR), False),
    "a run asked for": (councilor(councilor_run_requested_at=NOON), False),
    "a request that is no date": (councilor(councilor_run_requested_at="now"), False),
    "invalid": (with_schedule(value="0m"), False),
}


@pytest.mark.parametrize(("fields", "expected"), PLAIN.values(), ids=PLAIN)
def test_plain_is_what_time_does_not_change(fields: dict[str, Any], expected: bool) -> None:
    assert is_plain(desired_of(fields)) is expected


def test_specs_are_shared_and_each_keeps_the_text_that_was_written() -> None:
    """Equal schedules may be written in several ways, and people see how."""
    hour, minutes = with_schedule(value="1h"), with_schedule(value="60m")
    specs = [desired_of(fields).spec for fields in (hour, minutes, hour)]
    assert [spec.schedule.text for spec in specs if spec is not None] == ["1h", "60m", "1h"]
    assert specs[0] is specs[2]
    assert specs[0] == specs[1]


def test_a_zone_that_this_machine_does_not_know_is_judged() -> None:
    left = stored(DOCUMENTS["cron"])
    assert left.whole is not None
    whole = left.whole._replace(timezone="US/Pacific-New")
    proof = whole.proof_with(left.agent_id, left.spec_hash, left.state, left.accepted_at)
    left = replace(left, whole=whole._replace(proof=proof))
    assert restored(left, key_of(1), DIGEST, NOON) is None
