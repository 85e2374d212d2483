"""The code blocks of README.md and docs/: each is named after what runs it.

A block is preceded by the line `<!-- test: NAME -->`; a test asks for it by `block("NAME")`, so
what the page says is what is run. Names that begin with `smoke` stand in `scripts/smoke`, line by
line. Only blocks of the language `text` (pictures, answers, things to fill in) have no name.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMOKE = "smoke"
_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<name>[\w.-]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it stands, what it is written in, and its lines."""

    page: Path
    line: int
    name: str | None
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} {self.name or self.language}"


def pages() -> list[Path]:
    """README and every page of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks() -> list[Block]:
    """All blocks of all pages, in their order."""
    return [found for page in pages() for found in _blocks_of(page)]


def block(name: str) -> str:
    """The text of the block of this name; there must be exactly one."""
    (found,) = (each.text for each in blocks() if each.name == name)
    return found


def _blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page, text.count("\n", 0, m.start()) + 1, m["name"], m["language"] or "none", m["text"]
        )
        for m in _BLOCK.finditer(text)
    ]
