"""The machine that measures, and what its kernel says of a process."""

import os
import platform
import subprocess
from pathlib import Path

from service.adapters.embedded import find_mongod

_HERE = Path(__file__).resolve().parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def description() -> dict[str, str | int]:
    """What figures must be read with: processor, versions, the revision of the service."""
    return {
        "cores": os.cpu_count() or 1,
        "cpu": _cpu_model(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES / 2**30),
        "python": platform.python_version(),
        "mongod": _said(str(find_mongod(os.environ)), "--version").partition("\n")[0],
        "service": _revision(),
    }


def rss_bytes(pid: int) -> int:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def cpu_seconds(pid: int) -> float:
    """The processor time of a process since its start, of all its threads."""
    # The name of the program, in brackets, may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _revision() -> str:
    revision = _said("git", "-C", str(_HERE), "rev-parse", "--short", "HEAD") or "no git"
    changed = _said("git", "-C", str(_HERE), "status", "--porcelain", "--", "service")
    return f"{revision} with changes" if changed else revision


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return done.stdout.strip()
