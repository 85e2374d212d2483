"""Settings in files, as Docker and Kubernetes mount secrets."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.settings import WrongSettings, settings_from_environment, unknown_variables
from tests.flow.process import process_of

Write = Callable[[str, str], Path]


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("SCHEDULER_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("MONGODB_URL", raising=False)

    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def token() -> str | None:
    found = settings_from_environment().scheduler_http_token
    return found.get_secret_value() if found is not None else None


def problems() -> list[str]:
    with pytest.raises(WrongSettings) as wrong:
        settings_from_environment()
    return wrong.value.problems


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_file_is_a_setting_and_its_last_end_of_line_no_part_of_it(
    secret: Write, end: str
) -> None:
    secret("scheduler_http_token", f"open sesame{end}")
    assert token() == "open sesame"


def test_any_setting_may_be_a_file(secret: Write) -> None:
    secret("mongodb_url", "mongodb://u:p@h")
    secret("scheduler_run_timeout", "5m")
    settings = settings_from_environment()
    assert settings.mongodb_url is not None
    assert settings.mongodb_url.get_secret_value() == "mongodb://u:p@h"
    assert settings.scheduler_run_timeout.total_seconds() == 300


def test_the_environment_wins(secret: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    secret("scheduler_http_token", "of the file")
    monkeypatch.setenv("SCHEDULER_HTTP_TOKEN", "of the environment")
    assert token() == "of the environment"


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_blank_variable_opens_no_door_that_a_file_has_closed(
    secret: Write, monkeypatch: pytest.MonkeyPatch, blank: str
) -> None:
    secret("scheduler_http_token", "of the file")
    monkeypatch.setenv("SCHEDULER_HTTP_TOKEN", blank)
    assert token() == "of the file"


@pytest.mark.parametrize("blank", ["", "\n", "  \n"])
def test_a_blank_file_is_no_setting(secret: Write, blank: str) -> None:
    secret("scheduler_http_token", blank)
    assert token() is None


def test_links_are_followed_as_kubernetes_lays_them(secret: Write, tmp_path: Path) -> None:
    """`token -> ..data/token`, where `..data` is a link to what was mounted last."""
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "scheduler_http_token").write_text("open sesame")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "scheduler_http_token").symlink_to("..data/scheduler_http_token")
    assert token() == "open sesame"


def test_a_wrong_file_is_one_line_that_names_the_variable_and_not_what_it_holds(
    secret: Write,
) -> None:
    secret("mongodb_url", "postgres://u:hunter2@h")
    (line,) = problems()
    assert line.startswith("MONGODB_URL: ")
    assert "hunter2" not in line


def _is_a_folder(path: Path) -> None:
    path.mkdir()


def _leads_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _is_no_text(path: Path) -> None:
    path.write_bytes(b"hunter2\xff")


def _is_too_long(path: Path) -> None:
    path.write_text("hunter2" * 10_000)


@pytest.mark.parametrize("make", [_is_a_folder, _leads_to_itself, _is_no_text, _is_too_long])
def test_a_file_that_cannot_be_read_is_not_passed_over(
    secret: Write, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """Without the token that is meant, everybody would be let in."""
    make(tmp_path / "scheduler_http_token")
    (line,) = problems()
    assert line.startswith(f"SCHEDULER_HTTP_TOKEN: cannot read {tmp_path}/scheduler_http_token: ")
    assert "hunter2" not in line


@pytest.mark.parametrize("named", ["missing", "a file"])
def test_a_folder_that_is_named_must_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("SCHEDULER_SECRETS_DIR", str(tmp_path / named))
    (line,) = problems()
    assert line.startswith(f"SCHEDULER_SECRETS_DIR: cannot read {tmp_path / named}: ")


def test_the_folder_is_known_by_its_variable() -> None:
    assert unknown_variables({"SCHEDULER_SECRETS_DIR": "/somewhere"}) == []


async def test_what_may_not_be_read_ends_the_start_with_code_2(tmp_path: Path) -> None:
    """Here by a folder in its place: root, who runs some tests, may read everything."""
    (tmp_path / "mongodb_url").mkdir()
    async with process_of({"SCHEDULER_SECRETS_DIR": str(tmp_path)}) as replica:
        assert await replica.ended() == 2
        assert replica.process.stderr is not None
        (line,) = (await replica.process.stderr.read()).decode().splitlines()
    assert line.startswith(
        f"councilor-scheduler: MONGODB_URL: cannot read {tmp_path}/mongodb_url: "
    )
