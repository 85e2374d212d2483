"""Document keys: an `_id` as bytes that can be compared, hashed and turned back."""

import struct
from collections.abc import Mapping
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.objectid import ObjectId

from service.domain.councilor import DocumentKey

LENIENT: CodecOptions[Mapping[str, Any]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
"""Reads what strict decoding refuses: bytes that are not UTF-8, dates beyond the year 9999."""

_TAIL = struct.Struct(">I")
_TYPE, _OBJECT_ID = 4, 9
"""Where the type of the first field is, after the length, and its value, where that is `_id`."""
_OBJECT_ID_ORDER = b"\x35"
_KEY_OF_OBJECT_ID = _OBJECT_ID_ORDER + b"%b\x16\x00\x00\x00\x07_id\x00%b\x00\x00\x00\x00\x0d"


def key_of(document_id: Any) -> DocumentKey:
    """The key of an `_id`; keys of numbers, texts and ObjectIds compare as MongoDB compares ids."""
    if type(document_id) is ObjectId:  # as nearly always
        return DocumentKey(_KEY_OF_OBJECT_ID % (document_id.binary, document_id.binary))
    order = _order_of(document_id)
    return DocumentKey(order + bson.encode({"_id": document_id}) + _TAIL.pack(len(order)))


def key_in(raw: bytes) -> DocumentKey:
    """The key of an encoded document, whose `_id` is its first field, as a server sends it."""
    if raw[_TYPE:_OBJECT_ID] == b"\x07_id\x00":  # an ObjectId, as nearly always
        object_id = raw[_OBJECT_ID : _OBJECT_ID + 12]
        return DocumentKey(_KEY_OF_OBJECT_ID % (object_id, object_id))
    return key_of(bson.decode(raw, LENIENT)["_id"])


def id_of(key: DocumentKey) -> Any:
    """The `_id` that `key_of` was given."""
    if key[:1] == _OBJECT_ID_ORDER:
        return ObjectId(key[1:13])
    (length,) = _TAIL.unpack(key[-_TAIL.size :])
    fields: Mapping[str, Any] = bson.decode(key[length : -_TAIL.size], LENIENT)
    return fields["_id"]


def _order_of(document_id: Any) -> bytes:
    """Bytes that sort as https://www.mongodb.com/docs/manual/reference/bson-type-comparison-order.

    A type byte, then the value where its order is cheap to keep; other types order by their BSON.
    """
    match document_id:
        case bool():
            return b"\x40"
        case int() | float():
            (bits,) = struct.unpack(">Q", struct.pack(">d", document_id))
            flipped = bits ^ (0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 0x8000_0000_0000_0000)
            return b"\x10" + struct.pack(">Q", flipped)
        case str():
            return b"\x15" + document_id.encode("utf-8", "surrogatepass")
        case Mapping():
            return b"\x20"
        case ObjectId():
            return _OBJECT_ID_ORDER + document_id.binary
        case _:
            return b"\x50"
