"""Agent documents in JSON files, plain or MongoDB Extended JSON."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bson import json_util
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError
from bson.objectid import ObjectId

from service.adapters.mongo.keys import key_of
from service.domain.jobs import AgentDocument
from service.ports import ServiceError


class UnreadableFile(ServiceError):
    """A file is not there, or does not hold documents."""


def documents_in(
    path: Path, unreadable: Callable[[UnreadableFile], None]
) -> Sequence[tuple[AgentDocument, str]]:
    """The documents in a file, or in a folder's JSON files by name; each with its file's name.

    A file holds one document, or a list of them. `unreadable` is told of those that do not.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        unreadable(UnreadableFile(f"{path}: no JSON files in this folder"))
    found: list[tuple[AgentDocument, str]] = []
    for file in files:
        name = str(file.relative_to(path)) if path.is_dir() else path.name
        try:
            found += [(document, name) for document in _documents_in(file)]
        except UnreadableFile as error:
            unreadable(error)
    return found


def _documents_in(path: Path) -> Sequence[AgentDocument]:
    try:
        content = json_util.loads(
            path.read_text(encoding="utf-8-sig"),
            json_options=json_util.JSONOptions(
                tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
            ),
        )
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, ArithmeticError, RecursionError, BSONError) as error:
        raise UnreadableFile(f"{path}: not JSON: {str(error) or type(error).__name__}") from error
    documents = content if isinstance(content, list) else [content]
    if not all(isinstance(document, dict) for document in documents):
        raise UnreadableFile(f"{path}: holds neither a document nor a list of documents")
    try:
        return [
            AgentDocument(key_of(document.get("_id", ObjectId())), document)
            for document in documents
        ]
    except (ValueError, ArithmeticError, BSONError) as error:
        raise UnreadableFile(f"{path}: an _id that MongoDB cannot hold: {error}") from error
