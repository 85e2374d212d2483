"""The environment, read once: every variable of CONTRACT section 6, with its default.

What is not in the environment may be in files, as Docker and Kubernetes mount secrets: one for
each variable, by its name in upper or lower case, in `/run/secrets` or the folder that
SCHEDULER_SECRETS_DIR names.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.domain.interval import ScheduleError, interval_from
from service.domain.zones import known_zones
from service.ports import ServiceError
from service.secret_files import SECRETS_DIR, Secrets, folder_of, names_in, read, reason_of

_PREFIXES = ("SCHEDULER_", "MONGODB_", "CONDUCTOR_")
_JUDGED_BY = ("scheduler_timezone", "scheduler_min_interval", "scheduler_run_timeout")


class WrongSettings(ServiceError):
    """The environment cannot be used; `problems` holds one line for each wrong variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return interval_from(str(value))
    except ScheduleError as error:
        raise PydanticCustomError("duration", str(error) + ": " + error.hint) from error


def _zone(value: str) -> str:
    if value not in known_zones():
        raise PydanticCustomError("zone", f'"{value}" is not an IANA time zone name')
    return value


def _http_url(value: SecretStr) -> SecretStr:
    """Secret, because it may carry a password."""
    try:
        parts = urlsplit(value.get_secret_value())
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if not is_http:
        raise PydanticCustomError("url", "write an address such as http://conductor:8000")
    return SecretStr(value.get_secret_value().rstrip("/"))


def _mongodb_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
        raise PydanticCustomError("url", "write an address that begins with mongodb://")
    return value


def _database(value: str) -> str:
    if not value or len(value) > 63 or set(value) & set('/\\. "$*<>:|?\0'):
        raise PydanticCustomError("name", f'"{value}" is no name that MongoDB allows')
    return value


def _collection(value: str) -> str:
    if not value or "$" in value or "\0" in value or value.startswith("system."):
        raise PydanticCustomError("name", f'"{value}" is no name that MongoDB allows')
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Collection = Annotated[str, AfterValidator(_collection)]


class Settings(BaseSettings):
    """Immutable; the fields are the variables. Build it with `settings_from_environment`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        str_strip_whitespace=True,
        hide_input_in_errors=True,
    )

    mongodb_url: Annotated[SecretStr, AfterValidator(_mongodb_url)] | None = None
    mongodb_database: Annotated[str, AfterValidator(_database)] = "conductor_state"
    conductor_api_url: Annotated[SecretStr, AfterValidator(_http_url)] = SecretStr(
        "http://localhost:8000"
    )
    conductor_api_mode: Literal["conductor", "agents"] = "conductor"
    conductor_cwd: str | None = None
    scheduler_agents_collection: Collection = "agents"
    scheduler_executions_collection: Collection = "councilor_executions"
    scheduler_jobs_collection: Collection = "apscheduler_jobs"
    scheduler_http_host: str = "127.0.0.1"
    scheduler_http_port: Annotated[int, Field(ge=0, le=65535)] = 8085
    scheduler_http_token: SecretStr | None = None
    scheduler_timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    scheduler_min_interval: Duration = timedelta(minutes=1)
    scheduler_max_concurrent_runs: Annotated[int, Field(ge=1, le=100_000)] = 100
    scheduler_severity: Literal["words", "substring"] = "words"
    scheduler_run_timeout: Duration = timedelta(minutes=30)
    scheduler_drain_timeout: Duration = timedelta(seconds=30)
    scheduler_replica_ttl: Duration = timedelta(seconds=15)
    scheduler_resync_interval: Duration = timedelta(minutes=5)
    # A document holds 16 MiB; the rest of the row needs its part.
    scheduler_max_output_bytes: Annotated[int, Field(ge=1, le=15_000_000)] = 1_048_576
    scheduler_execution_ttl: Duration | None = None
    scheduler_notify_urls: SecretStr | None = None
    scheduler_log_format: Literal["auto", "console", "json"] = "auto"
    scheduler_log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, given: Mapping[str, object]) -> dict[str, object]:
        """A blank token would let everybody in, a blank host would listen everywhere."""
        return {
            name: value
            for name, value in given.items()
            if not isinstance(value, str) or value.strip()
        }

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        taken = {"scheduler_replicas", "scheduler_notifications"}
        for part in ("agents", "executions", "jobs"):
            name: str = getattr(self, f"scheduler_{part}_collection")
            if name in taken:
                variable = f"SCHEDULER_{part.upper()}_COLLECTION"
                message = f'{variable}: "{name}" is the name of another collection'
                raise PydanticCustomError("collections", message)
            taken.add(name)
        keep_for = self.scheduler_execution_ttl
        if keep_for is not None and keep_for <= self.scheduler_run_timeout:
            message = "SCHEDULER_EXECUTION_TTL: must be longer than SCHEDULER_RUN_TIMEOUT"
            raise PydanticCustomError("ttl", message)
        return self


def settings_from_environment(**chosen: object) -> Settings:
    """Read the settings; `chosen` ones win. Raises WrongSettings, naming every problem."""
    folder = folder_of(os.environ)
    try:
        names = names_in(folder, Settings.model_fields)
    except OSError as error:
        line = f"{SECRETS_DIR}: cannot read {folder.path}: {reason_of(error)}"
        raise WrongSettings([line]) from None
    return _settings(read(folder, names, Settings.model_fields), chosen)


def settings_for_judging() -> Settings:
    """The same, of files only those by which documents are judged: it takes no secrets.

    Raises WrongSettings.
    """
    folder = folder_of(os.environ)
    try:
        names = names_in(folder, _JUDGED_BY)
    except OSError:
        names = []
    return _settings(read(folder, names, _JUDGED_BY), {})


def _settings(secrets: Secrets, chosen: Mapping[str, object]) -> Settings:
    """Not read by pydantic-settings, which warns where a file cannot be read, and goes on."""
    if secrets.problems:
        raise WrongSettings([*secrets.problems])
    known = {name.lower() for name, value in os.environ.items() if value.strip()}
    left_open = {name: text for name, text in secrets.texts.items() if name not in known}
    try:
        return Settings(**{**left_open, **chosen})  # type: ignore[arg-type]  # validated there
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
        raise WrongSettings([_line(error["loc"], error["msg"]) for error in errors]) from None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like ours and is not: misspelt, most likely."""
    known = {SECRETS_DIR, *(name.upper() for name in Settings.model_fields)}
    unknown = sorted(name for name in environ if name.startswith("SCHEDULER_"))
    return [_unknown_line(name, known) for name in unknown if name not in known]


def unknown_files(environ: Mapping[str, str]) -> list[str]:
    """The same of the files in a folder that is named, and so has them for us."""
    folder = folder_of(environ)
    if not folder.is_named:
        return []
    try:
        names = names_in(folder, Settings.model_fields)
    except OSError:  # a start has ended with that
        return []
    known = {name.upper() for name in Settings.model_fields}
    looks_like_ours = [name for name in names if name.upper().startswith(_PREFIXES)]
    unknown = [name for name in looks_like_ours if name.upper() not in known]
    return [f"{folder.path}/{_unknown_line(name, known)}" for name in unknown]


def _unknown_line(name: str, known: set[str]) -> str:
    similar = get_close_matches(name.upper(), sorted(known), n=1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    return f"{name}: not a setting, ignored{hint}"


def _line(location: tuple[int | str, ...], message: str) -> str:
    message = " ".join(message.removeprefix("Value error, ").split())
    return f"{str(location[0]).upper()}: {message}" if location else message
