"""Connections that are half-open: nothing comes any more, and nothing says so."""

from collections.abc import AsyncIterator
from time import monotonic

import pytest

from tests.faults.keeper import Cluster
from tests.faults.steps import have_jobs, promote, promote_at
from tests.flow.conftest import Database, Start

pytestmark = pytest.mark.mongo
NOTICED_SECONDS = 6.0
"""How long a change may take that is made just when the connections fall silent."""


@pytest.fixture(params=["one member", "three members"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    name = "alone" if request.param == "one member" else "three"
    cluster: Cluster = request.getfixturevalue(name)
    yield cluster
    await cluster.restore()


async def test_a_change_behind_silent_connections_is_in_effect_within_seconds(
    cluster: Cluster, start: Start, db: Database, database: str
) -> None:
    """T11: of reads, writes and the stream, each on connections of its own."""
    await start()
    await promote(db, "before")
    await have_jobs(db, "before")
    assert cluster.go_silent() >= 2
    since = monotonic()
    await promote_at(await cluster.primary(), database, "after")
    await have_jobs(db, "before", "after", within=NOTICED_SECONDS - (monotonic() - since))
