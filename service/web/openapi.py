"""The description of the HTTP interface (https://spec.openapis.org/oas/v3.1.0)."""

from collections.abc import Mapping
from typing import Any

from service import __version__
from service.domain.accounts import Fate
from service.domain.execution import Reason, Status, Trigger
from service.domain.jobs import JobState
from service.domain.severity import Severity
from service.listing import MOST_ITEMS, MOST_RUNS, SORTS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer"}
_DATE: Schema = {"type": "string", "format": "date-time"}
_ANY: Schema = {}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(values: Any) -> Schema:
    return {"type": "string", "enum": [str(value) for value in values]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _object(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_PROBLEM = _object({"field": _TEXT, "message": _TEXT, "hint": _TEXT})
_ITEM: dict[str, Schema] = {
    "agent_id": _TEXT,
    "name": _TEXT,
    "state": _one_of(JobState),
    "schedule": _or_null(_TEXT),
    "timezone": _or_null(_TEXT),
    "explanation": _or_null(_TEXT),
    "next_run_time": _or_null(_DATE),
    "last_execution": _or_null(_DATE),
    "last_severity": _or_null(_one_of(Severity)),
    "success_rate": _or_null({"type": "number"}),
    "error": _or_null(_PROBLEM),
}
_EXECUTION = _object(
    {"execution_id": _TEXT, "councilor_id": _TEXT, "status": _one_of(Status)},
    display_name=_TEXT,
    task_name=_TEXT,
    scheduled_for=_DATE,
    trigger=_one_of(Trigger),
    severity=_or_null(_one_of(Severity)),
    reason=_or_null(_one_of(Reason)),
    started_at=_or_null(_DATE),
    completed_at=_or_null(_DATE),
    created_at=_DATE,
    duration_ms=_or_null(_NUMBER),
    lateness_ms=_or_null(_NUMBER),
    output=_or_null(_TEXT),
    output_truncated={"type": "boolean"},
    error=_or_null(_TEXT),
    attempts=_list(_object({"started_at": _DATE, "error": _or_null(_TEXT)})),
    slots_missed=_NUMBER,
    first_slot=_DATE,
    last_slot=_DATE,
    spec_hash=_or_null(_TEXT),
    owner=_TEXT,
)
_CHECK = _object({"ok": {"type": "boolean"}}, error=_TEXT)
_COUNTS = _object({state.value: _NUMBER for state in JobState})
_PAST = _object({"at": _DATE, **dict.fromkeys(("success", "warning", "error", "not_run"), _NUMBER)})
_FUTURE = _object({"at": _DATE, "starts": _NUMBER, "at_once": _NUMBER})
_SCHEMAS: dict[str, Schema] = {
    "Job": _object(_ITEM, recent=_list(_ref("Execution"))),
    "JobDetail": _object(
        {
            **_ITEM,
            "verdict": _or_null({"type": "object"}),
            "next_runs": _list(_DATE),
            "executions": _list(_ref("Execution")),
        },
        task={"type": "object"},
    ),
    "Execution": _EXECUTION,
    "Why": _object(
        {
            "agent_id": _TEXT,
            "slot": _or_null(_DATE),
            "outcome": _one_of(Fate),
            "reason": _or_null(_TEXT),
            "text": _TEXT,
            "execution": _or_null(_ref("Execution")),
        }
    ),
    "Timeline": _object(
        {
            "now": _DATE,
            "bucket_seconds": _NUMBER,
            "past": _list(_PAST),
            "future": _list(_FUTURE),
            "is_estimate": {"type": "boolean"},
            "run_seconds": {"type": "number"},
            "replicas": _NUMBER,
            "places": _NUMBER,
        }
    ),
    "Health": _object(
        {"status": _one_of(("ok", "degraded")), "jobs": _COUNTS, "overdue": _NUMBER, "at": _DATE},
        checks={"type": "object", "additionalProperties": _CHECK},
    ),
    "Readiness": _object(
        {"status": _one_of(("ok", "degraded", "unavailable"))},
        checks={"type": "object", "additionalProperties": _CHECK},
        failing={"type": "object", "additionalProperties": _CHECK},
    ),
    "Error": _object({"error": _object({"code": _TEXT, "message": _TEXT})}),
}


def _page_of(name: str, **more: Schema) -> Schema:
    return _object({"items": _list(_ref(name)), **more, "next": _or_null(_TEXT)})


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _limit(default: int) -> Schema:
    schema = {**_NUMBER, "minimum": 1, "maximum": MOST_ITEMS, "default": default}
    return _query("limit", schema, "How many items at most.")


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _text(media_type: str, description: str) -> Schema:
    return {"description": description, "content": {media_type: {"schema": _TEXT}}}


def _get(summary: str, answer: Schema, *, parameters: Any = (), errors: Any = (401,)) -> Schema:
    responses = {"200": answer}
    for status in errors:
        responses[str(status)] = _json(_ref("Error"), _ERRORS[status])
    is_open = 401 not in errors
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": responses,
            "security": [] if is_open else [{}, {"token": []}],
        }
    }


_ERRORS = {
    400: "A parameter is wrong; the message names it.",
    401: "SCHEDULER_HTTP_TOKEN is set, and was not sent.",
    404: "There is no such councilor, or execution.",
    503: "MongoDB does not answer.",
}
_ASKED = (400, 401, 404, 503)
_AGENT = _in_path("agent_id")
_AFTER_AGENT = _query("after", _TEXT, "`next` of the page before.")
_PATHS: dict[str, Schema] = {
    "/livez": _get("Alive", _json(_object({"status": _TEXT}), "It is."), errors=()),
    "/readyz": {
        "get": {
            "summary": "Ready: changes are seen and acted upon",
            "responses": {
                "200": _json(_ref("Readiness"), "It is."),
                "503": _json(_ref("Readiness"), "It is not; `failing` says why."),
            },
            "security": [],
        }
    },
    "/healthz": _get("What is known of this replica", _json(_ref("Health"), "All."), errors=()),
    "/metrics": _get("Metrics", _text("text/plain", "In Prometheus' text format."), errors=()),
    "/jobs": _get(
        "Councilors, paused and invalid ones too",
        _json(_page_of("Job", total=_NUMBER), "A page."),
        parameters=(
            _limit(100),
            _AFTER_AGENT,
            _query("state", _one_of(JobState), "Only those in this state."),
            _query("severity", _one_of(Severity), "Only those whose latest run ended so."),
            _query("q", _TEXT, "Only those whose agent_id or name contains this."),
            _query("sort", _one_of(SORTS), "The order."),
            _query("runs", {**_NUMBER, "maximum": MOST_RUNS}, "Show so many rows as `recent`."),
        ),
        errors=(400, 401, 503),
    ),
    "/jobs/{agent_id}": _get(
        "A councilor with its verdict, next runs and recent executions",
        _json(_ref("JobDetail"), "The councilor."),
        parameters=(
            _AGENT,
            _query("prompt", _one_of(("true", "false")), "Show the task, with its prompt."),
        ),
        errors=_ASKED,
    ),
    "/jobs/{agent_id}/executions": _get(
        "What became of its slots, latest first",
        _json(_page_of("Execution"), "A page; of long texts only the beginning."),
        parameters=(
            _AGENT,
            _limit(50),
            _query("after", _TEXT, "`next` of the page before."),
            _query("status", _one_of(Status), "Only these."),
            _query("severity", _one_of(Severity), "Only these."),
        ),
        errors=_ASKED,
    ),
    "/jobs/{agent_id}/executions/{execution_id}": _get(
        "One execution, with all of its output",
        _json(_ref("Execution"), "The row of the ledger."),
        parameters=(_AGENT, _in_path("execution_id")),
        errors=_ASKED,
    ),
    "/jobs/{agent_id}/why": _get(
        "What became of the slot at or before an instant, and why",
        _json(_ref("Why"), "The explanation."),
        parameters=(_AGENT, _query("at", _DATE, "The instant; now where it is not given.")),
        errors=_ASKED,
    ),
    "/timeline": _get(
        "What has run in the last twelve hours, and what will in the next",
        _json(_ref("Timeline"), "Buckets of a quarter of an hour."),
        errors=(400, 401, 503),
    ),
    "/events": _get(
        "What happens: councilor_started, councilor_completed, councilor_error, councilor_skipped, "
        "councilor_notification, job_changed, events_lost",
        _text("text/event-stream", "Server-sent events; `data` is one JSON object."),
        parameters=(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "schema": _TEXT,
                "description": "Go on after this event, whichever replica told it.",
            },
        ),
        errors=(400, 401, 503),
    ),
    "/": _get("The dashboard", _text("text/html", "The page.")),
    "/openapi.json": _get("This", _json(_ANY, "This document."), errors=(400, 401)),
}
OPENAPI: Schema = {
    "openapi": "3.1.0",
    "info": {
        "title": "councilor-scheduler",
        "version": __version__,
        "description": "Read-only: councilors are changed by updating their documents in MongoDB.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "paths": _PATHS,
    "components": {
        "schemas": _SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}
