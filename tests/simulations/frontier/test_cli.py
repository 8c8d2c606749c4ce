"""The command, end to end on data small enough for seconds."""

from __future__ import annotations

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from shared.errors import ConfigError, RunError
from simulations.frontier_cli import frontier_command

SETS = (
    *("rounds=2", "model.text_encoder=none", "model.rank=4", "policy.measure_every=2", "training.context=8"),
    *("training.targets=4", "training.negatives=8", "privacy.delta=1e-3", "policy.k=20", "policy.depth=20"),
    "secure_aggregation=ideal",
)


@pytest.fixture
def frontier(tmp_path, tiny_data, monkeypatch):
    """``frontier("--epsilons", "none")``: the command with everything written under a folder of the test."""
    monkeypatch.setenv("FEDRECALL_CACHE", str(tmp_path / "cache"))
    app = typer.Typer()
    app.command()(frontier_command)

    def call(*words, results=tmp_path / "results"):
        fixed = ["synthetic", "--data", str(tiny_data), "--out", str(tmp_path / "out"), "--results", str(results)]
        fixed += [word for pair in SETS for word in ("--set", pair)]
        return CliRunner().invoke(app, [*fixed, *words], catch_exceptions=True)

    return call


def test_the_command_writes_page_plot_and_tables_and_a_second_call_reuses_everything(frontier, tmp_path):
    first = frontier("--epsilons", "8", "--seeds", "0", "--json")
    assert first.exit_code == 0, first.output
    result = json.loads(first.stdout)
    ours = [row for row in result["rows"] if row["name"] == "fedrecall"]
    assert [row["epsilon"] for row in ours] == [8.0]
    assert 4.0 < ours[0]["claim"]["epsilon"] <= 8.0  # what was spent: not every release is due in two rounds
    assert (ours[0]["claim"]["unit"], ours[0]["claim"]["trust"]) == ("user", "distributed")
    name = result["preset"]
    files = {f"{name}.{ending}" for ending in ("md", "csv", "json", "png", "svg")}
    assert {path.name for path in (tmp_path / "results").iterdir()} == files
    summary = json.loads((tmp_path / "out" / "epsilon-8-seed-0" / "summary.json").read_text())
    page = (tmp_path / "results" / f"{name}.md").read_text()
    assert f"{summary['test']['ndcg@10']:.4f}" in page
    assert str(tmp_path) not in page
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    second = frontier("--epsilons", "8", "--seeds", "0")
    assert "is there already" in second.output
    assert re.search(r"\| fedrecall +\| 8 ", second.stdout)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")} == stamps


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--epsilons", "8,many"), ConfigError),
        (("--seeds", ","), ConfigError),
        (("--set", "privacy.epsilon=3"), ConfigError),
        (("--epsilons", "none", "--set", "engine=ray"), ConfigError),
    ],
)
def test_wrong_use_is_one_sentence_and_starts_nothing(frontier, tmp_path, words, error):
    result = frontier(*words)
    assert isinstance(result.exception, error)
    assert not (tmp_path / "out").exists()


def test_results_that_cannot_be_written_are_refused_before_the_runs(frontier, tmp_path):
    (tmp_path / "file").write_text("")
    result = frontier("--epsilons", "none", results=tmp_path / "file")
    assert isinstance(result.exception, RunError)
    assert "--results" in str(result.exception)
    assert not (tmp_path / "out").exists()
