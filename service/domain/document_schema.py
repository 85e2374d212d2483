"""What MongoDB itself can check of a document of `agents`, as a `$jsonSchema` validator."""

from typing import Any

from service.domain.config import LONGEST_PROMPT, OUTPUT_FORMATS, CatchUp, Overlap
from service.domain.councilor import LONGEST_AGENT_ID
from service.domain.cron import CRON_PATTERN
from service.domain.interval import INTERVAL_PATTERN

SCHEMA_TITLE = "agents, as councilor-scheduler reads them"
"""Marks a validator as ours."""

_TEXT = {"bsonType": "string"}
_FLAG = {"bsonType": "bool"}
_TEXTS = {"bsonType": "array", "items": _TEXT}


def agents_validator() -> dict[str, Any]:
    """A validator that accepts every valid councilor and every agent that is none.

    It cannot say everything: whether a time zone is known, whether a cron's numbers are in their
    ranges and its days ever come, how dense it is, and what an ISO-8601 text is.
    """
    return {
        "$jsonSchema": {
            "title": SCHEMA_TITLE,
            "anyOf": [_plain_agent(), _councilor()],
        }
    }


def _plain_agent() -> dict[str, Any]:
    return {
        "title": "an agent that is no councilor",
        "properties": {"is_councilor": {"enum": [False, None]}},
    }


def _councilor() -> dict[str, Any]:
    return {
        "title": "a councilor",
        "required": ["agent_id", "is_councilor", "councilor_config"],
        "properties": {
            "agent_id": {**_TEXT, "minLength": 1, "maxLength": LONGEST_AGENT_ID},
            "is_councilor": {"enum": [True]},
            "councilor_config": {
                "bsonType": "object",
                "required": ["schedule", "task"],
                "properties": {
                    "title": _optional(_TEXT),
                    "schedule": _schedule(),
                    "task": _task(),
                    "notifications": _optional(_notifications()),
                },
            },
            "councilor_run_requested_at": _INSTANT,
        },
    }


def _schedule() -> dict[str, Any]:
    return {
        "bsonType": "object",
        "required": ["type", "value"],
        "properties": {
            "enabled": _optional(_FLAG),
            "timezone": _optional(_TEXT),
            "catch_up": {"enum": [*(choice.value for choice in CatchUp), None]},
            "overlap": {"enum": [*(choice.value for choice in Overlap), None]},
            "spread": _optional({**_TEXT, "pattern": INTERVAL_PATTERN}),
            "paused_until": _INSTANT,
            "skip_next": _optional(_FLAG),
        },
        "anyOf": [
            _kind("interval", INTERVAL_PATTERN),
            _kind("cron", CRON_PATTERN),
        ],
    }


def _kind(name: str, pattern: str) -> dict[str, Any]:
    value = {**_TEXT, "pattern": pattern}
    return {"title": name, "properties": {"type": {"enum": [name]}, "value": value}}


def _task() -> dict[str, Any]:
    return {
        "bsonType": "object",
        "required": ["prompt"],
        "properties": {
            "name": _optional(_TEXT),
            "prompt": {**_TEXT, "minLength": 1, "maxLength": LONGEST_PROMPT},
            "context_files": _optional(_TEXTS),
            "output_format": {"enum": [*OUTPUT_FORMATS, None]},
        },
    }


def _notifications() -> dict[str, Any]:
    flags = {name: _optional(_FLAG) for name in ("on_success", "on_warning", "on_error")}
    return {"bsonType": "object", "properties": {**flags, "channels": _optional(_TEXTS)}}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """Null means absent, as the gateway writes it."""
    return {**schema, "bsonType": [schema["bsonType"], "null"]}


_INSTANT = {"bsonType": ["date", "string", "null"]}
