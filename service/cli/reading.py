"""Commands that show what there is, and judge it: `jobs`, `history` and `check`."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from service import tables
from service.adapters.mongo.files import UnreadableFile, documents_in
from service.app import Stores, schedule_policy, wall_clock
from service.checking import findings_on
from service.cli.common import FAILED, AgentId, AsJson, cli, with_stores
from service.domain.advice import Circumstances
from service.domain.config import instant_from
from service.domain.jobs import AgentDocument
from service.domain.verdict import SHOWN_RUNS
from service.listing import Listing, jobs_of
from service.ports import HistoryQuery, ServiceError
from service.settings import Settings, settings_from_environment


@cli.command()
def jobs(as_json: AsJson = False) -> None:
    """List the councilors with their next runs and last results."""

    async def listed(stores: Stores, settings: Settings) -> None:
        documents = await stores.agents.find(None)
        stored = await stores.stored_jobs.load()
        now = wall_clock()
        found = jobs_of(documents, stored, schedule_policy(settings), now)
        listing = Listing(stores.agents, stores.history, wall_clock)
        items = await listing.items(sorted(found, key=lambda job: job.agent_id))
        tables.show_jobs(items, now, as_json=as_json)

    with_stores(listed)


@cli.command()
def history(
    agent_id: AgentId,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many rows, latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what became of a councilor's slots."""

    async def shown(stores: Stores, _: Settings) -> None:
        rows = await stores.history.page(agent_id, HistoryQuery(limit))
        if not rows and not await stores.agents.find([agent_id]):
            raise ServiceError(f"there is no agent {agent_id}")
        tables.show_history([row.fields for row in rows], as_json=as_json)

    with_stores(shown)


@cli.command()
def check(
    agent_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT_ID]...", help="Default: all councilors.")
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
    """Judge councilors without running them; exit code 1 where one is invalid."""
    settings = settings_from_environment()
    instant = _instant(at) if at is not None else wall_clock()

    unreadable: list[UnreadableFile] = []
    if files:
        found = [each for file in files for each in documents_in(file, unreadable.append)]
    else:
        stored = with_stores(lambda stores, _: stores.agents.find(agent_ids or None))
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


def _named(
    found: Sequence[tuple[AgentDocument, str]], agent_ids: Sequence[str]
) -> Sequence[tuple[AgentDocument, str]]:
    """The documents of these agents, or all; raises ServiceError where one is not there."""
    known = [(document.fields or {}).get("agent_id") for document, _ in found]
    if missing := [agent_id for agent_id in agent_ids if agent_id not in known]:
        raise ServiceError(f"there is no agent {', '.join(missing)}")
    return [
        (document, source)
        for document, source in found
        if not agent_ids or (document.fields or {}).get("agent_id") in agent_ids
    ]


def _instant(text: str) -> datetime:
    instant = instant_from(text)
    if instant is None or not 1970 <= instant.year <= 3000:
        raise typer.BadParameter(f'"{text}" is not an instant such as 2026-11-23T09:00:00Z')
    return instant
