"""The pages hold together: each block is run, each link leads somewhere, each command is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from service.cli.common import PROGRAM, cli
from tests.docs.pages import ROOT, SMOKE, blocks, pages

HERE = Path(__file__).parent
OF_OTHERS = {"containers", "kubernetes", "scaling", "security", "take-over"}
"""Pages whose commands are those of other programs, too."""

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_REGISTRY = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|docker|ghcr|gcr|quay|mcr|crates|rubygems)\.(?:org|io|com)\b"
)
_FENCE = re.compile(r"^```", re.MULTILINE)


def prose_of(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors_of(page: Path) -> set[str]:
    """Headings as GitHub makes anchors of them."""
    headings = _HEADING.findall(prose_of(page))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def links_of(page: Path) -> list[str]:
    links = _LINK.findall(prose_of(page))
    return [link for link in links if not link.startswith(("http://", "https://", "mailto:"))]


def target_of(page: Path, link: str) -> tuple[Path, str]:
    path, _, anchor = link.partition("#")
    return (page.parent / path).resolve() if path else page, anchor


def faults_of(page: Path) -> Iterator[str]:
    for link in links_of(page):
        target, anchor = target_of(page, link)
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            yield f"{page.name}: {link}"


named = [each for each in blocks() if each.language != "text"]


def test_every_fence_is_a_block_that_was_found() -> None:
    """An indented or unclosed one would be run by nobody, and noticed by nobody."""
    for page in pages():
        fences = len(_FENCE.findall(page.read_text(encoding="utf-8")))
        found = [each for each in blocks() if each.page == page]
        assert fences == 2 * len(found), page.name
        assert "```" not in prose_of(page), page.name


def test_every_block_has_a_name_of_its_own() -> None:
    assert [str(each) for each in named if each.name is None] == []
    names = [each.name for each in named]
    assert sorted(names, key=str) == sorted(set(names), key=str)


def test_every_block_is_run_by_a_test() -> None:
    modules = [*HERE.glob("test_*.py"), *(ROOT / "tests" / "takeover").glob("*.py")]
    modules.remove(Path(__file__))
    tests = "\n".join(module.read_text(encoding="utf-8") for module in modules)
    wanted = [each for each in named if each.name and not each.name.startswith(SMOKE)]
    assert [str(each) for each in wanted if not re.search(f"[\"']{each.name}[\"']", tests)] == []


def test_what_only_an_engine_can_run_stands_in_the_smoke_test() -> None:
    script = (ROOT / "scripts" / "smoke").read_text(encoding="utf-8")
    blocks_of_smoke = [each for each in named if (each.name or "").startswith(SMOKE)]
    lines = [line.strip() for each in blocks_of_smoke for line in each.text.splitlines()]
    assert [line for line in lines if line and line not in script] == []


def test_every_link_leads_somewhere() -> None:
    assert [fault for page in pages() for fault in faults_of(page)] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, open_pages = set[Path](), [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        open_pages += [target_of(page, link)[0] for link in links_of(page)]
    assert [page.name for page in pages() if page not in reached] == []


def test_every_page_begins_with_what_it_answers() -> None:
    for page in pages():
        lines = page.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# "), page.name
        assert lines[1] == "", page.name
        assert lines[2][:1].isalnum(), page.name


def test_lines_that_are_no_tables_can_be_read() -> None:
    """A link at the end of a line may be long."""
    for page in pages():
        for line in prose_of(page).splitlines():
            assert line.startswith(("|", "!")) or len(line) <= 165, f"{page.name}: {line}"


def test_no_page_names_a_registry() -> None:
    assert [page.name for page in pages() if _REGISTRY.search(page.read_text("utf-8"))] == []


def test_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 75


def group_of_commands() -> TyperGroup:
    group = typer.main.get_command(cli)
    assert isinstance(group, TyperGroup)
    return group


COMMANDS = group_of_commands()


def commands_in(text: str) -> list[list[str]]:
    """The arguments of our program wherever it begins a line."""
    lines = (line for line in text.splitlines() if line.startswith(f"{PROGRAM} "))
    return [shlex.split(line, comments=True)[1:] for line in lines]


def spoken_of(page: Path) -> list[list[str]]:
    """The same within sentences, where brackets say what may be left out."""
    spans = [span for span in _SPAN.findall(prose_of(page)) if span.startswith(f"{PROGRAM} ")]
    plain = (re.sub(r"[\[\]…]", "", span) for span in spans)
    return [shlex.split(span)[1:] for span in plain]


def parse(arguments: list[str]) -> None:
    """Parse as the program would, and run nothing. Raises what says that this is wrong."""
    name, *rest = arguments
    if name.startswith("-"):
        assert any(name in option.opts for option in COMMANDS.params), name
        return
    assert name in COMMANDS.commands, name
    if rest:  # a sentence may speak of the command as such
        COMMANDS.commands[name].make_context(name, list(rest))


CALLED = [
    *(each for block in named if block.language == "bash" for each in commands_in(block.text))
]
SPOKEN = [each for page in pages() for each in spoken_of(page)]


@pytest.mark.parametrize("arguments", [*CALLED, *SPOKEN], ids=" ".join)
def test_every_command_is_there_with_its_options(arguments: list[str]) -> None:
    parse(arguments)


def test_commands_that_are_not_there_are_noticed() -> None:
    assert len(CALLED) > 10
    assert len(SPOKEN) > 10
    for wrong in (["prmote"], ["pause", "a", "--untl", "2h"], ["jobs", "--state", "odd"]):
        with pytest.raises((AssertionError, typer.BadParameter.__mro__[1])):
            parse(wrong)


def known_options() -> set[str]:
    """Of our commands, of scripts, and what pytest and Typer have by themselves."""
    sources = [*(ROOT / "scripts").iterdir(), ROOT / "service" / "demo" / "conductor.py"]
    sources += [ROOT / "tests" / name / "__main__.py" for name in ("bench", "chaos")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in sources if file.is_file())
    commands = [COMMANDS, *COMMANDS.commands.values()]
    options = {name for each in commands for option in each.params for name in option.opts}
    return options | set(re.findall(r"--[a-z][a-z-]+", code)) | {"--install-completion"}


def test_every_option_is_one() -> None:
    ours = [page for page in pages() if page.stem not in OF_OTHERS]
    spoken = {name for page in ours for name in re.findall(r"`(--[a-z-]+)", prose_of(page))}
    assert len(spoken) > 10
    assert spoken - known_options() == set()


def test_scripts_that_are_spoken_of_are_there() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    scripts = set(re.findall(r"\b(scripts/[\w./-]*\w)", text))
    assert {"scripts/demo", "scripts/test", "scripts/prometheus-alerts.yaml"} <= scripts
    missing = [name for name in sorted(scripts) if not (ROOT / name).exists()]
    assert missing == [], f"of {len(scripts)}"


def test_blocks_of_mongosh_and_node_are_told_apart_from_shells() -> None:
    assert {each.language for each in blocks()} <= _LANGUAGES


_LANGUAGES = {"bash", "console", "js", "json", "promql", "python", "text", "yaml"}
