"""Commands that update a document, as any writer would, or tell MongoDB what writers may write."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from service import tables
from service.adapters.mongo.client import Client
from service.adapters.mongo.validator import install
from service.app import Stores, schedule_policy, wall_clock
from service.cli.common import AgentId, cli, with_client, with_stores
from service.domain.councilor import InvalidCouncilor, parse_councilor
from service.domain.document_schema import agents_validator
from service.ports import ServiceError
from service.settings import Settings, settings_from_environment


@cli.command()
def promote(
    agent_id: AgentId,
    prompt: Annotated[str, typer.Option(help="What the agent shall do.")],
    every: Annotated[str | None, typer.Option(metavar="30m", help="An interval.")] = None,
    cron: Annotated[str | None, typer.Option(metavar='"0 9 * * 1"', help="Five fields.")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA zone of a cron.")] = None,
    name: Annotated[str | None, typer.Option(help="The name of the task.")] = None,
    title: Annotated[str | None, typer.Option(help="The councilor's title.")] = None,
) -> None:
    """Make an agent a councilor: it runs PROMPT again and again.

    Of one that is a councilor already, only what is given changes.
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

    async def promoted(stores: Stores, _: Settings) -> None:
        documents = await stores.agents.find([agent_id])
        is_there = bool(documents) and _has_config(documents[0].fields or {})
        changes = {"is_councilor": True, **parts} if is_there else whole
        if not await stores.agents.edit(agent_id, changes):
            raise ServiceError(f"there is no agent {agent_id}")

    with_stores(promoted)
    typer.echo(f"{agent_id}: promoted")


def _has_config(fields: Mapping[str, object]) -> bool:
    config = fields.get("councilor_config")
    if not isinstance(config, Mapping) or not fields.get("is_councilor"):
        return False
    return all(isinstance(config.get(part), Mapping) for part in ("schedule", "task"))


@cli.command()
def pause(agent_id: AgentId) -> None:
    """Let a councilor's slots pass until it is resumed."""
    _edit_councilor(agent_id, {"councilor_config.schedule.enabled": False}, "paused")


@cli.command()
def resume(agent_id: AgentId) -> None:
    """Let a paused councilor run again, from its next slot on."""
    _edit_councilor(agent_id, {"councilor_config.schedule.enabled": True}, "resumed")


@cli.command("run-now")
def run_now(agent_id: AgentId) -> None:
    """Ask for one run, whatever the schedule says."""
    _edit_councilor(agent_id, {"councilor_run_requested_at": wall_clock()}, "asked for a run")


@cli.command()
def schema(
    is_applied: Annotated[
        bool, typer.Option("--apply", help="Have MongoDB check what is written to agents.")
    ] = False,
    is_strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what is wrong; without, MongoDB only logs it.")
    ] = False,
) -> None:
    """Print the $jsonSchema validator for agents, or install it."""
    if is_strict and not is_applied:
        raise typer.BadParameter("--strict goes with --apply")
    if not is_applied:
        tables.print_json(agents_validator())
        return

    async def installed(client: Client, settings: Settings) -> None:
        names = settings.mongodb_database, settings.scheduler_agents_collection
        count = await install(client, *names, agents_validator(), strict=is_strict)
        action = "refuses" if is_strict else "logs"
        typer.echo(f"{names[1]}: from now on MongoDB {action} what does not fit the schema")
        if count:
            typer.echo(f"documents that do not fit it already: {count:,}")

    with_client(installed)


@cli.command()
def demote(agent_id: AgentId) -> None:
    """Make a councilor an ordinary agent again."""
    _edit(agent_id, {"is_councilor": False, "councilor_config": None}, "demoted")


def _edit(
    agent_id: str, changes: dict[str, object], done: str, *, councilors_only: bool = False
) -> None:
    async def edited(stores: Stores, _: Settings) -> None:
        if await stores.agents.edit(agent_id, changes, councilors_only=councilors_only):
            return
        if await stores.agents.find([agent_id]):
            raise ServiceError(f"{agent_id} is no councilor: promote it first")
        raise ServiceError(f"there is no agent {agent_id}")

    with_stores(edited)
    typer.echo(f"{agent_id}: {done}")


def _edit_councilor(agent_id: str, changes: dict[str, object], done: str) -> None:
    _edit(agent_id, changes, done, councilors_only=True)
