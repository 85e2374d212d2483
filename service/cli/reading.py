"""Commands that show what there is, and judge it: `jobs`, `history` and `check`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from service import tables
from service.adapters.mongo.files import UnreadableFile, documents_in
from service.app import Stores, schedule_policy, wall_clock
from service.checking import findings_on
from service.cli.common import (
    CHECK,
    FAILED,
    LOOK,
    AgentId,
    AsJson,
    cli,
    examples,
    instant_argument,
    unknown_agent,
    unknown_among,
    with_stores,
)
from service.cli.completion import agent_ids_for
from service.cli.watching import Every, View, Watched, run_watch
from service.domain.advice import Circumstances
from service.domain.jobs import AgentDocument, JobState
from service.domain.printable import printable
from service.domain.verdict import SHOWN_RUNS
from service.inquiry import Inquiry
from service.listing import Item, Listing, Query, Sort, chosen_of, jobs_of
from service.ports import HistoryQuery
from service.settings import Settings, settings_for_judging, settings_from_environment
from service.views import history_table, jobs_summary, jobs_table


@cli.command(
    rich_help_panel=LOOK,
    epilog=examples(
        "jobs",
        "jobs --state invalid",
        "jobs -q report --sort next_run_time --watch --every 5s",
        "jobs --json | jq -r '.[].agent_id'",
    ),
)
def jobs(
    state: Annotated[JobState | None, typer.Option(help="Only those.")] = None,
    sort: Annotated[Sort, typer.Option(help="The order.")] = Sort.AGENT_ID,
    query: Annotated[
        str, typer.Option("-q", metavar="TEXT", help="Only where agent_id or name has this text.")
    ] = "",
    is_watched: Watched = False,
    every: Every = "1s",
    as_json: AsJson = False,
) -> None:
    """List the councilors with their next runs and last results."""
    wanted = Query(state=state, text=query, sort=sort)
    if is_watched:
        run_watch("jobs", partial(_jobs_view, wanted), every, as_json=as_json)

    async def shown(stores: Stores, settings: Settings) -> None:
        found = await _found(wanted, stores, settings)
        tables.show_jobs(found.items, found.total, found.now, as_json=as_json)

    with_stores(shown)


@dataclass(frozen=True, slots=True)
class _Found:
    """Councilors as of `now`, of `total`."""

    items: Sequence[Item]
    total: int
    now: datetime


async def _found(wanted: Query, stores: Stores, settings: Settings) -> _Found:
    documents = await stores.agents.find(None)
    stored, now = await stores.stored_jobs.load(), wall_clock()
    all_jobs = jobs_of(documents, stored, schedule_policy(settings), now)
    listing = Listing(stores.agents, stores.history, wall_clock)
    items = await listing.items(chosen_of(all_jobs, wanted))
    return _Found(items, len(all_jobs), now)


async def _jobs_view(wanted: Query, stores: Stores, settings: Settings) -> View:
    found = await _found(wanted, stores, settings)
    headline = jobs_summary(found.items, found.total, found.now)
    return View(headline, partial(jobs_table, found.items, found.now))


@cli.command(
    rich_help_panel=LOOK,
    epilog=examples("history coverage-scout", "history coverage-scout --limit 5 --watch"),
)
def history(
    agent_id: AgentId,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many rows, latest first.")] = 20,
    is_watched: Watched = False,
    every: Every = "1s",
    as_json: AsJson = False,
) -> None:
    """Show what became of a councilor's slots."""

    async def rows_of(stores: Stores) -> Sequence[Item]:
        query = HistoryQuery(limit, is_whole=as_json)
        rows = await stores.history.page(agent_id, query)
        if not rows and not await stores.agents.find([agent_id]):
            raise await unknown_agent(stores, agent_id)
        return [dict(row.fields) for row in rows]

    async def view(stores: Stores, _: Settings) -> View:
        rows = await rows_of(stores)
        headline = f"latest of {printable(agent_id)}" if rows else "no executions"
        return View(headline, partial(history_table, rows))

    async def shown(stores: Stores, _: Settings) -> None:
        tables.show_history(await rows_of(stores), as_json=as_json)

    if is_watched:
        run_watch("history", view, every, as_json=as_json)
    with_stores(shown)


@cli.command(
    rich_help_panel=LOOK,
    epilog=examples("why coverage-scout", "why coverage-scout --at 2026-11-23T09:00:00Z"),
)
def why(
    agent_id: AgentId,
    at: Annotated[
        str | None,
        typer.Option(metavar="INSTANT", help="The slot at or before then; now if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain what became of a slot: why it did, or did not, run."""
    instant = instant_argument(at) if at is not None else None

    async def explained(stores: Stores, settings: Settings) -> None:
        documents, stored = await stores.agents.find([agent_id]), await stores.stored_jobs.load()
        jobs = jobs_of(documents, stored, schedule_policy(settings), wall_clock())
        inquiry = Inquiry(
            stores.agents,
            stores.history,
            {job.agent_id: job for job in reversed(jobs)}.get,
            wall_clock,
            kept_for=settings.scheduler_execution_ttl,
            run_timeout=settings.scheduler_run_timeout,
        )
        found = await inquiry.why(agent_id, instant)
        if found is None:
            raise await unknown_agent(stores, agent_id)
        tables.show_why(agent_id, found, as_json=as_json)

    with_stores(explained)


@cli.command(
    rich_help_panel=CHECK,
    epilog=examples("check", "check --file agents/ --json", "check coverage-scout --count 5"),
)
def check(
    agent_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AGENT_ID]...",
            help="Default: all councilors.",
            autocompletion=agent_ids_for,
        ),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", help="JSON with one document or a list, or a folder of such files."),
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="Judge as of then.")] = None,
    count: Annotated[
        int | None,
        typer.Option(min=0, max=1000, help="How many next runs (the table shows one, JSON five)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge councilors without running them; exit code 1 where one is invalid.

    Without a database, where files are given. By SCHEDULER_TIMEZONE and SCHEDULER_MIN_INTERVAL of
    this environment: give it the service's.
    """
    settings = settings_for_judging() if files else settings_from_environment()
    instant = instant_argument(at) if at is not None else wall_clock()

    unreadable: list[UnreadableFile] = []
    if files:
        found = [each for file in files for each in documents_in(file, unreadable.append)]
    else:
        stored = with_stores(lambda stores, _: _stored(stores, agent_ids or []))
        found = sorted(((document, "") for document in stored), key=_by_agent_id)
    chosen = _named(found, agent_ids or [])
    findings = findings_on(
        [document for document, _ in chosen],
        schedule_policy(settings),
        Circumstances(settings.scheduler_run_timeout, instant),
        count if count is not None else SHOWN_RUNS,
        are_stored=not files,
    )
    sources = [source for _, source in chosen]
    tables.show_findings(findings, sources, as_json=as_json, with_runs=count is not None)
    for error in unreadable:
        typer.echo(f"councilor-scheduler: {error}", err=True)
    if unreadable or any(finding.is_invalid for finding in findings):
        raise typer.Exit(FAILED)


def _by_agent_id(found: tuple[AgentDocument, str]) -> str:
    return str((found[0].fields or {}).get("agent_id"))


async def _stored(stores: Stores, agent_ids: Sequence[str]) -> Sequence[AgentDocument]:
    documents = await stores.agents.find(agent_ids or None)
    known = {(document.fields or {}).get("agent_id") for document in documents}
    for agent_id in agent_ids:
        if agent_id not in known:
            raise await unknown_agent(stores, agent_id)
    return documents


def _named(
    found: Sequence[tuple[AgentDocument, str]], agent_ids: Sequence[str]
) -> Sequence[tuple[AgentDocument, str]]:
    """The documents of these agents, or all; raises ServiceError where one is not there."""
    known = [str((document.fields or {}).get("agent_id")) for document, _ in found]
    for agent_id in agent_ids:
        if agent_id not in known:
            raise unknown_among(agent_id, known)
    return [
        (document, source)
        for document, source in found
        if not agent_ids or (document.fields or {}).get("agent_id") in agent_ids
    ]
