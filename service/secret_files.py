"""Settings in files, as Docker and Kubernetes mount secrets: none that is there is passed over."""

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECRETS_DIR = "SCHEDULER_SECRETS_DIR"
_USUAL = Path("/run/secrets")
_LONGEST = 65_536


@dataclass(frozen=True, slots=True)
class SecretFolder:
    """Where files lie. One that `is_named` is for them; the usual one may be there for others."""

    path: Path
    is_named: bool


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the files of settings say, and a line for each setting whose file cannot be used."""

    texts: Mapping[str, str]
    problems: Sequence[str]


def folder_of(environ: Mapping[str, str]) -> SecretFolder:
    """The folder that SCHEDULER_SECRETS_DIR names, or the usual one."""
    named = environ.get(SECRETS_DIR, "").strip()
    return SecretFolder(Path(named) if named else _USUAL, is_named=bool(named))


def names_in(folder: SecretFolder, settings: Collection[str]) -> Sequence[str]:
    """What is there, as far as it may be one of these settings. Raises OSError.

    The usual folder may be missing, or closed to us; where it can be entered but not listed, files
    are known by the settings' own names.
    """
    try:
        return sorted(os.listdir(folder.path))
    except OSError as error:
        if folder.is_named:
            raise
        if isinstance(error, PermissionError):
            return [name for name in settings if _is_there(folder.path / name)]
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return []
        raise


def _is_there(path: Path) -> bool:
    """Tell whether there is such a name, wherever it leads; none is in a folder closed to us."""
    try:
        path.lstat()
    except (FileNotFoundError, PermissionError):
        return False
    return True


def read(folder: SecretFolder, names: Sequence[str], settings: Collection[str]) -> Secrets:
    """The texts of these settings, among the names; upper and lower case are the same."""
    texts, problems = dict[str, str](), list[str]()
    for setting in settings:
        match [name for name in names if name.lower() == setting]:
            case []:
                continue
            case [name]:
                try:
                    texts[setting] = _text_of(folder.path / name)
                except (OSError, ValueError) as error:
                    why = reason_of(error)
                    problems.append(f"{setting.upper()}: cannot read {folder.path / name}: {why}")
            case several:
                files = " and ".join(several)
                problems.append(f"{setting.upper()}: {files} in {folder.path}: leave one of them")
    return Secrets(texts, problems)


def _text_of(path: Path) -> str:
    """Blanks around it, a last end of line say, are no part of it."""
    # Of a pipe, opening itself would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file")
        content = file.read(_LONGEST + 1)
    if len(content) > _LONGEST:
        raise ValueError("it is too long")
    text = content.decode().strip()
    if not text:  # as a full disk leaves it: without the token everybody would be let in
        raise ValueError("it is blank")
    return text


def reason_of(error: OSError | ValueError) -> str:
    """Why a file cannot be read, without showing any of it."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
