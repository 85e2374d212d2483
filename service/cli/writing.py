"""Commands that update a document, as any writer would, or tell MongoDB what writers may write."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from service import tables
from service.adapters.mongo.client import Client
from service.adapters.mongo.validator import install
from service.app import Stores, schedule_policy, wall_clock
from service.cli.common import (
    CHECK,
    WRITE,
    AgentId,
    AsJson,
    cli,
    examples,
    instant_argument,
    unknown_agent,
    utf8,
    with_client,
    with_stores,
)
from service.cli.edits import (
    Agent,
    Edit,
    agent_in,
    asking_for_run,
    demoting,
    edited,
    pausing,
    promoting,
    resuming,
    told_of,
)
from service.cli.skipping import Skipping
from service.domain.councilor import InvalidCouncilor, parse_councilor
from service.domain.document_schema import agents_validator
from service.domain.execution import Status
from service.domain.interval import ScheduleError, interval_from
from service.ports import ServiceError
from service.settings import Settings, settings_from_environment

Decide = Callable[[Agent, Stores], Awaitable[Edit]]
Confirm = Callable[[Agent, Stores], Awaitable[str | None]]


@cli.command(
    rich_help_panel=WRITE,
    epilog=examples(
        'promote scout --every 30m --prompt "Look around"',
        'promote scout --cron "0 9 * * 1" --prompt "Look around"',
    ),
)
def promote(
    agent_id: AgentId,
    prompt: Annotated[str, typer.Option(help="What the agent shall do.", callback=utf8)],
    every: Annotated[str | None, typer.Option(metavar="30m", help="An interval.")] = None,
    cron: Annotated[str | None, typer.Option(metavar='"0 9 * * 1"', help="Five fields.")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA zone of a cron.")] = None,
    name: Annotated[str | None, typer.Option(help="The name of the task.", callback=utf8)] = None,
    title: Annotated[str | None, typer.Option(help="The councilor's title.", callback=utf8)] = None,
    as_json: AsJson = False,
) -> None:
    """Make an agent a councilor: it runs PROMPT again and again.

    Of one that is a councilor already, only what is given changes; a paused one runs again.
    """
    if (every is None) == (cron is None):
        raise typer.BadParameter("give either --every or --cron")
    schedule = {"type": "interval", "value": every} if every else {"type": "cron", "value": cron}
    config: dict[str, Any] = {
        "title": title or name or agent_id,
        "schedule": {**schedule, "enabled": True, **({"timezone": timezone} if timezone else {})},
        "task": {"name": name or title or agent_id, "prompt": prompt},
    }
    whole: dict[str, object] = {"is_councilor": True, "councilor_config": config}
    judged = parse_councilor(
        {"agent_id": agent_id, **whole}, schedule_policy(settings_from_environment())
    )
    if isinstance(judged, InvalidCouncilor):
        raise ServiceError(f"{judged.problem.message}: {judged.problem.hint}")
    chosen = {"title": title, "task.name": name, "task.prompt": prompt}
    chosen |= {f"schedule.{field}": value for field, value in config["schedule"].items()}
    parts = {f"councilor_config.{path}": value for path, value in chosen.items() if value}

    async def decide(agent: Agent, _: Stores) -> Edit:
        return promoting(agent, whole, parts)

    _edit(agent_id, decide, as_json=as_json)


@cli.command(
    rich_help_panel=WRITE,
    epilog=examples(
        "pause coverage-scout",
        "pause coverage-scout --until 2h",
        "pause coverage-scout --until 2027-01-04T09:00:00+01:00",
    ),
)
def pause(
    agent_id: AgentId,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="INSTANT",
            help="When it goes on by itself: ISO-8601, UTC where it names no zone; or 2h from now.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a councilor's slots pass, until it is resumed or until an instant."""
    end = _instant_to_come(until, wall_clock()) if until is not None else None

    async def decide(agent: Agent, _: Stores) -> Edit:
        return pausing(agent, end)

    _edit(agent_id, decide, as_json=as_json)


def _instant_to_come(text: str, now: datetime) -> datetime:
    """An instant, or an interval from now, to the second."""
    try:
        instant = (now + interval_from(text)).replace(microsecond=0)
    except ScheduleError:
        instant = instant_argument(text, " nor an interval such as 2h")
    if instant <= now:
        raise typer.BadParameter(f'"{text}" is over already')
    return instant


@cli.command(rich_help_panel=WRITE, epilog=examples("resume coverage-scout"))
def resume(agent_id: AgentId, as_json: AsJson = False) -> None:
    """Let a paused councilor run again, from its next slot on."""

    async def decide(agent: Agent, _: Stores) -> Edit:
        return resuming(agent, wall_clock())

    _edit(agent_id, decide, as_json=as_json)


@cli.command("run-now", rich_help_panel=WRITE, epilog=examples("run-now coverage-scout"))
def run_now(agent_id: AgentId, as_json: AsJson = False) -> None:
    """Ask for one run, whatever the schedule says.

    A paused councilor runs, too; during a run, this one waits for its end.
    """

    async def decide(agent: Agent, stores: Stores) -> Edit:
        latest = (await stores.history.latest([agent_id])).get(agent_id)
        is_running = latest is not None and latest.fields.get("status") == Status.RUNNING
        is_anybody_there = bool(await stores.replicas.alive())
        return asking_for_run(
            agent, wall_clock(), is_running=is_running, is_anybody_there=is_anybody_there
        )

    _edit(agent_id, decide, as_json=as_json)


@cli.command("skip-next", rich_help_panel=WRITE, epilog=examples("skip-next coverage-scout"))
def skip_next(agent_id: AgentId, as_json: AsJson = False) -> None:
    """Leave out the next slot, once.

    Waits some seconds for the scheduler, which has to clear the mark of a slot that was left out
    before, and to say which slot it is now.
    """

    settings = settings_from_environment()
    policy, keeps_for = schedule_policy(settings), settings.scheduler_execution_ttl

    def skipping(stores: Stores) -> Skipping:
        return Skipping(stores.agents, stores.history, policy, wall_clock, keeps_for=keeps_for)

    async def decide(agent: Agent, stores: Stores) -> Edit:
        return await skipping(stores).arm(agent)

    async def confirm(agent: Agent, stores: Stores) -> str | None:
        return await skipping(stores).confirmed(agent)

    _edit(agent_id, decide, confirm, as_json=as_json)


@cli.command(rich_help_panel=WRITE, epilog=examples("demote coverage-scout"))
def demote(agent_id: AgentId, as_json: AsJson = False) -> None:
    """Make a councilor an ordinary agent again: its configuration goes."""

    async def decide(agent: Agent, _: Stores) -> Edit:
        return demoting(agent)

    _edit(agent_id, decide, as_json=as_json)


def _edit(agent_id: str, decide: Decide, confirm: Confirm | None = None, *, as_json: bool) -> None:
    """Look at an agent, decide, write what is to be written, and say what came of it."""

    async def done(stores: Stores, settings: Settings) -> dict[str, object]:
        found = await stores.agents.find([agent_id])
        if not found:
            raise await unknown_agent(stores, agent_id)
        if len(found) > 1:  # one of them is scheduled, and an update may meet another
            raise ServiceError(
                f"{len(found)} documents have the agent_id {agent_id}: give each one of its own"
            )
        policy = schedule_policy(settings)
        agent = agent_in(agent_id, found[0], policy)
        edit = await decide(agent, stores)
        if edit.changes and not await stores.agents.edit(agent_id, edit.changes):
            raise await unknown_agent(stores, agent_id)
        after = edited(agent, edit, policy)
        confirmed = await confirm(after, stores) if confirm is not None and edit.changes else None
        return {
            "agent_id": agent_id,
            "done": edit.done,
            "changed": bool(edit.changes),
            "state": after.state,
            "said": confirmed or told_of(edit, after),
        }

    tables.show_answer(with_stores(done), as_json=as_json)


@cli.command(rich_help_panel=CHECK, epilog=examples("schema", "schema --apply --strict"))
def schema(
    is_applied: Annotated[
        bool, typer.Option("--apply", help="Have MongoDB check what is written to agents.")
    ] = False,
    is_strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what is wrong; without, MongoDB only logs it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the $jsonSchema validator for agents, as JSON, or install it."""
    if is_strict and not is_applied:
        raise typer.BadParameter("--strict goes with --apply")
    if not is_applied:
        tables.print_json(agents_validator())
        return

    async def installed(client: Client, settings: Settings) -> None:
        names = settings.mongodb_database, settings.scheduler_agents_collection
        count = await install(client, *names, agents_validator(), strict=is_strict)
        if as_json:
            action = "error" if is_strict else "warn"
            tables.print_json({"collection": names[1], "action": action, "misfits": count})
            return
        action = "refuses" if is_strict else "logs"
        typer.echo(f"{names[1]}: from now on MongoDB {action} what does not fit the schema")
        if count:
            typer.echo(f"documents that do not fit it already: {count:,}")

    with_client(installed)
