"""A reader of the pages, and a running service for what is read."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.reader import Reader, installed_in
from tests.flow.conftest import Start, conductor, db, start

__all__ = ["conductor", "db", "start"]


@pytest.fixture
def offline_reader(tmp_path: Path, replica_set_url: str, database: str) -> Reader:
    """A reader where no service runs."""
    return Reader(tmp_path, replica_set_url, database, path=installed_in(tmp_path))


@pytest.fixture
async def reader(start: Start, tmp_path: Path, replica_set_url: str, database: str) -> Reader:
    """A reader where a service runs, on the reader's database."""
    service = await start()
    port = urlsplit(service.base_url).port
    assert port is not None
    path = installed_in(tmp_path)
    return Reader(tmp_path, replica_set_url, database, http_port=port, path=path)
