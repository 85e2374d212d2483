"""The `councilor_config` of a document, checked field by field; what is wrong becomes a Problem."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from service.domain.printable import printable

LONGEST_PROMPT = 10_000
OutputFormat = Literal["summary", "detailed", "checklist"]
OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)
_LONG_AGO, _FOR_EVER = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


class CatchUp(StrEnum):
    """What to do about slots that were missed during an outage."""

    ONCE = "once"
    SKIP = "skip"
    ALL = "all"


class Overlap(StrEnum):
    """What to do about a slot that comes due while the previous run still runs."""

    SKIP = "skip"
    QUEUE_ONE = "queue_one"


def instant_from(value: object) -> datetime | None:
    """A date of a document as an aware UTC datetime: a BSON date or an ISO-8601 text, else None."""
    if type(value) is str:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        return None
    return max(_LONG_AGO, min(aware, _FOR_EVER))


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps a configuration from being run: the field, what it holds, how to mend it."""

    field: str
    message: str
    hint: str


class ConfigRejected(Exception):
    """A configuration cannot be run because of `problem`."""

    def __init__(self, field: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.problem = Problem(field, message, hint)


def _present(value: object) -> object:
    """Null means absent, as the gateway writes it."""
    if isinstance(value, dict | Mapping) and None in value.values():
        return {key: item for key, item in value.items() if item is not None}
    return value


def _instant(value: object) -> datetime:
    instant = instant_from(value)
    if instant is None:
        raise PydanticCustomError("instant", "is not a date")
    return instant


def _text(value: object) -> object:
    """BSON's code is a text in Python, and none here."""
    if isinstance(value, str) and type(value) is not str:
        raise PydanticCustomError("string_type", "is not a text")
    return value


_IS_TEXT = BeforeValidator(_text)
Text = Annotated[str, _IS_TEXT]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ScheduleConfig(_Part):
    type: Annotated[Literal["interval", "cron"], _IS_TEXT]
    value: Text
    enabled: bool = True
    timezone: Text | None = None
    catch_up: Annotated[CatchUp, Field(strict=False), _IS_TEXT] = CatchUp.ONCE
    overlap: Annotated[Overlap, Field(strict=False), _IS_TEXT] = Overlap.SKIP
    spread: Text | None = None
    paused_until: Annotated[datetime | None, BeforeValidator(_instant)] = None
    skip_next: bool = False


class TaskConfig(_Part):
    name: Text = ""
    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT), _IS_TEXT]
    context_files: list[Text] = Field(default_factory=list)
    output_format: Annotated[OutputFormat, _IS_TEXT] = "checklist"


class NotificationsConfig(_Part):
    on_success: bool = False
    on_warning: bool = True
    on_error: bool = True
    channels: list[Text] = Field(default_factory=lambda: ["panel"])


class Config(_Part):
    title: Text = ""
    schedule: Annotated[ScheduleConfig, BeforeValidator(_present)]
    task: Annotated[TaskConfig, BeforeValidator(_present)]
    notifications: Annotated[NotificationsConfig, BeforeValidator(_present)] = Field(
        default_factory=NotificationsConfig
    )


def config_from(value: object) -> Config:
    """Read a `councilor_config` of any type; raises ConfigRejected for the first thing to mend."""
    try:
        return Config.model_validate(_present(value))
    except ValidationError as invalid:
        raise _rejection_of(invalid) from invalid


def schedule_config_from(config: object) -> ScheduleConfig:
    """Read the schedule of a `councilor_config` alone; raises ConfigRejected."""
    schedule = config.get("schedule") if isinstance(config, Mapping) else None
    try:
        return ScheduleConfig.model_validate(_present(schedule))
    except ValidationError as invalid:
        raise _rejection_of(invalid) from invalid


def notifications_config_from(config: object) -> NotificationsConfig:
    """Read the notifications of a `councilor_config` alone; the defaults where they are wrong."""
    told = config.get("notifications") if isinstance(config, Mapping) else None
    try:
        return NotificationsConfig.model_validate(_present(told if told is not None else {}))
    except ValidationError:
        return NotificationsConfig()


_EXPECTED = {
    "string_type": "not a text",
    "bool_type": "neither true nor false",
    "list_type": "not a list",
    "instant": "no date that can be used",
    "literal_error": "none of the words that are understood",
    "enum": "none of the words that are understood",
}
_HINTS = {
    "title": "write a text, or leave it out",
    "schedule": 'add a schedule: {type: "interval", value: "30m"} or {type: "cron", …}',
    "schedule.type": 'write "interval" or "cron"',
    "schedule.value": 'write a text: "30m" for an interval, "0 9 * * 1" for a cron',
    "schedule.enabled": "write true, or false to pause",
    "schedule.timezone": 'write an IANA name, such as "Europe/Berlin", or leave it out',
    "schedule.catch_up": 'write "once", "skip" or "all", or leave it out',
    "schedule.overlap": 'write "skip" or "queue_one", or leave it out',
    "schedule.spread": 'write an interval such as "5m", or leave it out',
    "schedule.paused_until": "write a date, or leave it out",
    "schedule.skip_next": "write true or false, or leave it out",
    "task": 'add a task: {name: "…", prompt: "…"}',
    "task.prompt": f"write what the agent shall do, in 1 to {LONGEST_PROMPT:,} characters",
    "task.name": "write a text",
    "task.context_files": "write a list of texts, or leave it out",
    "task.output_format": 'write "summary", "detailed" or "checklist", or leave it out',
    "notifications": "write {on_success, on_warning, on_error, channels}, or leave it out",
    "": "add a councilor_config with a schedule and a task, or set is_councilor to false",
}


def _rejection_of(invalid: ValidationError) -> ConfigRejected:
    first = invalid.errors(include_url=False, include_context=False)[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    field = ".".join(("councilor_config", *path))
    hint = next(h for n in (2, 1, 0) if (h := _HINTS.get(".".join(path[:n]))) is not None)
    match first["type"]:
        case "missing":
            message = f"{field} is missing"
        case "string_too_long":
            message = f"{field} has {len(str(first['input'])):,} characters, too many"
        case "string_too_short":
            message = f"{field} is empty"
        case "model_type" | "model_attributes_type":
            found = shown(first["input"])
            message = f"{field} is {found}" + ("" if found == "missing" else ", not a document")
        case kind if kind in _EXPECTED:
            message = f"{field} is {shown(first['input'])}, {_EXPECTED[kind]}"
        case _:
            message = f"{field} is {shown(first['input'])}: {first['msg'].lower()}"
    return ConfigRejected(field, message, hint)


def shown(value: object) -> str:
    """A value as a short, printable text, without walking through large documents."""
    if type(value) is str:
        text = value[:60] + ("…" if len(value) > 60 else "")
        return f'"{printable(text)}"'
    if value is None:
        return "missing"
    if isinstance(value, bool | int | float | datetime):
        return str(value)[:60]
    if type(value).__name__ == "DatetimeMS":  # what the driver makes of one
        return "beyond the years 1 to 9999"
    return f"of type {type(value).__name__}"
