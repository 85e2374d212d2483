"""What a benchmark runs on: a replica set of its own, a Conductor, and the service."""

import http.client
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from service.adapters.embedded import embedded_mongod
from service.adapters.mongo.replica_set import initiate
from tests.bench.instances import Instance, serving, standing_in
from tests.keeping import kept

Document = dict[str, Any]
_MAJORITY = WriteConcern("majority", j=True)
# The embedded server is small; a production one is not. The oplog has the smallest default size.
_CACHE = "cache_size=2G"
_OPLOG_MB = 990.0


class Deployment:
    """MongoDB and Conductor; services are started on databases of it."""

    def __init__(self, folder: Path, url: str, mongod_pid: int, conductor_port: int) -> None:
        self.mongod_pid = mongod_pid
        self._folder = folder
        self._url = url
        self._conductor_port = conductor_port
        self._client: MongoClient[Document] = MongoClient(url, tz_aware=True)
        self._databases = 0
        self._logs = 0

    def __enter__(self) -> "Deployment":
        self._client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=_CACHE)
        self._client.admin.command("replSetResizeOplog", 1, size=_OPLOG_MB)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def database(self) -> Database[Document]:
        """An empty database; the ones before are dropped. What is acknowledged, a majority has."""
        for name in self._client.list_database_names():
            if name.startswith("bench_"):
                self._client.drop_database(name)
        self._databases += 1
        return self._client.get_database(f"bench_{self._databases}", write_concern=_MAJORITY)

    def serving(
        self,
        database: Database[Document],
        chosen: Mapping[str, str] | None = None,
        *,
        is_watched: bool = True,
    ) -> AbstractContextManager[Instance]:
        """Run the service on a database, with these settings."""
        self._logs += 1
        settings = {
            "MONGODB_URL": self._url,
            "MONGODB_DATABASE": database.name,
            "CONDUCTOR_API_URL": f"http://127.0.0.1:{self._conductor_port}",
            "SCHEDULER_HTTP_PORT": "0",
            "SCHEDULER_LOG_FORMAT": "json",
            **(chosen or {}),
        }
        return serving(settings, self._folder / f"service-{self._logs}.log", is_watched=is_watched)

    def forget_calls(self, *, latency_ms: int = 0) -> None:
        """Let Conductor begin anew, and answer after this long."""
        self._conductor("POST", f"/__reset/{latency_ms}")

    def calls(self) -> dict[str, float]:
        """What came to Conductor since then: `calls`, and `duplicates` among them."""
        said: dict[str, float] = orjson.loads(self._conductor("GET", "/__calls"))
        return said

    def _conductor(self, method: str, path: str) -> bytes:
        port = self._conductor_port
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request(method, path)
            return connection.getresponse().read()


@contextmanager
def deployed() -> Iterator[Deployment]:
    """Start it all in a folder that is gone at the end."""
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        mongod = embedded_mongod(data_dir=folder, environ=os.environ, initiate=initiate)
        with (
            kept(mongod, "mongod of the benchmark") as (running, _),
            standing_in() as port,
            Deployment(folder, running.url, running.process.pid, port) as deployment,
        ):
            yield deployment
