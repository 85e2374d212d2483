"""Settings in files, as Docker and Kubernetes mount secrets."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from service.secret_files import SecretFolder, names_in, read
from service.settings import (
    WrongSettings,
    settings_from_environment,
    unknown_files,
    unknown_variables,
)
from tests.flow.process import process_of
from tests.integration.test_cli import commanded

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
@pytest.mark.parametrize("setting", ["scheduler_http_token", "scheduler_run_timeout"])
def test_a_blank_file_opens_no_door_because_a_disk_was_full(
    secret: Write, setting: str, blank: str
) -> None:
    path = secret(setting, blank)
    assert problems() == [f"{setting.upper()}: cannot read {path}: it is blank"]


@pytest.mark.parametrize("name", ["SCHEDULER_HTTP_TOKEN", "Scheduler_Http_Token"])
def test_a_name_may_be_written_as_that_of_the_variable(secret: Write, name: str) -> None:
    """As the keys of a Secret of Kubernetes are, which is used for variables, too."""
    secret(name, "open sesame")
    assert token() == "open sesame"


def test_of_two_files_for_one_setting_none_is_guessed(secret: Write, tmp_path: Path) -> None:
    secret("SCHEDULER_HTTP_TOKEN", "old")
    secret("scheduler_http_token", "new")
    (line,) = problems()
    assert line == (
        "SCHEDULER_HTTP_TOKEN: SCHEDULER_HTTP_TOKEN and scheduler_http_token "
        f"in {tmp_path}: leave one of them"
    )


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


def _leads_nowhere(path: Path) -> None:
    path.symlink_to("missing")


def _is_a_pipe_without_a_writer(path: Path) -> None:
    os.mkfifo(path)


def _is_no_text(path: Path) -> None:
    path.write_bytes(b"hunter2\xff")


def _is_too_long(path: Path) -> None:
    path.write_text("hunter2" * 10_000)


@pytest.mark.parametrize(
    "make",
    [
        _is_a_folder,
        _leads_to_itself,
        _leads_nowhere,
        _is_a_pipe_without_a_writer,
        _is_no_text,
        _is_too_long,
    ],
)
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


def test_files_that_look_like_settings_are_told_of(
    secret: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scheduler_http_tokne", "MONGODB_URI", "SCHEDULER_HTTP_TOKEN"):
        secret(name, "text")
    secret("ca.pem", "somebody else's")
    assert unknown_files(os.environ) == [
        f"{tmp_path}/MONGODB_URI: not a setting, ignored; did you mean MONGODB_URL?",
        f"{tmp_path}/scheduler_http_tokne: not a setting, ignored; "
        "did you mean SCHEDULER_HTTP_TOKEN?",
    ]
    monkeypatch.delenv("SCHEDULER_SECRETS_DIR")
    assert unknown_files(os.environ) == []


@pytest.fixture
def usual() -> Iterator[Path]:
    """Stands for /run/secrets, with a token in it that everybody may read."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "secrets"
        folder.mkdir()
        (folder / "scheduler_http_token").write_text("open sesame")
        Path(name).chmod(0o755)
        yield folder
        folder.chmod(0o700)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Not root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


TOKEN = ("scheduler_http_token", "mongodb_url")


def texts_in(folder: Path) -> dict[str, str]:
    usual = SecretFolder(folder, is_named=False)
    found = read(usual, names_in(usual, TOKEN), TOKEN)
    assert not found.problems
    return dict(found.texts)


@pytest.mark.parametrize(
    ("mode", "texts"),
    [
        pytest.param(0o755, {"scheduler_http_token": "open sesame"}, id="open"),
        pytest.param(0o111, {"scheduler_http_token": "open sesame"}, id="not to be listed"),
        pytest.param(0o000, {}, id="not to be entered"),
    ],
)
def test_the_usual_folder_may_be_there_for_others(
    usual: Path, request: pytest.FixtureRequest, mode: int, texts: dict[str, str]
) -> None:
    usual.chmod(mode)
    request.getfixturevalue("nobody")
    assert texts_in(usual) == texts


def test_the_usual_folder_may_be_missing_or_be_none(usual: Path) -> None:
    assert texts_in(usual / "missing") == {}
    assert texts_in(usual / "scheduler_http_token") == {}


@pytest.mark.parametrize("mode", [0o755, 0o111])
def test_what_is_in_the_usual_folder_by_a_settings_name_is_not_passed_over(
    usual: Path, request: pytest.FixtureRequest, mode: int
) -> None:
    (usual / "scheduler_http_token").chmod(0o000)
    (usual / "mongodb_url").symlink_to("missing")
    usual.chmod(mode)
    request.getfixturevalue("nobody")
    folder = SecretFolder(usual, is_named=False)
    assert read(folder, names_in(folder, TOKEN), TOKEN).problems == [
        f"SCHEDULER_HTTP_TOKEN: cannot read {usual}/scheduler_http_token: Permission denied",
        f"MONGODB_URL: cannot read {usual}/mongodb_url: No such file or directory",
    ]


def test_a_named_folder_that_is_closed_to_us_ends_the_start(
    usual: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual.chmod(0o111)
    monkeypatch.setenv("SCHEDULER_SECRETS_DIR", str(usual))
    request.getfixturevalue("nobody")
    assert problems() == [f"SCHEDULER_SECRETS_DIR: cannot read {usual}: Permission denied"]


DOCUMENT = """{"agent_id": "scout", "is_councilor": true, "councilor_config": {
  "schedule": {"type": "cron", "value": "0 9 * * *"}, "task": {"name": "n", "prompt": "p"}}}"""


@pytest.mark.parametrize("folder", ["secrets", "missing"])
async def test_files_of_documents_are_judged_without_secrets(tmp_path: Path, folder: str) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "mongodb_url").mkdir()
    (tmp_path / "scout.json").write_text(DOCUMENT)
    environ = {"SCHEDULER_SECRETS_DIR": str(tmp_path / folder)}
    code, _, said = await commanded("check", "--file", str(tmp_path / "scout.json"), **environ)
    assert (code, said) == (0, "")


async def test_by_a_file_documents_are_judged_as_the_service_judges_them(
    secret: Write, tmp_path: Path
) -> None:
    secret("scheduler_timezone", "Asia/Tokyo")
    document = tmp_path / "scout.json"
    document.write_text(DOCUMENT)
    environ = {"SCHEDULER_SECRETS_DIR": str(tmp_path)}
    _, said, _ = await commanded("check", "--file", str(document), "--json", **environ)
    assert "Asia/Tokyo" in said


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
