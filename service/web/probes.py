"""Is it alive, is it ready, what is wrong; and the metrics."""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from service.domain.catch_up import PUNCTUAL
from service.domain.jobs import JobState
from service.health import Health
from service.ports import Agents, Clock, JobTable, ServiceError
from service.telemetry import Telemetry
from service.web.server import answer

_PING_SECONDS = 2.0


class Probes:
    """Answers that want no token."""

    def __init__(
        self,
        agents: Agents,
        jobs: JobTable,
        health: Health,
        telemetry: Telemetry,
        clock: Clock,
        facts: Callable[[], Mapping[str, object]],
    ) -> None:
        self._agents = agents
        self._jobs = jobs
        self._health = health
        self._telemetry = telemetry
        self._clock = clock
        self._facts = facts

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/metrics", self.metrics)

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
        counts, now = self._jobs.counts(), self._clock()
        return answer(
            {
                "status": _status_of(checks),
                "checks": checks,
                "jobs": {state.value: counts.get(state, 0) for state in JobState},
                "overdue": self._jobs.overdue(now - PUNCTUAL),
                "at": now,
                **self._facts(),
            }
        )

    async def metrics(self, _request: web.Request) -> web.Response:
        """The metrics in Prometheus' text format."""
        overdue = self._jobs.overdue(self._clock() - PUNCTUAL)
        self._telemetry.jobs_counted(self._jobs.counts(), overdue=overdue)
        body = self._telemetry.exposition()
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=body, headers=headers)

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
