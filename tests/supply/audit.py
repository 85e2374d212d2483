"""`python -m tests.supply.audit`: are vulnerabilities known of what the lock files name?

Ends with 0 where none is, 1 where some are (each is told, with the versions that mend it), 3 where
that could not be asked, for one of them or for all. Arguments go to pip-audit: `-s osv`, say.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LOCKS = ("scripts/requirements.lock", "scripts/requirements-build.lock")
FINE, VULNERABLE, UNASKED = 0, 1, 3
_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Audit:
    """What is known: one line for each vulnerability, and the names that were not judged."""

    vulnerabilities: tuple[str, ...]
    unasked: tuple[str, ...]
    count: int

    @property
    def exit_code(self) -> int:
        """A vulnerability counts for more than a name that was not judged."""
        if self.vulnerabilities:
            return VULNERABLE
        return UNASKED if self.unasked or not self.count else FINE


def audit_in(report: str) -> Audit:
    """Read pip-audit's JSON. Raises ValueError where it is none, as after a fault."""
    found = json.loads(report)["dependencies"]
    return Audit(
        tuple(_line(each, flaw) for each in found for flaw in each.get("vulns", ())),
        tuple(each["name"] for each in found if "skip_reason" in each),
        len(found),
    )


def _line(dependency: dict[str, Any], flaw: dict[str, Any]) -> str:
    names = ", ".join([flaw["id"], *flaw["aliases"]])
    mended = ", ".join(flaw["fix_versions"]) or "no version"
    return f"{dependency['name']} {dependency['version']}: {names}; mended by {mended}"


def main(arguments: Sequence[str], seconds: float = _SECONDS) -> int:
    """Ask, tell, and answer the exit code."""
    try:
        done = _asked(arguments, seconds)
    except subprocess.TimeoutExpired:
        _say([], f"the vulnerability service has not told all within {seconds:g} s")
        return UNASKED
    try:
        audit = audit_in(done.stdout)
    except ValueError:
        _say(done.stderr.strip().splitlines()[-1:], "the vulnerability service was not reached")
        return UNASKED
    _tell(audit)
    return audit.exit_code


def _asked(arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """What pip-audit says. Raises TimeoutExpired."""
    locks = [word for lock in LOCKS for word in ("--requirement", lock)]
    return subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", *locks, "--require-hashes", "--disable-pip"),
            *("--format", "json", "--progress-spinner", "off", *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _tell(audit: Audit) -> None:
    if audit.vulnerabilities:
        _say(audit.vulnerabilities, f"{len(audit.vulnerabilities)} known vulnerabilities")
    if audit.unasked:
        few = ", ".join(audit.unasked[:5])
        _say([], f"{len(audit.unasked)} of {audit.count} could not be judged: {few}, …")
    if audit.exit_code == FINE:
        _say([], f"{audit.count} releases, no known vulnerability")


def _say(lines: Sequence[str], conclusion: str) -> None:
    print(*lines, f"scripts/audit: {conclusion}", sep="\n")  # noqa: T201 a command speaks


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
