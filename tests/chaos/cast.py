"""The agents of a run and how a writer may change them: pure, drawn from a `Random`."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.chaos.history import Document, base_name

PROMPT_MARK = "PROMPT-THAT-NO-LOG-SHOWS"
_STEADY_SHARE = 4
"""Every so many-th agent is never touched."""
_SERVICE_FIELDS = ("stats", "councilor_status")


@dataclass(frozen=True, slots=True)
class Change:
    """What a writer does to one document: `after` is what it believes to be there then.

    With `fields` it sets and unsets those, by their paths; without, it writes the whole document,
    or deletes it.
    """

    what: str
    after: dict[str, Any] | None
    sets: Mapping[str, Any] | None = None
    unsets: tuple[str, ...] = ()
    touches_schedule: bool = True


def is_steady(number: int) -> bool:
    """Tell whether nobody ever touches this agent."""
    return number % _STEADY_SHARE == 0


def first_document(number: int, rng: Random, now: datetime) -> dict[str, Any]:
    """The agent as it is before the replicas start; some are promoted later."""
    document = {
        "_id": f"document-{number}",
        "agent_id": f"agent-{number}",
        "name": f"Agent {number}",
        "customization": None,
        "is_councilor": is_steady(number) or rng.random() < 0.8,
        "notes": {"of the user": [number, "stay as they are"]},
        "updated_at": now,
    }
    if document["is_councilor"]:
        schedule = _interval(rng) if is_steady(number) else _schedule(rng)
        document["councilor_config"] = _config(schedule, 1)
    return document


def users_fields(document: Document) -> dict[str, Any]:
    """A document without what the service writes there."""
    return {name: value for name, value in document.items() if name not in _SERVICE_FIELDS}


def edition_of(text: str) -> int:
    """The number in a prompt; 0 where there is none."""
    return int(text.rpartition(" edition ")[2] or 0) if " edition " in text else 0


def prompt_of(document: Document | None) -> str:
    """The prompt in a document, empty where there is none."""
    config = (document or {}).get("councilor_config") or {}
    return str(config.get("task", {}).get("prompt", ""))


def drawn_change(
    document: Document | None, number: int, edition: int, rng: Random, now: datetime
) -> Change:
    """What the writer does next to this agent; `edition` is the number of the next prompt."""
    if document is None:
        return _inserted(number, edition, rng, now)
    if not document["is_councilor"]:
        config = _config(_schedule(rng), edition)
        return _set("promote", document, now, {"is_councilor": True, "councilor_config": config})
    choices, weights = zip(*_CHANGES.items(), strict=True)
    chosen: Callable[..., Change] = rng.choices(choices, weights)[0]
    return chosen(document, edition, rng, now)


def _inserted(number: int, edition: int, rng: Random, now: datetime) -> Change:
    document = first_document(number, rng, now)
    document |= {"is_councilor": True, "councilor_config": _config(_schedule(rng), edition)}
    if rng.random() < 0.5:
        document["_id"] = f"document-{number}-{edition}"
    return Change("insert", document)


def _edit_schedule(document: Document, _edition: int, rng: Random, now: datetime) -> Change:
    schedule = {**_schedule(rng), "enabled": rng.random() < 0.9}
    return _set("edit schedule", document, now, {"councilor_config.schedule": schedule})


def _edit_task(document: Document, edition: int, _rng: Random, now: datetime) -> Change:
    task = {"councilor_config.task": _task(edition)}
    return _set("edit task", document, now, task, touches_schedule=False)


def _toggle(document: Document, _edition: int, _rng: Random, now: datetime) -> Change:
    is_on = document["councilor_config"]["schedule"].get("enabled", True)
    what = "pause" if is_on else "resume"
    return _set(what, document, now, {"councilor_config.schedule.enabled": not is_on})


def _demote(document: Document, _edition: int, _rng: Random, now: datetime) -> Change:
    gone = ("councilor_config",)
    return _set("demote", document, now, {"is_councilor": False}, gone)


def _delete(_document: Document, _edition: int, _rng: Random, _now: datetime) -> Change:
    return Change("delete", None)


def _replace(document: Document, edition: int, rng: Random, now: datetime) -> Change:
    after = users_fields(deepcopy(dict(document))) | {"updated_at": now}
    if rng.random() < 0.5:
        after["councilor_config"] = _config(_schedule(rng), edition)
    return Change("replace", after)


def _run_now(document: Document, _edition: int, _rng: Random, now: datetime) -> Change:
    asked = {"councilor_run_requested_at": now}
    return _set("run now", document, now, asked, touches_schedule=False)


def _skip_next(document: Document, _edition: int, _rng: Random, now: datetime) -> Change:
    path = "councilor_config.schedule.skip_next"
    if document["councilor_config"]["schedule"].get("skip_next"):
        return _set("unskip", document, now, {}, (path,))
    return _set("skip next", document, now, {path: True})


def _pause_until(document: Document, _edition: int, rng: Random, now: datetime) -> Change:
    until = now + timedelta(seconds=rng.randint(1, 6))
    return _set("pause until", document, now, {"councilor_config.schedule.paused_until": until})


def _rename(document: Document, edition: int, _rng: Random, now: datetime) -> Change:
    name = f"{base_name(document['agent_id'])}.{edition}"
    return _set("rename", document, now, {"agent_id": name})


def _break(document: Document, _edition: int, _rng: Random, now: datetime) -> Change:
    return _set("break", document, now, {"councilor_config.schedule.value": "0m"})


_CHANGES: Mapping[Callable[..., Change], int] = {
    _edit_schedule: 20,
    _edit_task: 15,
    _toggle: 30,
    _demote: 6,
    _delete: 4,
    _replace: 5,
    _run_now: 10,
    _skip_next: 8,
    _pause_until: 6,
    _rename: 3,
    _break: 3,
}


def _set(
    what: str,
    document: Document,
    now: datetime,
    sets: Mapping[str, Any],
    unsets: tuple[str, ...] = (),
    *,
    touches_schedule: bool = True,
) -> Change:
    after = deepcopy(dict(document))
    sets = {**sets, "updated_at": now}
    for path, value in sets.items():
        place, name = _place_of(after, path)
        place[name] = value
    for path in unsets:
        place, name = _place_of(after, path)
        place.pop(name, None)
    return Change(what, after, sets, unsets, touches_schedule)


def _place_of(document: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *parents, name = path.split(".")
    for parent in parents:
        document = document[parent]
    return document, name


def _config(schedule: Mapping[str, Any], edition: int) -> dict[str, Any]:
    return {
        "title": "Scout",
        "schedule": {**schedule, "enabled": True},
        "task": _task(edition),
        "notifications": {"channels": ["toast", "panel"], "on_error": True},
    }


def _task(edition: int) -> dict[str, Any]:
    prompt = f"{PROMPT_MARK} look around, edition {edition}"
    return {"name": "look around", "prompt": prompt, "context_files": None}


def _schedule(rng: Random) -> dict[str, Any]:
    if rng.random() < 0.1:
        return {"type": "cron", "value": "* * * * *", **_policies(rng)}
    return _interval(rng)


def _interval(rng: Random) -> dict[str, Any]:
    return {"type": "interval", "value": f"{rng.randint(1, 7)}s", **_policies(rng)}


def _policies(rng: Random) -> dict[str, Any]:
    return {
        "overlap": rng.choice(("skip", "skip", "queue_one")),
        "catch_up": rng.choice(("once", "once", "skip", "all")),
    }
