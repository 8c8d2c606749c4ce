"""``fedrecall-sim cold`` and ``adapt``: what is printed, and what stays behind."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from simulations.cold_cli import adapt_command, cold_command

SETS = ["rounds=2", "model.text_encoder=none", "model.rank=4", "privacy.delta=1e-3", "secure_aggregation=ideal"]


@pytest.fixture
def command(tiny_data, tmp_path, monkeypatch):
    """``command(name, *arguments)`` on the tiny data, with a cache of its own."""
    monkeypatch.setenv("FEDRECALL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    app = typer.Typer()
    app.command("cold")(cold_command)
    app.command("adapt")(adapt_command)

    def call(name, *arguments):
        sets = [word for pair in SETS for word in ("--set", pair)]
        return CliRunner().invoke(app, [name, "synthetic", "--data", str(tiny_data), *sets, *arguments])

    return call


def test_cold_prints_a_table_or_json_and_keeps_the_run_only_when_told_to(command, tmp_path):
    done = command("cold", "--out", str(tmp_path / "kept"), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["items"], found["cold"]) == (40, 4)
    assert (tmp_path / "kept" / "report.html").exists()
    said = command("cold", "--seed", "1")
    assert said.exit_code == 0, said.output
    assert "recall@20 of new items" in said.stdout
    assert list(tmp_path.glob("fedrecall-*")) == []


def test_adapt_splits_by_time_whatever_the_preset(command):
    done = command("adapt", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["split"], found["users"]) == ("ts", 24)
