"""Values and updates as a person would type them in mongosh."""

from collections.abc import Mapping
from datetime import datetime
from types import EllipsisType

import orjson

_INDENT = "  "


def literal(value: object) -> str:
    """A value on one line; what is `...` in Python is left out."""
    match value:
        case EllipsisType():
            return "{…}"
        case Mapping():
            members = ", ".join(f"{name}: {literal(item)}" for name, item in value.items())
            return f"{{{members}}}"
        case datetime():
            return f'ISODate("{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03}Z")'
        case _:
            return orjson.dumps(value).decode()


def update_text(update: Mapping[str, object]) -> str:
    """An update on one line: `$set {…}  $unset {…}`, paths without their quotes."""
    return "  ".join(f"{operator} {literal(change)}" for operator, change in update.items())


def command_lines(agent_id: str, values: Mapping[str, object], width: int) -> list[str]:
    """The whole command that sets these values, in lines of at most about `width`."""
    head = f'db.agents.updateOne({{agent_id: "{agent_id}"}}, {{$set: '
    first, *others, last = _block(values, width, "")
    return [head + first, *others, f"{last}}})"]


def _block(value: Mapping[str, object], width: int, indent: str) -> list[str]:
    """A document in as many lines as it needs; what fits in one line is left in it."""
    lines = ["{"]
    for place, (name, item) in enumerate(value.items(), 1):
        comma = "," if place < len(value) else ""
        start = f"{indent}{_INDENT}{name}: "
        line = f"{start}{literal(item)}{comma}"
        if len(line) <= width or not isinstance(item, Mapping):
            lines.append(line)
            continue
        first, *others, last = _block(item, width, indent + _INDENT)
        lines += [f"{start}{first}", *others, f"{last}{comma}"]
    return [*lines, f"{indent}}}"]
