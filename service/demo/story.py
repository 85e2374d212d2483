"""The demo: every part of it is started here, in one process, and taken down again."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import aiohttp
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from service.adapters.embedded import EmbeddedMongod, embedded_mongod
from service.adapters.mongo.replica_set import initiate
from service.adapters.mongo.writer import PlainWriter, plain_writer
from service.app import Stop, serve, wall_clock
from service.demo import board
from service.demo.acts import Acts, heard
from service.demo.conductor import standing_in
from service.demo.ears import Ears, listening
from service.demo.exits import Exits, temporary_folder
from service.demo.facts import Calls, Evidence, facts_of
from service.demo.narrator import Narrator
from service.demo.script import play
from service.ports import ServiceError
from service.settings import Settings

_LOCALHOST = "127.0.0.1"
_DATABASE = "conductor_state"
_ABOUT = "A document in MongoDB says what an agent does and when. This service sees to it."
_PROOF = "Counted in the database after the end, and by the stand-in for Conductor."
_SUGGESTIONS = (
    ("scripts/demo", "goes on until Ctrl-C; meanwhile:"),
    ("http://127.0.0.1:PORT/", "the dashboard, live; /jobs has the same as JSON"),
    ("councilor-scheduler run --embedded", "the service, and a MongoDB to keep"),
    ("README.md", "how to run it, and where the rest is written"),
)
_CURTAIN = "The service starts nothing more and lets what runs come to its end."


class _DemoSettings(Settings):
    """Settings that the demo chooses: nothing of the user's environment reaches it."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


async def tell(run_for: timedelta | None) -> None:
    """Show the service at work for so long, or until SIGINT, SIGTERM or SIGHUP; leave nothing.

    A second signal ends the process at once. Raises ServiceError where a part does not start.
    """
    exits = Exits()
    show = asyncio.create_task(_Show(exits).run(run_for), name="demo")
    with exits.on_signals(show):
        try:
            await asyncio.wait([show])
        finally:
            show.cancel()
            await asyncio.wait([show])
    if not show.cancelled():
        show.result()


class _Show:
    """The parts, and what is told about them."""

    def __init__(self, exits: Exits) -> None:
        self._exits = exits
        self._narrator = Narrator(exits.ask)
        self._ears = Ears(self._narrator.hear)

    async def run(self, run_for: timedelta | None) -> None:
        if run_for is not None:
            asyncio.get_running_loop().call_later(run_for.total_seconds(), self._exits.ask)
        self._narrator.chapter("councilor-scheduler · demo", _ABOUT)
        async with AsyncExitStack() as stack:
            mongod = await stack.enter_async_context(self._mongod())
            conductor = await stack.enter_async_context(standing_in(_LOCALHOST))
            self._narrator.demo("stand-in Conductor", conductor)
            writer = await stack.enter_async_context(plain_writer(mongod.url, _DATABASE))
            stack.enter_context(listening(self._ears))
            acts = Acts(writer, self._narrator, self._ears, wall_clock)
            await self._perform(mongod, conductor, acts)
            await self._close(writer, conductor, acts)

    @asynccontextmanager
    async def _mongod(self) -> AsyncIterator[EmbeddedMongod]:
        with temporary_folder("councilor-demo-") as folder:
            self._narrator.demo("starts a MongoDB of its own")
            async with embedded_mongod(
                data_dir=folder, environ=os.environ, initiate=initiate
            ) as mongod:
                self._exits.at_once(mongod.process.kill, folder)
                self._narrator.demo("MongoDB", mongod.url)
                yield mongod

    async def _perform(self, mongod: EmbeddedMongod, conductor: str, acts: Acts) -> None:
        """Run the real service, and the story in front of it, until either ends or we are told."""
        settings = _DemoSettings(
            mongodb_url=SecretStr(mongod.url),
            mongodb_database=_DATABASE,
            conductor_api_url=SecretStr(conductor),
            scheduler_http_port=0,
            scheduler_min_interval=timedelta(seconds=1),
            scheduler_drain_timeout=timedelta(seconds=10),
        )
        is_up = self._ears.next(lambda event: event["event"] == "scheduler_started")
        is_ready = self._ears.next(lambda event: event["event"] == "resync_finished")
        async with _serving(settings) as service:
            await _first_of(heard(is_ready), asyncio.wait([service]))
            self._exits.is_clean = True
            if is_up.done():
                self._invite(mongod.url, is_up.result()["http_port"])
            await _first_of(
                play(acts, self._narrator),
                self._exits.asked(),
                asyncio.wait([service]),
                self._death_of(mongod),
            )
            self._narrator.chapter("The end", _CURTAIN)

    def _invite(self, mongodb_url: str, http_port: object) -> None:
        mongodb_port = urlsplit(mongodb_url).port
        self._narrator.demo("look at the page", f"http://{_LOCALHOST}:{http_port}/")
        self._narrator.demo("ask the service", f"curl -s http://{_LOCALHOST}:{http_port}/jobs")
        self._narrator.demo("be a writer too", f"mongosh --port {mongodb_port} {_DATABASE}")

    async def _death_of(self, mongod: EmbeddedMongod) -> None:
        code = await mongod.wait()
        self._narrator.demo("MongoDB has ended", "the service is given the time to stop")
        raise ServiceError(f"the embedded mongod ended with exit code {code}")

    async def _close(self, writer: PlainWriter, conductor: str, acts: Acts) -> None:
        """Tell what can be proved, now that nothing moves any more."""
        await acts.look()
        evidence = Evidence(
            rows=await writer.rows(),
            totals=await writer.totals(),
            windows=acts.windows,
            calls=await _calls(conductor),
            reactions_ms=self._narrator.reactions_ms,
        )
        self._narrator.chapter("What the ledger says", _PROOF)
        self._narrator.show(board.closing(facts_of(evidence)))
        self._narrator.chapter("What to try next")
        self._narrator.show(board.suggestions(_SUGGESTIONS))


@asynccontextmanager
async def _serving(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Run the service as `run` does; at the end let it drain. Raises what has ended it."""
    stop = Stop()
    service = asyncio.create_task(serve(settings, stop), name="service")
    try:
        yield service
    finally:
        stop.ask()
        try:
            await asyncio.wait([service])
        finally:
            service.cancel()
    service.result()


async def _first_of(*works: Coroutine[object, None, object]) -> None:
    """Wait until one has ended, and end the others. Raises what that one raises."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


async def _calls(conductor: str) -> Calls:
    async with aiohttp.ClientSession() as session, session.get(f"{conductor}/calls") as response:
        said = await response.json()
    return Calls(said["calls"], said["repeated"])
