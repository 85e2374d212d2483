"""What Conductor is sent, and what its answers mean."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.adapters.conductor import Dialect, answer_of, request_for
from service.domain.councilor import Task
from service.domain.execution import Order, Reason
from service.ports import Answer

ORDER = Order(
    execution_id="exec_agent_1_1795435200000",
    agent_id="agent_1",
    agent_name="Ada",
    task=Task("Audit", "Look", (), "checklist"),
    scheduled_for=datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    cwd=None,
    ai_provider=None,
    timeout=timedelta(minutes=30),
    ends_at=datetime(2026, 11, 23, 12, 30, tzinfo=UTC),
    retry_until=datetime(2026, 11, 23, 12, 30, tzinfo=UTC),
    config={"title": "Chief"},
)
FULL_TASK = Task("Audit", "Look", ("a.py", "b.py"), "summary")
FULL = replace(ORDER, task=FULL_TASK, cwd="/repo", ai_provider="claude")
BASE = "http://conductor:8000"
TO_CONDUCTOR: dict[str, object] = {
    "agent_id": "agent_1",
    "agent_name": "agent_1",
    "input_text": "Look",
    "prompt": "Look",
    "instance_id": "councilor_agent_1_1795435200000",
    "context_mode": "stateless",
    "timeout": 1800,
    "output_format": "checklist",
}
EVERYTHING = TO_CONDUCTOR | {
    "cwd": "/repo",
    "ai_provider": "claude",
    "context_files": ["a.py", "b.py"],
    "output_format": "summary",
}
TO_AGENTS: dict[str, object] = {
    "user_input": "Look",
    "cwd": None,
    "task_id": hashlib.sha256(b"exec_agent_1_1795435200000").hexdigest()[:24],
    "timeout": 1800,
    "instance_id": "councilor_agent_1_1795435200000",
    "context_mode": "stateless",
    "wait_for_result": True,
    "is_councilor_execution": True,
    "councilor_config": {"title": "Chief"},
}
CONDUCTOR, AGENTS = Dialect.CONDUCTOR, Dialect.AGENTS
PATHS = {CONDUCTOR: "/conductor/execute", AGENTS: "/agents/agent_1/execute"}
REQUESTS = {
    "conductor": (CONDUCTOR, ORDER, None, TO_CONDUCTOR),
    "conductor, the service's cwd": (CONDUCTOR, ORDER, "/srv", TO_CONDUCTOR | {"cwd": "/srv"}),
    "conductor, everything": (CONDUCTOR, FULL, "/srv", EVERYTHING),
    "agents": (AGENTS, ORDER, None, TO_AGENTS),
    "agents, everything": (
        AGENTS,
        FULL,
        "/srv",
        TO_AGENTS | {"cwd": "/repo", "provider": "claude"},
    ),
}


@pytest.mark.parametrize(("dialect", "order", "cwd", "body"), REQUESTS.values(), ids=REQUESTS)
def test_request(dialect: Dialect, order: Order, cwd: str | None, body: dict[str, object]) -> None:
    request = request_for(order, BASE, dialect, cwd)
    assert str(request.url) == BASE + PATHS[dialect]
    assert request.body == body
    assert request.headers == {
        "Content-Type": "application/json",
        "Idempotency-Key": "exec_agent_1_1795435200000",
        "X-Councilor-Scheduled-For": "2026-11-23T12:00:00+00:00",
    }


SEGMENTS = {
    "slashes": ("a/../b", "a%2F..%2Fb"),
    "parent folder": ("..", "%2E%2E"),
    "this folder": (".", "%2E"),
    "emoji": ("🔍 é", "%F0%9F%94%8D%20%C3%A9"),
    "line break": ("a\r\nX-Evil: 1", "a%0D%0AX-Evil%3A%201"),
    "query and fragment": ("a?b#c%2F", "a%3Fb%23c%252F"),
}


@pytest.mark.parametrize(("agent_id", "segment"), SEGMENTS.values(), ids=SEGMENTS)
def test_agent_id_of_any_kind_stays_one_segment(agent_id: str, segment: str) -> None:
    order = replace(ORDER, agent_id=agent_id, execution_id=f"exec_{agent_id}_1")
    request = request_for(order, BASE, AGENTS, None)
    assert str(request.url) == f"{BASE}/agents/{segment}/execute"
    assert request.headers["Idempotency-Key"].isascii()
    assert request.headers["Idempotency-Key"].isprintable()
    assert request.body["instance_id"] == f"councilor_{agent_id}_1795435200000"


def answered(body: object, status: int = 200) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answer_of(status, "application/json", raw)


WHOLE = {"status": "success", "result": {"findings": 0}, "returncode": 0}
OUTPUTS: dict[str, tuple[object, str]] = {
    "result": ({"status": "completed", "result": "fine", "exit_code": 0}, "fine"),
    "stdout": ({"status": "success", "returncode": 0, "stdout": "fine", "stderr": "x"}, "fine"),
    "output before stdout": ({"output": "fine", "stdout": "x"}, "fine"),
    "an empty text is a text": ({"result": "", "stdout": "x"}, ""),
    "the first that is text": ({"result": None, "output": 7, "stdout": "fine"}, "fine"),
    "no text: the whole answer": (WHOLE, json.dumps(WHOLE)),
    "status in any case": ({"status": "COMPLETED", "result": "fine"}, "fine"),
    "nulls say nothing": ({"status": None, "exit_code": None, "result": "fine"}, "fine"),
    "zero of any type": ({"result": "fine", "exit_code": "0", "returncode": 0.0}, "fine"),
    "an object that is empty": ({}, "{}"),
    "a list": (["fine"], '["fine"]'),
    "a text": ("fine", '"fine"'),
    "null": (None, "null"),
}


@pytest.mark.parametrize(("body", "output"), OUTPUTS.values(), ids=OUTPUTS)
def test_output_of_a_run_that_did_not_fail(body: object, output: str) -> None:
    assert answered(body) == Answer(output=output)


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "status error": ({"status": "error", "error": "no key"}, "status error: no key"),
    "any other status": ({"status": "timeout"}, "status timeout"),
    "what it wrote says why": ({"status": "error", "result": "boom"}, "status error: boom"),
    "status of a wrong type": ({"status": ["completed"]}, "status ['completed']"),
    "exit code beats status": (
        {"status": "completed", "exit_code": 1, "stderr": "trace"},
        "exit code 1: trace",
    ),
    "returncode": ({"exit_code": 0, "returncode": -9}, "exit code -9"),
    "exit code as text": ({"exit_code": "2", "stdout": "out"}, "exit code 2: out"),
    "exit code of a wrong type": ({"exit_code": True}, "exit code True"),
    "error object": ({"status": "error", "error": {"message": "quota"}}, "status error: quota"),
    "detail": ({"status": "error", "error": " ", "detail": "why"}, "status error: why"),
}


@pytest.mark.parametrize(("body", "message"), FAILURES.values(), ids=FAILURES)
def test_failed_run_that_comes_as_http_200(body: dict[str, Any], message: str) -> None:
    answer = answered(body)
    assert answer.failure is not None
    assert (answer.failure.reason, answer.failure.text) == (Reason.FAILED, message)
    assert answer.output == body.get("result", body.get("stdout", json.dumps(body)))


REJECTED, UNAVAILABLE = Reason.CONDUCTOR_REJECTED, Reason.CONDUCTOR_UNAVAILABLE
NO_ANSWERS = {
    "bad request": (400, {"detail": "bad"}, REJECTED, "HTTP 400: bad"),
    "a status that lies": (404, {"status": "completed"}, REJECTED, "HTTP 404"),
    "repeated task_id": (409, {"error": "seen"}, REJECTED, "HTTP 409: seen"),
    "detail of FastAPI": (422, {"detail": [{"loc": 1}]}, REJECTED, '"loc"'),
    "too many requests": (429, b"", UNAVAILABLE, "HTTP 429"),
    "crash": (500, b"Internal Server Error", REJECTED, "HTTP 500: Internal"),
    "bad gateway": (502, b"<html>Bad Gateway", UNAVAILABLE, "HTTP 502: <html>"),
    "unavailable": (503, {"message": "busy"}, UNAVAILABLE, "HTTP 503: busy"),
    "gateway timeout": (504, b"", UNAVAILABLE, "HTTP 504"),
    "redirect": (302, b"", REJECTED, "HTTP 302"),
    "login page": (200, b"<html>Login</html>", REJECTED, "not JSON"),
    "nothing": (200, b"", REJECTED, "not JSON but nothing"),
    "no content": (204, b" \n", REJECTED, "not JSON but nothing"),
    "cut off": (200, b'{"result": "cut of', REJECTED, "not JSON"),
    "not UTF-8": (200, b"\xff\xfe", REJECTED, "not JSON"),
    "too deep": (200, b"[" * 5_000, REJECTED, "not JSON"),
    "huge": (200, b" " * (32 * 2**20 + 1), REJECTED, "larger than"),
    "huge error": (500, b"x" * 99_999, REJECTED, "HTTP 500: xxx"),
}


@pytest.mark.parametrize(
    ("status", "body", "reason", "message"), NO_ANSWERS.values(), ids=NO_ANSWERS
)
def test_answer_that_is_none(status: int, body: object, reason: Reason, message: str) -> None:
    answer = answered(body, status)
    assert answer.failure is not None
    assert answer.failure.reason is reason
    assert message in answer.failure.text
    assert len(answer.failure.text) < 2_100
    assert answer.output is None
