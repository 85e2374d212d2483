"""Councilors, what became of their slots, and what is to come, as JSON; read-only."""

from aiohttp import web

from service.inquiry import Inquiry, explained
from service.listing import Listing, TooMany, UnknownCursor
from service.ports import History, JobTable, UnknownRow
from service.timeline import Timeline
from service.web.openapi import OPENAPI
from service.web.queries import flag_query, history_query, instant_query, jobs_query, no_query
from service.web.server import answer

_AGENT = "/jobs/{agent_id:[^/]+}"


class Routes:
    """Answers that want the token, where there is one. Nothing here changes anything."""

    def __init__(
        self,
        jobs: JobTable,
        listing: Listing,
        history: History,
        inquiry: Inquiry,
        timeline: Timeline,
    ) -> None:
        self._jobs = jobs
        self._listing = listing
        self._history = history
        self._inquiry = inquiry
        self._timeline = timeline

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/jobs", self.list_jobs)
        app.router.add_get(_AGENT, self.show_job)
        app.router.add_get(f"{_AGENT}/executions", self.list_executions)
        app.router.add_get(f"{_AGENT}/executions/{{execution_id:[^/]+}}", self.show_execution)
        app.router.add_get(f"{_AGENT}/why", self.explain)
        app.router.add_get("/timeline", self.show_timeline)
        app.router.add_get("/openapi.json", self.describe)

    async def list_jobs(self, request: web.Request) -> web.Response:
        """A page of councilors: paused and invalid ones too."""
        query = jobs_query(request.query)
        try:
            page = await self._listing.page(self._jobs.all(), query)
        except UnknownCursor as error:
            text = "after: write what the page before says as next, in the same order"
            raise web.HTTPBadRequest(text=text) from error
        except TooMany as error:
            text = f"severity: {error} councilors are too many to look at; narrow them down by q"
            raise web.HTTPBadRequest(text=text) from error
        return answer({"items": page.items, "total": page.total, "next": page.next})

    async def show_job(self, request: web.Request) -> web.Response:
        """One councilor with its verdict, its next runs and its recent executions.

        With `prompt=true`, its task, too: nothing else ever shows a prompt.
        """
        agent_id = request.match_info["agent_id"]
        with_task = flag_query(request.query, "prompt")
        job = self._jobs.of_agent(agent_id)
        if job is None:
            raise _no_councilor(agent_id)
        return answer(await self._listing.detail(job, with_task=with_task))

    async def list_executions(self, request: web.Request) -> web.Response:
        """A page of an agent's ledger, latest slot first."""
        agent_id, query = request.match_info["agent_id"], history_query(request.query)
        try:
            rows = await self._history.page(agent_id, query)
        except UnknownRow as error:
            raise web.HTTPBadRequest(text=f"after: no execution {error} of this agent") from error
        if not rows and await self._inquiry.why(agent_id) is None:
            raise _no_councilor(agent_id)
        is_last = len(rows) < query.limit
        following = None if is_last else rows[-1].fields.get("execution_id")
        return answer({"items": [row.fields for row in rows], "next": following})

    async def show_execution(self, request: web.Request) -> web.Response:
        """One row of the ledger with all of its output."""
        no_query(request.query)
        asked = request.match_info
        row = await self._history.row(asked["agent_id"], asked["execution_id"])
        if row is None:
            raise web.HTTPNotFound(text=f"there is no execution {asked['execution_id']}")
        return answer(row.fields)

    async def explain(self, request: web.Request) -> web.Response:
        """What became of the slot at or before an instant, and why."""
        agent_id = request.match_info["agent_id"]
        found = await self._inquiry.why(agent_id, instant_query(request.query))
        if found is None:
            raise _no_councilor(agent_id)
        return answer(explained(agent_id, found))

    async def show_timeline(self, request: web.Request) -> web.Response:
        """Half a day of what has run, and half a day of what will."""
        no_query(request.query)
        return answer(await self._timeline.around_now())

    async def describe(self, request: web.Request) -> web.Response:
        """All of this, for programs."""
        no_query(request.query)
        return answer(OPENAPI)


def _no_councilor(agent_id: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=f"there is no councilor {agent_id}")
