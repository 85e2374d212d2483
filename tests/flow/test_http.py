"""The HTTP interface: who may ask what, and what is never said."""

from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from service.app import wall_clock
from service.listing import Sort
from service.web.openapi import OPENAPI
from tests.flow.conftest import Database, Service, Start, TestConductor, config, rows_of
from tests.steps import eventually

pytestmark = pytest.mark.mongo

PROMPT = "exit the quick brown secret"
BEARER = {"Authorization": "Bearer open sesame"}
PATHS = (
    *("/jobs", "/jobs/scout", "/jobs/scout/executions", "/jobs/scout/why", "/timeline"),
    *("/openapi.json", "/events", "/", "/nowhere", "/jobs/scout/executions/x"),
)


async def promote(db: Database, agent_id: str = "scout", value: str = "1h", **how: Any) -> None:
    agent = {"agent_id": agent_id, "is_councilor": True, "councilor_config": config(value, **how)}
    await db["agents"].insert_one(agent)


async def has_run(db: Database, count: int = 1) -> list[dict[str, Any]] | None:
    rows = [row for row in await rows_of(db, "scout") if row["completed_at"] is not None]
    return rows if len(rows) >= count else None


async def test_all_but_probes_and_metrics_want_the_token(start: Start, db: Database) -> None:
    service = await start(scheduler_http_token=SecretStr("open sesame"))
    await promote(db)
    for path in PATHS:
        for wrong in ({}, {"Authorization": "Bearer open"}, {"Authorization": "open sesame"}):
            async with service.http.get(service.base_url + path, headers=wrong) as response:
                assert response.status == 401, path
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert "scout" not in await response.text()
    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        assert (await service.get(path))[0] == 200
    async with service.http.get(f"{service.base_url}/openapi.json", headers=BEARER) as response:
        assert response.status == 200


async def test_no_prompt_is_in_any_answer_but_where_it_is_asked_for(
    start: Start, db: Database
) -> None:
    service = await start()
    await promote(db, prompt=PROMPT)
    await db["agents"].update_one({}, {"$set": {"councilor_run_requested_at": wall_clock()}})
    (row,) = await eventually(lambda: has_run(db))
    paths = (*PATHS, f"/jobs/scout/executions/{row['execution_id']}", "/healthz", "/metrics")
    for path in paths:
        if path != "/events":
            _, said = await service.get(path)
            assert "quick brown" not in str(said), path
    _, said = await service.get("/jobs/scout?prompt=true")
    assert said["task"]["prompt"] == PROMPT


async def test_nothing_can_be_changed(start: Start, db: Database) -> None:
    service = await start()
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("/", "/jobs", "/jobs/scout", "/events"):
            async with service.http.request(method, service.base_url + path) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (
                    405,
                    "method_not_allowed",
                )


async def test_every_answer_forbids_what_it_does_not_need(start: Start) -> None:
    service = await start()
    for path in (*PATHS, "/livez", "/metrics"):
        async with service.http.get(service.base_url + path) as response:
            headers = response.headers
            assert headers["X-Content-Type-Options"] == "nosniff", path
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Cache-Control"] == "no-store"
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "*" not in policy


async def test_the_page_is_one_small_answer_of_its_own(start: Start) -> None:
    service = await start()
    for encoding in ("identity", "gzip"):
        wanted = {"Accept-Encoding": encoding}
        async with service.http.get(f"{service.base_url}/", headers=wanted) as response:
            page = await response.text()
            assert response.content_type == "text/html"
            assert int(response.headers["Content-Length"]) < 150_000
            assert response.headers.get("Content-Encoding", "identity") == encoding
    assert len(page) < 150_000
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("https://") == page.count("https://github.com/leeoniya/uPlot")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=501", "limit"),
        ("/jobs?limit=-1", "limit"),
        ("/jobs?limit=٣", "limit"),
        ("/jobs?state=asleep", "state"),
        ("/jobs?severity=bad", "severity"),
        ("/jobs?sort=prompt", "sort"),
        ("/jobs?runs=61", "runs"),
        ("/jobs?sort=name&after=nobody", "after"),
        ("/jobs?sort=next_run_time&after=[null,2]", "after"),
        ("/jobs?sort=name&after=[[],[]]", "after"),
        ("/jobs?after=nobody", None),
        ("/jobs?order=name", "order"),
        ("/jobs?q=" + "x" * 201, "q"),
        ("/jobs/scout?prompt=yes", "prompt"),
        ("/jobs/scout/executions?limit=x", "limit"),
        ("/jobs/scout/executions?status=$ne", "status"),
        ("/jobs/scout/executions?severity=", None),
        ("/jobs/scout/executions?after=exec_x_1", "after"),
        ("/jobs/scout/executions/exec_x_1?x=1", "x"),
        ("/events?x=1", "x"),
        ("/timeline?x=1", "x"),
        ("/openapi.json?x=1", "x"),
        ("/readyz?x=1", None),
    ],
)
async def test_a_bad_query_is_told_what_is_bad(
    start: Start, db: Database, path: str, names: str | None
) -> None:
    service = await start()
    await promote(db)
    await eventually(lambda: is_job(service))
    status, said = await service.get(path)
    assert status == (200 if names is None else 400)
    if names is not None:
        assert said["error"]["code"] == "bad_request"
        assert said["error"]["message"].split(":")[0] == names


async def is_job(service: Service, agent_id: str = "scout") -> bool:
    return (await service.get(f"/jobs/{agent_id}"))[0] == 200


@pytest.mark.parametrize("path", ["", "/executions", "/why", "/executions/exec_nobody_1"])
async def test_nobody_is_not_found(start: Start, path: str) -> None:
    service = await start()
    for agent_id in ("nobody", "%24ne", "a%2Fb", "%00", "%F0%9F%98%80", "x" * 2_000):
        status, said = await service.get(f"/jobs/{agent_id}{path}")
        assert (status, said["error"]["code"]) == (404, "not_found")


async def test_lists_are_filtered_and_sorted(start: Start, db: Database) -> None:
    service = await start()
    for agent_id, value, prompt in (("b", "2h", "x"), ("a", "3h", "500"), ("c", "0m", "x")):
        await promote(db, agent_id, value, prompt=prompt)
    await promote(db, "never", "1h", enabled=False)
    for agent_id in ("a", "b"):
        requested = {"councilor_run_requested_at": wall_clock()}
        await db["agents"].update_one({"agent_id": agent_id}, {"$set": requested})

    async def listed(query: str) -> list[str]:
        _, said = await service.get(f"/jobs?{query}")
        return [item["agent_id"] for item in said["items"]]

    async def have_run() -> bool:
        ended = {"completed_at": {"$ne": None}}
        return await db["councilor_executions"].count_documents(ended) == 2

    await eventually(have_run)
    assert await listed("sort=agent_id") == ["a", "b", "c", "never"]
    assert await listed("sort=-agent_id") == ["never", "c", "b", "a"]
    assert await listed("sort=next_run_time") == ["b", "a", "c", "never"]
    assert await listed("sort=-next_run_time") == ["a", "b", "never", "c"]
    assert await listed("severity=error") == ["a"]
    assert await listed("severity=success") == ["b"]
    assert await listed("state=invalid") == ["c"]
    assert await listed("q=NEV") == ["never"]
    _, said = await service.get("/jobs?runs=5&q=a&limit=1")
    assert [row["status"] for row in said["items"][0]["recent"]] == ["error"]


@pytest.mark.parametrize("sort", Sort)
async def test_pages_meet_whatever_becomes_of_those_at_their_ends(
    start: Start, db: Database, sort: Sort
) -> None:
    """A cursor is a place in an order, not a councilor."""
    service = await start()
    for n in range(6):
        await promote(db, f"a{n}", f"{n + 1}h", enabled=n != 3)
    for n in range(6):
        await eventually(partial(is_job, service, f"a{n}"), saying="a job")
    found, after = list[str](), ""
    while True:
        _, said = await service.get(f"/jobs?sort={sort}&limit=2{after}")
        found += [item["agent_id"] for item in said["items"]]
        if said["next"] is None:
            break
        after = f"&after={quote(said['next'])}"
        await db["agents"].delete_one({"agent_id": found[-1]})
        await eventually(partial(is_gone, service, found[-1]), saying="gone")
    wanted = [f"a{n}" for n in range(6)]
    by_time = [*(agent_id for agent_id in wanted if agent_id != "a3"), "a3"]
    if sort is Sort.NEXT_RUN_TIME_REVERSED:
        by_time = [*by_time[-2::-1], "a3"]
    if "time" in sort:
        wanted = by_time
    elif sort.startswith("-"):
        wanted.reverse()
    assert found == wanted


async def is_gone(service: Service, agent_id: str) -> bool:
    return (await service.get(f"/jobs/{agent_id}"))[0] == 404


async def test_a_ledger_is_read_page_by_page(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    service = await start()
    await promote(db, value="1s")
    await eventually(lambda: has_run(db, 3))
    await db["agents"].update_one({}, {"$set": {"councilor_config.schedule.enabled": False}})
    rows = [row["execution_id"] for row in await rows_of(db, "scout")][::-1]
    found, after = list[str](), ""
    for _ in rows:
        _, said = await service.get(f"/jobs/scout/executions?limit=1{after}")
        found.append(said["items"][0]["execution_id"])
        after = f"&after={found[-1]}"
    assert found == rows
    _, said = await service.get(f"/jobs/scout/executions?limit=1{after}")
    assert said == {"items": [], "next": None}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = OPENAPI["components"]["schemas"][schema["$ref"].split("/")[-1]]
        return found
    return schema


def require(said: Any, schema: dict[str, Any], where: str) -> None:
    """Hold an answer against its schema: no field that it does not name, none missing."""
    schema = resolved(schema)
    if "anyOf" in schema:
        if said is not None:
            require(said, schema["anyOf"][0], where)
        return
    if "enum" in schema:
        assert said in schema["enum"], where
    match schema.get("type"):
        case "object" if "properties" in schema:
            assert isinstance(said, dict), where
            assert set(schema["required"]) <= said.keys(), where
            for name, value in said.items():
                if name not in _NOT_DESCRIBED:
                    assert name in schema["properties"], f"{where}.{name}"
                    require(value, schema["properties"][name], f"{where}.{name}")
        case "array":
            for value in said:
                require(value, schema["items"], f"{where}[]")
        case "string":
            assert isinstance(said, str), where
        case "integer":
            assert isinstance(said, int), where


_NOT_DESCRIBED = {"host", "pid", "version", "replica", "replicas", "places", "checks", "failing"}


async def test_answers_are_what_openapi_says(start: Start, db: Database) -> None:
    service = await start()
    await promote(db, value="1s")
    await promote(db, "ill", "1s", prompt="500")
    await promote(db, "bad", "0m")
    await eventually(lambda: has_run(db, 2))
    execution_id = (await rows_of(db, "scout"))[0]["execution_id"]
    _, openapi = await service.get("/openapi.json")
    assert openapi == OPENAPI
    for template, item in OPENAPI["paths"].items():
        answers = item["get"]["responses"]["200"]["content"]
        schema = answers.get("application/json", {}).get("schema")
        for agent_id in ("scout", "ill", "bad"):
            path = template.format(agent_id=agent_id, execution_id=execution_id)
            if schema is None or (agent_id != "scout" and "execution_id" in template):
                continue
            path += "?runs=3" if path == "/jobs" else ""
            status, said = await service.get(path)
            assert status == 200, path
            require(said, schema, path)


async def test_a_day_around_now_has_what_ran_and_what_will(start: Start, db: Database) -> None:
    service = await start(scheduler_max_concurrent_runs=7)
    await promote(db, value="1s")
    for n in range(3):
        await promote(db, f"later {n}", "1h")
    await eventually(lambda: has_run(db, 2))
    _, said = await service.get("/timeline")
    assert sum(bucket["success"] for bucket in said["past"]) >= 2
    assert (len(said["past"]), len(said["future"])) == (49, 48)
    assert said["past"][-1]["at"] == said["future"][0]["at"]
    per_quarter = 15 * 60
    assert said["future"][10]["starts"] == pytest.approx(per_quarter, abs=4)
    assert (said["places"], said["replicas"]) == (7, 1)
    assert timedelta(seconds=said["bucket_seconds"]) == timedelta(minutes=15)
