"""The connection: client options, what kind of deployment answers, and what its errors mean."""

import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

# Motor reads this once, when it is imported; its default of 5 per core starves: the change stream
# parks one thread for good, and long lists hold others (FAULTS 0.10).
os.environ.setdefault("MOTOR_MAX_WORKERS", "32")

from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import MongoClient
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WriteError,
)
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from service.adapters.mongo.urls import source_in
from service.ports import Misconfigured, Refused, ServiceError, Unavailable

Client = AsyncIOMotorClient[dict[str, Any]]

_OPTIONS: dict[str, Any] = {
    "appname": "councilor",
    # A frozen primary or a half-open connection is noticed in 4 to 6 s, not 28 (FAULTS 0.9). Longer
    # than the second that a change stream waits on the server, and than any write concern timeout.
    "sockettimeoutms": 5_000,
    "connecttimeoutms": 4_000,
    "serverselectiontimeoutms": 8_000,
    "heartbeatfrequencyms": 3_000,
    # What a busy time leaves behind: one that has fallen silent meanwhile costs 5 s to notice.
    "maxidletimems": 10_000,
    "retryreads": True,
    # Runs are tried again by us, who know what may be: the driver's way costs the server one more
    # write for each, to `config.transactions`.
    "retrywrites": False,
    "w": "majority",
}
_WAITS = ("sockettimeoutms", "connecttimeoutms", "serverselectiontimeoutms")
DURABLE = WriteConcern("majority", wtimeout=4_000, j=True)
"""Named here and not left to defaults, which are `w: 1` with an arbiter (FAULTS 0.7). The server
waits for the majority for less than the socket timeout, which would close all connections."""

_PROBE_MS = 1_000
_LONGEST = 200
_UNAUTHORIZED = 13
_TOO_LARGE = {10334, 17419, 17420}  # BSONObjectTooLarge, and what updates say of it
_NO_LOGIN = {18, 8000}  # AuthenticationFailed, AtlasError
_REFUSED = re.compile(r'not authorized on (\S+) to execute command \{ (\w+): (?:"([^"]*)"|\S+)')
_ACTIONS = {
    "aggregate": "find",
    "collMod": "collMod",
    "createIndexes": "createIndex",
    "delete": "remove",
    "distinct": "find",
    "dropIndexes": "dropIndex",
    "find": "find",
    "insert": "insert",
    "listIndexes": "listIndexes",
    "update": "update or insert",
}
"""The right that each of our commands takes; an update may insert."""
_NOT_ACCEPTED = re.compile(r"certificate verify failed: (.*?) \(_ssl")
_WRONG_BY_TIME = ("expired", "not yet valid")
_HUNG_UP = re.compile("connection closed|EOF occurred|reset by peer|WRONG_VERSION|alert", re.I)
_WRONG_FILES = "MONGODB_URL: tlsCAFile or tlsCertificateKeyFile cannot be used"
_REFUSES_LOGIN = (
    "MONGODB_URL: MongoDB refuses the user name or the password (authentication failed)"
)
_ANOTHER_SOURCE = "where the user belongs to another database, name that one"
_ROLE = "the role that scripts/mongo-role.js makes"
WAYS_OUT = f"grant the user readWrite on the database, or {_ROLE}"


@asynccontextmanager
async def connected(
    url: str, *, retries_writes: bool = False, patience: timedelta | None = None
) -> AsyncIterator[Client]:
    """A client that connects when it is first used. What the URL says wins over our options.

    But not over `patience`: longer it waits for no server. Raises Misconfigured where a file that
    the URL names holds no certificate, or no key, that can be used.
    """
    said = parse_uri(url, warn=False)
    chosen = {name.lower() for name in said["options"]}
    options = {**_OPTIONS, "retrywrites": retries_writes}
    waits = {} if patience is None else dict.fromkeys(_WAITS, int(patience.total_seconds() * 1e3))
    kept = {name: value for name, value in options.items() if name not in chosen}
    try:
        client: Client = AsyncIOMotorClient(url, tz_aware=True, **kept | waits)
    except (ConfigurationError, OSError) as error:
        raise Misconfigured(f"{_WRONG_FILES}: {error}") from error
    try:
        yield client
    except _NotLoggedIn as error:
        source = source_in(said)
        raise Misconfigured(f"{error} in authSource={source}; {_ANOTHER_SOURCE}") from error
    finally:
        client.close()


class _NotLoggedIn(Misconfigured):
    """Nobody has this name and this password there."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into those of the ports."""
    try:
        yield
    except PyMongoError as error:
        raise translation_of(error) from error
    except BSONError as error:  # a document that is too large, say, before it is sent
        raise Refused(f"{type(error).__name__}: the driver refuses this write") from error


def translation_of(error: PyMongoError) -> ServiceError:
    """What a caller must do about an error of the driver. Never shows a document or a secret."""
    code = error.code if isinstance(error, OperationFailure) else None
    text = f"{type(error).__name__} {code}" if code else type(error).__name__
    if code == _UNAUTHORIZED:
        lacking = _lacking(str(error))
        # The one right of ours that readWrite has not.
        ways_out = f"grant the user {_ROLE}" if "collMod" in lacking else WAYS_OUT
        return Misconfigured(f"MONGODB_URL: {lacking}; {ways_out}")
    if code in _NO_LOGIN:
        return _NotLoggedIn(_REFUSES_LOGIN)
    is_refused = isinstance(error, BulkWriteError | WriteError) or code in _TOO_LARGE
    if is_refused and not isinstance(error, WriteConcernError):
        return Refused(f"{text}: the server refuses this write")
    return Unavailable(f"{text}: {_first_line(error)}")


def _lacking(said: str) -> str:
    """The right that a command was refused for; the command where that tells no right.

    The server names only the command, and of one that goes on with a cursor nothing at all. No
    more is shown of what it says: it may hold a document.
    """
    refused = _REFUSED.match(said)
    if refused is None:
        return "MongoDB refuses a command that is needed"
    database, command, name = refused.groups()
    space = f"{database}.{name}" if name is not None else f"the whole of {database}"
    action = _ACTIONS.get(command)
    if command == "aggregate" and "$changeStream" in said:
        action = "changeStream or find"
    return f"the user lacks {action or f'what {command} needs'} on {space}"


def _first_line(error: PyMongoError) -> str:
    return re.split(r", full error:|, Timeout:| \(configured timeouts:", str(error))[0][:_LONGEST]


async def require_replica_set(client: Client, url: str) -> None:
    """Return when a primary answers that can serve change streams; `url` is the client's.

    Raises Unavailable while nothing usable answers, Misconfigured where waiting will not help.
    """
    try:
        with translated():
            hello = await client.admin.command("hello")
            # `hello` needs no rights: this is the first command to tell a wrong password.
            await client.admin.command("ping", session=None)
    except Unavailable:
        await _explain_silence(client, url)
        raise  # nothing more is known
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise Misconfigured(_STANDALONE)


_STANDALONE = (
    "MONGODB_URL: a standalone server has no change streams; start mongod with --replSet rs0 and "
    "run rs.initiate() once, or point MONGODB_URL at a replica set"
)


async def _explain_silence(client: Client, url: str) -> None:
    """Look why no primary was found: a standalone behind `replicaSet=` would be waited for."""
    wanted = client.delegate.options.replica_set_name
    said = parse_uri(url, warn=False)
    tls = {name: value for name, value in said["options"].items() if name.startswith("tls")}
    silent: list[ServiceError] = []
    for host, port in said["nodelist"]:
        found = await client.get_io_loop().run_in_executor(None, _hello_of, host, port, tls)
        if isinstance(found, PyMongoError):
            silent.append(_trouble_of(f"{host}:{port}", found, tls))
            continue
        if found.get("msg") == "isdbgrid":
            continue
        if found.get("isreplicaset") and "setName" not in found:
            raise Unavailable(f"{host}:{port} waits for its replica set: run rs.initiate() once")
        if "setName" not in found:
            raise Misconfigured(_STANDALONE)
        if wanted and found["setName"] != wanted:
            raise Misconfigured(
                f'MONGODB_URL: the replica set at {host}:{port} is called "{found["setName"]}", '
                f'not "{wanted}"; correct replicaSet='
            )
    if len(silent) == len(said["nodelist"]):
        # One that is merely away may be well when it is back: then it is worth waiting for.
        raise next((one for one in silent if isinstance(one, Unavailable)), silent[0])


def _hello_of(host: str, port: int | None, tls: Mapping[str, Any]) -> dict[str, Any] | PyMongoError:
    """Ask one server, whatever it is, who it is, or why it does not say."""
    try:
        probe: MongoClient[dict[str, Any]] = MongoClient(
            host,
            port,
            directConnection=True,
            serverSelectionTimeoutMS=_PROBE_MS,
            connectTimeoutMS=_PROBE_MS,
            **tls,
        )
        with probe:
            return probe.admin.command("hello")
    except PyMongoError as error:
        return error


def _trouble_of(address: str, error: PyMongoError, tls: Mapping[str, Any]) -> ServiceError:
    """What a silence means. Whoever wants TLS, or a certificate, hangs up without a word."""
    if (refusal := _NOT_ACCEPTED.search(str(error))) is not None:
        text = f"MONGODB_URL: the certificate of {address} is not accepted: {refusal[1]}"
        if any(why in refusal[1] for why in _WRONG_BY_TIME):  # others mend that, and it is seen
            return Unavailable(text)
        return Misconfigured(f"{text}; tlsCAFile= names who may sign it, its own names must match")
    if not tls.get("tls"):
        hint = "one that wants TLS does so: add tls=true&tlsCAFile=…"
    elif "tlsCertificateKeyFile" in tls:
        hint = "one without TLS does so, or that does not know the certificate of its client"
    else:
        hint = "one without TLS does so, or that wants a certificate: add tlsCertificateKeyFile=…"
    if _HUNG_UP.search(_first_line(error)) is not None:
        return Unavailable(f"{address} hangs up; {hint}")
    return Unavailable(_first_line(error))
