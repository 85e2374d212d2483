"""Documents of `agents` as bytes: their keys, where they end, and what they say."""

from datetime import UTC, datetime
from random import Random
from typing import Any

import bson
import pytest
from bson import DatetimeMS, Int64, ObjectId

from service.adapters.mongo.documents import document_of, documents_in, listed
from service.adapters.mongo.keys import key_in, key_of
from tests.contract.test_agents import councilor
from tests.documents import damaged
from tests.fakes import NOON

_LATE = 2**52
IDS = {
    "ObjectId": ObjectId("0123456789abcdef01234567"),
    "a number": 7,
    "a long number": Int64(2**40),
    "a float": -1.5,
    "a text": "scout",
    "a document": {"a": 1},
    "a date": NOON,
    "nothing": None,
    "true": True,
    "bytes": b"\0\xff",
}


@pytest.mark.parametrize("document_id", IDS.values(), ids=IDS)
def test_the_key_in_a_document_is_the_key_of_its_id(document_id: object) -> None:
    raw = bson.encode({"_id": document_id, **councilor()})
    assert key_in(raw) == key_of(document_id)
    assert listed(raw, b"").key == document_of(raw).key == key_of(document_id)


def test_keys_of_object_ids_are_the_same_whatever_their_bytes() -> None:
    random = Random(1)
    ids = [ObjectId(random.randbytes(12)) for _ in range(200)]
    ids += [ObjectId(b"\0" * 12), ObjectId(b"%b%s%%\xff\x00\x07_id")]
    assert [key_in(bson.encode({"_id": one, "a": 1})) for one in ids] == list(map(key_of, ids))


def test_a_batch_is_cut_where_its_documents_end() -> None:
    raws = [bson.encode({"_id": n, "text": "x" * n, "inner": {"_id": n}}) for n in range(300)]
    assert list(documents_in(b"".join(raws))) == raws
    assert list(documents_in(b"")) == []


@pytest.mark.parametrize("said", [_LATE, -_LATE], ids=["after 9999", "before 1"])
def test_a_date_that_python_has_not_is_no_damage(said: int) -> None:
    raw = bson.encode({"_id": 1, **councilor(), "councilor_run_requested_at": DatetimeMS(said)})
    document = document_of(raw, b"")
    assert document.fields is not None
    assert document.fields["councilor_run_requested_at"] == DatetimeMS(said)
    assert (document.damage, document.revision) == (None, raw)
    assert document.digest == listed(raw, b"").digest


def test_texts_that_are_no_utf8_are_damage_and_hide_nothing_else() -> None:
    fields = {"_id": 1, **councilor(), "councilor_run_requested_at": NOON}
    raw = bytes(damaged(fields).raw)
    document = document_of(raw, b"")
    assert document.fields is not None
    assert document.fields["agent_id"] == "scout"
    assert document.fields["councilor_run_requested_at"] == NOON
    assert "utf-8" in (document.damage or "")
    assert (document.revision, document.digest) == (None, None)
    assert listed(raw, b"").key == key_of(1)


def test_what_is_listed_reads_as_what_is_read() -> None:
    raw = bson.encode({"_id": 1, **councilor(since=datetime(2026, 1, 1, tzinfo=UTC))})
    one = listed(raw, b"seal")
    assert one.read() == document_of(raw, b"seal")
    assert one.digest == one.read().digest


def test_digests_are_the_same_for_equal_documents_judged_by_the_same_rules_alone() -> None:
    def digest(seal: bytes, **fields: Any) -> bytes:
        return listed(bson.encode({"_id": 1, **councilor(**fields)}), seal).digest

    same = digest(b"")
    assert digest(b"") == same
    others = {digest(b"", value="31m"), digest(b"", councilor_status={}), digest(b"another seal")}
    assert len(others | {same}) == 4
