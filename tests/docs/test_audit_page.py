"""docs/audit.md shows what its commands print now, and every command of the auditor that a page names exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from shared.audit.cli import app
from shared.audit.findings import OUTCOMES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "audit.md"
TEXT = PAGE.read_text("utf-8")
EXAMPLES = ("good", "edited-epsilon", "dropped-line", "above-k")


def commands_in(text):
    """Commands of the auditor in code, a pattern like RUN|LEDGER left out."""
    lines = [line.strip().removeprefix("$ ").removeprefix(".venv/bin/") for line in text.splitlines()]
    shown = [line for line in lines if line.startswith("fedrecall-audit ")]
    return {*shown, *re.findall(r"`(fedrecall-audit [^`]+)`", text)}


COMMANDS = sorted(
    {
        command
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "adr").glob("*.md")]
        if path.name != "cli.md"
        for command in commands_in(path.read_text("utf-8"))
        if not re.search(r"[|\[]|\.\.\.", command)
    }
)


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate_audit", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_output_is_what_the_command_prints_now():
    assert generator().audit_page(TEXT) == TEXT, "run: make docs"


def test_an_output_that_is_out_of_date_is_noticed():
    stale = TEXT.replace("The chain holds from line 1", "The chain held from line 1")
    assert stale != TEXT
    assert generator().audit_page(stale) == TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_exist_with_those_options(command):
    _, name, *arguments = shlex.split(command, comments=True)
    group = typer.main.get_command(app)
    child = group.get_command(click.Context(group), name)
    assert child is not None, f"{command}: no such command"
    if arguments:
        child.make_context(name, arguments)


def test_the_page_shows_all_three_outcomes_and_exit_codes():
    assert len(COMMANDS) > 5
    assert all(f"**{outcome}**" in TEXT for outcome in OUTCOMES)
    assert "(exit code 3)" in TEXT
    assert "exit code is 4" in TEXT


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_tried_on_the_page(name):
    assert f"fedrecall-audit verify docs/audit-examples/{name} " in TEXT


def test_the_examples_are_those_and_small():
    folder = ROOT / "docs" / "audit-examples"
    assert {path.name for path in folder.iterdir() if path.is_dir()} - {"__pycache__"} == set(EXAMPLES)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 200_000
