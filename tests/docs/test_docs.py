"""Documentation cannot drift: commands exist, generated pages are current, links resolve, nothing local is named."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import click
import pytest
import typer

from shared.config import keys
from simulations.cli import app
from simulations.config import SimulationConfig, preset_names, resolve
from simulations.sweep.grid import Grid, parse_axes, planned

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = ("client", "server", "shared", "simulations", "tests", "docs", ".ci")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".ipynb", ".txt", ".cfg", ".html", ".j2", ".svg", ""}
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str) -> Iterator[str]:
    """The code blocks that a reader would paste into a shell."""
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if language in {"", "bash", "sh", "console", "shell"}:
            yield body.replace("\\\n", " ")


def commands_in(text: str) -> Iterator[str]:
    for body in blocks(text):
        for line in body.splitlines():
            command = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
            if command.startswith("fedrecall-sim"):
                yield command
    yield from re.findall(r"`(fedrecall-sim [^`]+)`", text)


COMMANDS = sorted({(name_of(path), command) for path in PAGES for command in commands_in(path.read_text("utf-8"))})


def parse(command: str) -> None:
    """Parse a documented command as the real one would, without running it; a bare name only has to exist."""
    _, name, *arguments = shlex.split(command, comments=True)
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    if name == "--help":
        return
    child = group.get_command(click.Context(group), name)
    assert child is not None, f"{command}: no such command"
    if arguments:
        child.make_context(name, arguments)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_shows_every_command():
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    readme = (ROOT / "README.md").read_text("utf-8")
    missing = [name for name in group.commands if f"fedrecall-sim {name}" not in readme]
    assert missing == []


@pytest.mark.parametrize(("where", "command"), COMMANDS)
def test_documented_commands_exist_with_those_options(where, command):
    if "..." in command:
        pytest.skip(f"{where}: a pattern, not a command")
    parse(command)


@pytest.mark.parametrize(
    "command", ["fedrecall-sim run --epsilon 4", "fedrecall-sim trane", "fedrecall-sim recommend D"]
)
def test_a_documented_command_that_does_not_exist_is_noticed(command):
    with pytest.raises((click.UsageError, AssertionError)):
        parse(command)


@pytest.mark.parametrize(("where", "command"), COMMANDS)
def test_documented_settings_are_valid(where, command):
    words = shlex.split(command, comments=True)
    pairs = [after for word, after in pairwise(words) if word == "--set" and "KEY" not in after]
    preset = next((word for word in words[2:3] if word in preset_names()), "ml-100k")
    if words[1:2] == ["sweep"]:
        assert planned(Grid((preset,), parse_axes(pairs), (None,), (0,), None))
    else:
        resolve(preset, sets=pairs)


@pytest.mark.parametrize("target", ["help", "install", "simulate", "test", "test-slow", "lint", "docs", "clean"])
def test_documented_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)


@page
def test_named_make_targets_exist(path):
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", path.read_text("utf-8")))
    assert named - known == set()


@page
def test_named_configuration_keys_exist(path):
    sections = "privacy|cohort|model|training|policy|data"
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+)\b", path.read_text("utf-8")))
    files = {"model.safetensors", "policy.json"}
    assert named - set(keys(SimulationConfig)) - files == set()


def test_configuration_reference_is_current():
    assert (ROOT / "docs" / "config.md").read_text("utf-8") == generator().config_reference(), "run: make docs"


def test_command_reference_is_current():
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == generator().cli_reference(), "run: make docs"


def test_the_reference_names_every_key():
    text = (ROOT / "docs" / "config.md").read_text("utf-8")
    assert [key for key in keys(SimulationConfig) if f"`{key}`" not in text] == []


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@page
def test_relative_links_resolve(path):
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        goal = (path.parent / target) if target else path
        if not goal.exists():
            broken.append(link)
        elif anchor and goal.suffix == ".md":
            anchors = {slug(line.lstrip("#")) for line in goal.read_text("utf-8").splitlines() if line.startswith("#")}
            broken += [] if anchor in anchors else [link]
    assert broken == []


@page
def test_source_paths_named_in_pages_exist(path):
    named = set(
        re.findall(r"`((?:client|server|shared|simulations|tests|docs)/[\w/.\-]+\.\w+)`", path.read_text("utf-8"))
    )
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def tracked() -> list[Path]:
    """What git would publish; the source folders where there is no git, such as in an unpacked archive."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    return [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.is_file()]


def test_nothing_local_is_named():
    """Paths of one machine and hosts of package registries belong into a user's own settings."""
    # Written in two parts, so that this file does not name what it looks for.
    words = [
        a + b
        for a, b in (
            ("/wo", "rk/"),
            ("/ro", "ot/"),
            ("/ho", "me/"),
            ("py", "pi."),
            ("pythonhos", "ted."),
            ("hand", "book/data"),
            ("download.py", "torch"),
        )
    ]
    found = []
    for path in tracked():
        if path.suffix not in TEXT or path.name in {"LICENSE", "constraints.txt"} or "__pycache__" in path.parts:
            continue
        text = path.read_text("utf-8", errors="replace")
        found += [f"{name_of(path)}: {word}" for word in words if word in text]
    assert found == []


def test_every_decision_record_has_its_parts():
    records = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    assert len(records) >= 9
    for number, path in enumerate(records, 1):
        text = path.read_text("utf-8")
        assert path.name.startswith(f"{number:04d}-")
        for part in ("## Context", "## Decision", "## Consequences"):
            assert part in text, f"{path.name}: no {part}"


@page
def test_no_number_is_left_to_be_filled_in(path):
    assert not re.search(r"\b(TBD|TODO|FIXME|MEASURED|\w*TABLE)\b", path.read_text(encoding="utf-8"))
