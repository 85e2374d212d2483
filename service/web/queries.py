"""What is asked in the query part of an address. Raises HTTPBadRequest, naming what is wrong."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from aiohttp import web

from service.domain.config import instant_from
from service.domain.execution import Status
from service.domain.jobs import JobState
from service.domain.severity import Severity
from service.listing import MOST_ITEMS, MOST_RUNS, SORTS, Query
from service.ports import HistoryQuery

_LONGEST_TEXT = 200
_YEARS = range(1970, 3001)

Given = Mapping[str, str]


def jobs_query(given: Given) -> Query:
    """The parameters of `/jobs`."""
    _know(given, "limit", "after", "state", "severity", "q", "sort", "runs")
    state, severity = _one_of(given, "state", JobState), _one_of(given, "severity", Severity)
    text = given.get("q", "")
    if len(text) > _LONGEST_TEXT:
        raise web.HTTPBadRequest(text=f"q: write at most {_LONGEST_TEXT} characters")
    return Query(
        limit=_number(given, "limit", 1, MOST_ITEMS, 100),
        after=given.get("after") or None,
        state=JobState(state) if state is not None else None,
        severity=Severity(severity) if severity is not None else None,
        text=text,
        sort=_one_of(given, "sort", SORTS) or "agent_id",
        runs=_number(given, "runs", 0, MOST_RUNS, 0),
    )


def history_query(given: Given) -> HistoryQuery:
    """The parameters of `/jobs/{agent_id}/executions`."""
    _know(given, "limit", "after", "status", "severity")
    status, severity = _one_of(given, "status", Status), _one_of(given, "severity", Severity)
    return HistoryQuery(
        limit=_number(given, "limit", 1, MOST_ITEMS, 50),
        after=given.get("after") or None,
        status=Status(status) if status is not None else None,
        severity=Severity(severity) if severity is not None else None,
    )


def instant_query(given: Given) -> datetime | None:
    """The parameter `at`, an instant; None where it is not given, which stands for now."""
    _know(given, "at")
    text = given.get("at")
    if not text:
        return None
    # A `+` that was not percent-encoded arrives as a space.
    instant = instant_from(text.strip().replace(" ", "+") if "T" in text else text.strip())
    if instant is None or instant.year not in _YEARS:
        raise web.HTTPBadRequest(
            text="at: write an instant such as 2026-11-23T09:00:00Z (UTC where it names no zone)"
        )
    return instant


def flag_query(given: Given, name: str) -> bool:
    """A parameter that is `true` or `false`, which it is where it is not given."""
    _know(given, name)
    return _one_of(given, name, ("true", "false")) == "true"


def no_query(given: Given) -> None:
    """Refuse any parameter, of an address that has none."""
    _know(given)


def _know(given: Given, *names: str) -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        known = f"known are {', '.join(names)}" if names else "it has none"
        raise web.HTTPBadRequest(text=f"{unknown[0][:40]}: no parameter of this address; {known}")


def _number(given: Given, name: str, least: int, most: int, default: int) -> int:
    text = given.get(name) or str(default)
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if not is_number or not least <= int(text) <= most:
        raise web.HTTPBadRequest(text=f"{name}: write a number from {least} to {most}")
    return int(text)


def _one_of(given: Given, name: str, allowed: Iterable[str]) -> str | None:
    text = given.get(name) or None
    values = [str(value) for value in allowed]
    if text is not None and text not in values:
        raise web.HTTPBadRequest(text=f"{name}: write one of {', '.join(values)}")
    return text
