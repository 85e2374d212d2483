"""The story in its order: ten acts within three quarters of a minute, then gentle repetitions."""

import asyncio
from collections.abc import Awaitable, Callable

from service.demo import cast
from service.demo.acts import Acts
from service.demo.narrator import Narrator

_Scene = Callable[[Acts], Awaitable[None]]

NEW_PROMPT = "List dependencies with a known advisory, worst first."
_ENCORE_SECONDS = 9.0


async def play(acts: Acts, narrator: Narrator) -> None:
    """Play the story, then go on until cancelled."""
    for chapter in (_promotions, _pause, _mistake, _changes):
        await chapter(acts, narrator)
    narrator.chapter("That was the script", "The councilors go on, and so does the writer, gently.")
    while True:
        for scene in _ENCORES:
            await asyncio.sleep(_ENCORE_SECONDS)
            await scene(acts)


async def _promotions(acts: Acts, narrator: Narrator) -> None:
    narrator.chapter("1 · Agents become councilors", "One update promotes an agent. That is all.")
    await acts.insert(*cast.PROMOTED_FIRST, cast.AUDITOR)
    await asyncio.sleep(1.0)
    await acts.promote(cast.SCOUT, in_full=True)
    await asyncio.sleep(1.5)
    for part in cast.PROMOTED_FIRST[1:]:
        await acts.promote(part)
        await asyncio.sleep(0.3)
    await acts.insert_promoted(cast.WARDEN)
    narrator.chapter("2 · They run, each by its own schedule")
    await asyncio.sleep(5.0)
    await acts.look()


async def _pause(acts: Acts, narrator: Narrator) -> None:
    narrator.chapter("3 · A pause", "What comes due while it is paused passes.")
    await acts.pause(cast.SCOUT)
    await asyncio.sleep(2.5)
    narrator.chapter("4 · A new prompt", "It is read when a run starts, never cached.")
    await acts.rewrite(cast.WATCH, NEW_PROMPT)
    await asyncio.sleep(1.5)


async def _mistake(acts: Acts, narrator: Narrator) -> None:
    narrator.chapter("5 · A mistake", "A 30th of February never comes. Nobody else is disturbed.")
    await acts.promote_broken(cast.AUDITOR)
    await asyncio.sleep(3.0)
    narrator.chapter("6 · The end of the pause")
    await acts.resume(cast.SCOUT)
    await asyncio.sleep(2.5)


async def _changes(acts: Acts, narrator: Narrator) -> None:
    narrator.chapter("7 · A new schedule, and a run on request")
    await acts.reschedule(cast.SCOUT, "10s", f"has {cast.SCOUT.name} run less often")
    await asyncio.sleep(1.5)
    await acts.run_now(cast.HERALD)
    await asyncio.sleep(1.5)
    narrator.chapter("8 · The mistake is mended")
    await acts.reschedule(cast.AUDITOR, "5s", f"mends {cast.AUDITOR.name}")
    await asyncio.sleep(6.5)
    narrator.chapter("9 · A demotion", "An ordinary agent again; what it did stays recorded.")
    await acts.demote(cast.FLAKY)
    await asyncio.sleep(2.5)
    narrator.chapter("10 · How things stand")
    await acts.look()


async def _hold(acts: Acts) -> None:
    await acts.pause(cast.CLERK)
    await asyncio.sleep(20.0)
    await acts.resume(cast.CLERK)


async def _rehire(acts: Acts) -> None:
    await acts.promote(cast.FLAKY)


async def _dismiss(acts: Acts) -> None:
    await acts.demote(cast.FLAKY)


async def _ask(acts: Acts) -> None:
    await acts.run_now(cast.SCRIBE)


async def _reword(acts: Acts) -> None:
    await acts.rewrite(cast.WATCH, cast.WATCH.prompt)
    await asyncio.sleep(_ENCORE_SECONDS)
    await acts.rewrite(cast.WATCH, NEW_PROMPT)


async def _err(acts: Acts) -> None:
    await acts.break_schedule(cast.AUDITOR, "every 5s")
    await asyncio.sleep(_ENCORE_SECONDS)
    await acts.reschedule(cast.AUDITOR, "5s", f"mends {cast.AUDITOR.name}")


_ENCORES: tuple[_Scene, ...] = (_ask, _hold, _rehire, Acts.look, _reword, _err, _dismiss)
