"""Documents of `agents` as bytes: cut out of replies, recognized, and read."""

import hashlib
import struct
from collections.abc import Iterator
from functools import partial

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from service.adapters.mongo.keys import LENIENT, key_in, key_of
from service.domain.jobs import AgentDocument, Listed

STRICT: CodecOptions[dict[str, object]] = CodecOptions(document_class=dict, tz_aware=True)
# Raw, so that one document that cannot be decoded does not hide others (FAULTS 0.6).
RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_WIDE: CodecOptions[dict[str, object]] = CodecOptions(
    document_class=dict, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_LENGTH = struct.Struct("<i")
_DIGEST_BYTES = 12


def documents_in(batch: bytes) -> Iterator[bytes]:
    """The documents of a raw batch, one after the other."""
    start = 0
    while start < len(batch):
        (length,) = _LENGTH.unpack_from(batch, start)
        yield batch[start : start + length]
        start += length


def listed(raw: bytes, seal: bytes) -> Listed:
    """A document that is not looked into: its key, and a digest of all that is judged."""
    return Listed(key_in(raw), _digest_of(raw, seal), partial(document_of, raw, seal))


def _digest_of(raw: bytes, seal: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_DIGEST_BYTES, key=seal).digest()


def document_of(raw: bytes, seal: bytes | None = None) -> AgentDocument:
    """Read a document, whatever it holds. Another `seal` makes another digest, none makes none."""
    damage = None
    try:
        fields = bson.decode(raw, STRICT)
    except InvalidBSON:
        fields, damage = _decoded_despite(raw)
    revision = None if damage else raw
    digest = None if damage or seal is None else _digest_of(raw, seal)
    return AgentDocument(key_of(fields["_id"]), fields, revision, damage, digest)


def _decoded_despite(raw: bytes) -> tuple[dict[str, object], str | None]:
    """Dates beyond the year 9999 are no damage; bytes that are not UTF-8 are."""
    try:
        return bson.decode(raw, _WIDE), None
    except InvalidBSON as error:
        return dict(bson.decode(raw, LENIENT)), str(error)[:200]
