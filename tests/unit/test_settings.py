"""The environment: CONTRACT section 6, row by row."""

from datetime import timedelta

import pytest
from pydantic import SecretStr

from service.settings import Settings, WrongSettings, settings_from_environment, unknown_variables

DEFAULTS: dict[str, object] = {
    "MONGODB_URL": None,
    "MONGODB_DATABASE": "conductor_state",
    "CONDUCTOR_API_URL": "http://localhost:8000",
    "CONDUCTOR_API_MODE": "conductor",
    "CONDUCTOR_CWD": None,
    "SCHEDULER_AGENTS_COLLECTION": "agents",
    "SCHEDULER_EXECUTIONS_COLLECTION": "councilor_executions",
    "SCHEDULER_JOBS_COLLECTION": "apscheduler_jobs",
    "SCHEDULER_HTTP_HOST": "127.0.0.1",
    "SCHEDULER_HTTP_PORT": 8085,
    "SCHEDULER_HTTP_TOKEN": None,
    "SCHEDULER_TIMEZONE": "UTC",
    "SCHEDULER_MIN_INTERVAL": timedelta(minutes=1),
    "SCHEDULER_MAX_CONCURRENT_RUNS": 100,
    "SCHEDULER_SEVERITY": "words",
    "SCHEDULER_RUN_TIMEOUT": timedelta(minutes=30),
    "SCHEDULER_DRAIN_TIMEOUT": timedelta(seconds=30),
    "SCHEDULER_REPLICA_TTL": timedelta(seconds=15),
    "SCHEDULER_RESYNC_INTERVAL": timedelta(minutes=5),
    "SCHEDULER_MAX_OUTPUT_BYTES": 1_048_576,
    "SCHEDULER_EXECUTION_TTL": None,
    "SCHEDULER_NOTIFY_URLS": None,
    "SCHEDULER_LOG_FORMAT": "auto",
    "SCHEDULER_LOG_LEVEL": "info",
}
RIGHT: dict[tuple[str, str], object] = {
    ("MONGODB_URL", "mongodb://u:p@h/?replicaSet=rs0"): "mongodb://u:p@h/?replicaSet=rs0",
    ("MONGODB_URL", "mongodb+srv://h"): "mongodb+srv://h",
    ("CONDUCTOR_API_URL", "https://c:1/api/"): "https://c:1/api",
    ("SCHEDULER_HTTP_PORT", "0"): 0,
    ("SCHEDULER_TIMEZONE", "Europe/Berlin"): "Europe/Berlin",
    ("SCHEDULER_MIN_INTERVAL", "1h30m"): timedelta(minutes=90),
    ("SCHEDULER_EXECUTION_TTL", "90d"): timedelta(days=90),
}
WRONG = {
    "MONGODB_URL": ["postgres://u:hunter2@h", "h:27017"],
    "MONGODB_DATABASE": ["a b", "a/b", "a$b", "x" * 64],
    "CONDUCTOR_API_URL": ["c:8000", "ftp://u:hunter2@c", "http://", "http://c:99999", "http://[::"],
    "CONDUCTOR_API_MODE": ["Agents", "http"],
    "SCHEDULER_AGENTS_COLLECTION": ["a$b", "system.users"],
    "SCHEDULER_HTTP_PORT": ["-1", "65536", "http", "80.5"],
    "SCHEDULER_TIMEZONE": ["Mars/Base", "local", "+01:00"],
    "SCHEDULER_MIN_INTERVAL": ["0s", "60", "1 m", "-1m", "never"],
    "SCHEDULER_MAX_CONCURRENT_RUNS": ["0", "-5", "many", "1e9"],
    "SCHEDULER_SEVERITY": ["strict"],
    "SCHEDULER_RUN_TIMEOUT": ["30"],
    "SCHEDULER_DRAIN_TIMEOUT": ["1.5s"],
    "SCHEDULER_REPLICA_TTL": ["soon"],
    "SCHEDULER_RESYNC_INTERVAL": ["99999d"],
    "SCHEDULER_MAX_OUTPUT_BYTES": ["0", "1MB", "16000000"],
    "SCHEDULER_EXECUTION_TTL": ["forever"],
    "SCHEDULER_LOG_FORMAT": ["xml"],
    "SCHEDULER_LOG_LEVEL": ["loud"],
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)


def values(settings: Settings) -> dict[str, object]:
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings.model_dump().items()
    }


def problems() -> list[str]:
    with pytest.raises(WrongSettings) as wrong:
        settings_from_environment()
    return wrong.value.problems


def test_defaults_are_those_of_the_contract() -> None:
    assert values(settings_from_environment()) == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_empty_means_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert values(settings_from_environment()) == DEFAULTS


@pytest.mark.parametrize(("name", "text"), RIGHT)
def test_value_is_read(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    found = values(settings_from_environment())[name]
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == RIGHT[
        name, text
    ]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in WRONG for text in WRONG[name]])
def test_wrong_value_is_one_line_that_begins_with_its_variable(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    (line,) = problems()
    assert line.startswith(f"{name}: ")
    assert len(line.splitlines()) == 1
    assert "hunter2" not in line


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, texts in WRONG.items():
        monkeypatch.setenv(name, texts[0])
    assert sorted(line.split(":")[0] for line in problems()) == sorted(WRONG)


@pytest.mark.parametrize("other", ["councilor_executions", "scheduler_replicas"])
def test_two_collections_of_one_name_are_refused(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEDULER_JOBS_COLLECTION", other)
    (line,) = problems()
    assert line.startswith("SCHEDULER_JOBS_COLLECTION: ")


@pytest.mark.parametrize("name", ["SCHEDULER_HTTP_TOKEN", "SCHEDULER_HTTP_HOST"])
def test_blank_value_never_opens_a_door(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty token lets in who sends `Bearer `; an empty host listens everywhere."""
    monkeypatch.setenv(name, "  ")
    assert values(settings_from_environment()) == DEFAULTS


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URL", "mongodb://u:hunter2@h")
    monkeypatch.setenv("SCHEDULER_HTTP_TOKEN", "hunter2")
    monkeypatch.setenv("SCHEDULER_NOTIFY_URLS", "slack://hunter2")
    settings = settings_from_environment()
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_chosen_values_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULER_LOG_FORMAT", "console")
    assert settings_from_environment(scheduler_log_format="json").scheduler_log_format == "json"


def test_misspelt_variables_are_found() -> None:
    environ = {"SCHEDULER_HTTP_PROT": "1", "SCHEDULER_HTTP_PORT": "1", "PATH": "/bin"}
    (line,) = unknown_variables(environ)
    assert line.startswith("SCHEDULER_HTTP_PROT: ")
    assert "SCHEDULER_HTTP_PORT" in line
