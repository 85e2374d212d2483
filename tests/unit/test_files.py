"""Agent documents in JSON files, as people and programs write them."""

import codecs
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.adapters.mongo.files import UnreadableFile, documents_in
from service.domain.councilor import InvalidCouncilor, SchedulePolicy, parse_councilor
from service.domain.jobs import AgentDocument


def documents_of(path: Path) -> Sequence[tuple[AgentDocument, str]]:
    errors: list[UnreadableFile] = []
    found = documents_in(path, errors.append)
    assert errors == []
    return found


DATES = {
    "plain": ('"2026-11-23T09:00:00Z"', "2026-11-23T09:00:00Z"),
    "extended": ('{"$date": "2026-11-23T09:00:00Z"}', datetime(2026, 11, 23, 9, tzinfo=UTC)),
}


@pytest.mark.parametrize(("written", "read"), DATES.values(), ids=DATES)
def test_dates_are_read(tmp_path: Path, written: str, read: object) -> None:
    file = tmp_path / "a.json"
    file.write_text(f'{{"agent_id": "a", "at": {written}}}')
    ((document, source),) = documents_of(file)
    assert document.fields == {"agent_id": "a", "at": read}
    assert source == "a.json"


def test_a_mark_at_the_beginning_is_no_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + b'[{"agent_id": "a"}]')
    ((document, _),) = documents_of(tmp_path)
    assert document.fields == {"agent_id": "a"}


def test_one_date_out_of_range_hides_no_other_document(tmp_path: Path) -> None:
    at = '{"$date": {"$numberLong": "9999999999999999"}}'
    config = f'{{"schedule": {{"type": "interval", "value": "1h", "paused_until": {at}}}}}'
    bad = f'{{"agent_id": "b", "is_councilor": true, "councilor_config": {config}}}'
    (tmp_path / "a.json").write_text(f'[{{"agent_id": "a"}}, {bad}]')
    (_, _), (document, _) = documents_of(tmp_path)
    reading = parse_councilor(document.fields or {}, SchedulePolicy())
    assert isinstance(reading, InvalidCouncilor)
    assert reading.problem.field == "councilor_config.schedule.paused_until"
    assert "beyond the years" in reading.problem.message


def test_files_of_a_folder_come_by_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/1.json", "a.json", "b/2.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "notes.txt").write_text("{")
    assert [source for _, source in documents_of(tmp_path)] == ["a.json", "b/1.json", "b/2.json"]


UNREADABLE = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"a": "\xff"}',
    "no document": b"[1, 2]",
    "deep": b'{"a":' * 100_000,
    "no decimal": b'{"a": {"$numberDecimal": "abc"}}',
    "no ObjectId": b'{"_id": {"$oid": "xyz"}}',
    "an _id of 30 digits": b'{"_id": ' + b"9" * 30 + b"}",
    "an _id of half a pair": b'{"_id": "\\ud800"}',
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_one_line_that_names_the_file(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "odd.json").write_bytes(content)
    (tmp_path / "good.json").write_text('{"agent_id": "a"}')
    errors: list[UnreadableFile] = []
    ((document, _),) = documents_in(tmp_path, errors.append)
    assert document.fields == {"agent_id": "a"}
    (error,) = errors
    assert "odd.json" in str(error)
    assert len(str(error).splitlines()) == 1


def test_an_agent_id_of_half_a_surrogate_pair_is_none() -> None:
    """JSON may hold one, BSON may not."""
    reading = parse_councilor({"agent_id": "\ud800", "is_councilor": True}, SchedulePolicy())
    assert isinstance(reading, InvalidCouncilor)
    assert reading.problem.field == "agent_id"
    assert reading.problem.message.isprintable()
