"""What can be asked over HTTP, and the answers."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from service.domain.catch_up import PUNCTUAL
from service.domain.jobs import JobState
from service.health import Health
from service.listing import (
    MOST_ITEMS,
    SORTS,
    Query,
    UnknownCursor,
    detail_of,
    page_of,
)
from service.ports import Agents, Clock, JobTable, Ledger, ServiceError
from service.telemetry import Telemetry
from service.web.server import answer

_PING_SECONDS = 2.0


class Routes:
    """The handlers. Nothing here changes anything."""

    def __init__(
        self,
        agents: Agents,
        ledger: Ledger,
        jobs: JobTable,
        health: Health,
        telemetry: Telemetry,
        clock: Clock,
        *,
        facts: Mapping[str, object],
    ) -> None:
        self._agents = agents
        self._ledger = ledger
        self._jobs = jobs
        self._health = health
        self._telemetry = telemetry
        self._clock = clock
        self._facts = facts

    def add_to(self, app: web.Application) -> None:
        """Register every route."""
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/jobs", self.list_jobs)
        app.router.add_get("/jobs/{agent_id:[^/]+}", self.show_job)

    async def livez(self, _request: web.Request) -> web.Response:
        """200 while the event loop turns; a service task that ends takes the process with it."""
        return answer({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """200 while changes are seen and acted upon; else 503 with the checks that fail."""
        needed = await self._needed()
        checks = {**needed, **self._others()}
        failing = {name: check for name, check in needed.items() if not check["ok"]}
        if failing:
            return answer({"status": "unavailable", "checks": checks, "failing": failing}, 503)
        return answer({"status": _status_of(checks), "checks": checks})

    async def healthz(self, _request: web.Request) -> web.Response:
        """Everything that is known about the state of this replica."""
        checks = {**await self._needed(), **self._others()}
        counts = self._jobs.counts()
        return answer(
            {
                "status": _status_of(checks),
                "checks": checks,
                "jobs": {state.value: counts.get(state, 0) for state in JobState},
                "at": self._clock(),
                **self._facts,
            }
        )

    async def metrics(self, _request: web.Request) -> web.Response:
        """The metrics in Prometheus' text format."""
        overdue = self._jobs.overdue(self._clock() - PUNCTUAL)
        self._telemetry.jobs_counted(self._jobs.counts(), overdue=overdue)
        body = self._telemetry.exposition()
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=body, headers=headers)

    async def list_jobs(self, request: web.Request) -> web.Response:
        """A page of councilors: paused and invalid ones too."""
        query = _query_from(request.query)
        try:
            page = await page_of(self._jobs.all(), query, self._agents, self._ledger, self._clock())
        except UnknownCursor as error:
            raise web.HTTPBadRequest(text=f"after: no councilor {error} in this list") from error
        return answer({"items": page.items, "total": page.total, "next": page.next})

    async def show_job(self, request: web.Request) -> web.Response:
        """One councilor with its verdict, its next runs and its recent executions."""
        agent_id = request.match_info["agent_id"]
        job = self._jobs.of_agent(agent_id)
        if job is None:
            raise web.HTTPNotFound(text=f"there is no councilor {agent_id}")
        return answer(await detail_of(job, self._agents, self._ledger, self._clock()))

    async def _needed(self) -> dict[str, dict[str, object]]:
        """The checks without which this replica is not ready."""
        health = self._health
        not_synced = None if health.synced else "the first full sync is not done yet"
        return {
            "mongodb": _check(await self._mongodb_trouble()),
            "first_sync": _check(not_synced),
            "change_stream": _check(health.stream_trouble),
            **{name: _check(trouble()) for name, trouble in health.needed.items()},
        }

    def _others(self) -> dict[str, dict[str, object]]:
        """What an operator wants to know, although this replica can do nothing about it."""
        return {name: _check(trouble()) for name, trouble in self._health.others.items()}

    async def _mongodb_trouble(self) -> str | None:
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._agents.ping()
        except TimeoutError:
            return f"no answer within {_PING_SECONDS:g} s"
        except ServiceError as error:
            return str(error)
        return None


def _check(trouble: str | None) -> dict[str, object]:
    return {"ok": True} if trouble is None else {"ok": False, "error": trouble}


def _status_of(checks: Mapping[str, Mapping[str, object]]) -> str:
    return "ok" if all(check["ok"] for check in checks.values()) else "degraded"


def _query_from(given: Mapping[str, str]) -> Query:
    """Read the parameters of `/jobs`. Raises HTTPBadRequest, naming the one that is wrong."""
    limit = given.get("limit", "100")
    is_number = limit.isascii() and limit.isdecimal() and len(limit) <= len(str(MOST_ITEMS))
    if not is_number or not 1 <= int(limit) <= MOST_ITEMS:
        raise web.HTTPBadRequest(text=f"limit: write a number from 1 to {MOST_ITEMS}")
    state = given.get("state") or None
    if state is not None and state not in set(JobState):
        raise web.HTTPBadRequest(text=f"state: write one of {', '.join(JobState)}")
    sort = given.get("sort") or "agent_id"
    if sort not in SORTS:
        raise web.HTTPBadRequest(text=f"sort: write one of {', '.join(SORTS)}")
    return Query(
        limit=int(limit),
        after=given.get("after") or None,
        state=JobState(state) if state is not None else None,
        text=given.get("q", ""),
        sort=sort,
    )
