"""What every command line does with what goes wrong: one sentence, an exit code, and no traceback of what is no bug."""

from __future__ import annotations

import errno
import sys

import pytest
import typer

from shared.errors import DataError
from shared.terminal import INTERRUPTED, OK, USAGE, PlainCommand, run_commands


@pytest.fixture
def ended(monkeypatch, capsys):
    """``ended(does, *words)``: exit code and what was said of errors by a program whose one command calls ``does``."""

    def run(does, *words, extras=None):
        app = typer.Typer(name="program", pretty_exceptions_enable=False)
        app.command(cls=PlainCommand)(does)
        monkeypatch.setattr(sys, "argv", ["program", *words])
        with pytest.raises(SystemExit) as end:
            run_commands(app, extras)
        return end.value.code, capsys.readouterr().err

    return run


def raising(error):
    def does():
        raise error

    return does


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (DataError("items.csv:2: a title\x1b[2J is empty"), USAGE, "program: items.csv:2: a title [2J is empty"),
        (OSError(errno.ENOSPC, "No space left", "x"), USAGE, "program: x: No space left"),
        (OSError("gone"), USAGE, "program: the disk: gone"),
        (KeyboardInterrupt(), INTERRUPTED, "program: interrupted"),
        (typer.Abort(), INTERRUPTED, "program: interrupted"),
        (ModuleNotFoundError("no", name="jinja2"), USAGE, "program: jinja2 is missing: pip install 'fedrecall[audit]'"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(ended, error, code, sentence):
    assert ended(raising(error), extras={"jinja2": "audit"}) == (code, f"{sentence}\n")


def test_a_command_ends_with_its_own_code(ended):
    assert ended(lambda: None) == (OK, "")
    assert ended(lambda: 7) == (7, "")
    assert ended(raising(typer.Exit(5))) == (5, "")


def test_an_option_that_is_unknown_is_said(ended):
    code, err = ended(lambda: None, "--nonsense")
    assert (code, "--nonsense" in err) == (USAGE, True)


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), ModuleNotFoundError("no", name="torch")])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    app = typer.Typer(name="program")
    app.command()(raising(error))
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(type(error)):
        run_commands(app, {"jinja2": "audit"})
