"""All measurements in one: in order, none stopped by another's failure, one JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from shared.errors import RunError
from simulations.bench_cli import bench_app
from simulations.benchmarks import everything
from simulations.benchmarks.everything import Part


def works(say):
    say("at it")
    return {"seconds": 1.5}


def fails(_say):
    raise RunError("no room on this machine")


def shown(result, console):
    console.print(f"table of {result['seconds']}")


GOOD = {"first": Part(works, shown), "second": Part(works, shown)}
BAD = {"first": Part(fails, shown), "second": Part(works, shown)}


@pytest.fixture
def every(monkeypatch):
    """Stands in for the measurements; what `--peers` was."""
    asked = []
    made = dict(GOOD)
    monkeypatch.setattr(everything, "parts", lambda *, peers: asked.append(peers) or made)
    return asked, made


def test_what_the_project_names_is_measured_in_its_order():
    assert list(everything.parts(peers=False)) == ["updates", "secagg", "recall", "memory", "scale", "startup"]


@pytest.mark.parametrize("peers", [False, True])
def test_the_peers_that_take_their_time_are_asked_for(peers):
    parts = everything.parts(peers=peers)
    assert [parts[name].measure.keywords for name in ("updates", "secagg")] == [{"peers": peers}] * 2


def test_every_result_has_its_name_and_progress_says_whose_it_is():
    said = []
    assert everything.measure(said.append, GOOD) == {"first": {"seconds": 1.5}, "second": {"seconds": 1.5}}
    assert said == ["first: 1 of 2", "first: at it", "second: 2 of 2", "second: at it"]


def test_what_fails_says_why_and_stops_no_other():
    assert everything.measure(lambda _: None, BAD) == {
        "first": {"failed": "no room on this machine"},
        "second": {"seconds": 1.5},
    }


def breaks(_say):
    raise KeyError("peak")


def interrupted(_say):
    raise KeyboardInterrupt


def test_an_error_that_nobody_foresaw_stops_no_other_either():
    result = everything.measure(lambda _: None, {"first": Part(breaks, shown), "second": Part(works, shown)})
    assert result == {"first": {"failed": "KeyError: 'peak'"}, "second": {"seconds": 1.5}}


def test_ctrl_c_keeps_what_was_measured_and_measures_no_more():
    every = {"first": Part(works, shown), "second": Part(interrupted, shown), "third": Part(works, shown)}
    stopped = {"failed": "interrupted"}
    assert everything.measure(lambda _: None, every) == {"first": {"seconds": 1.5}, "second": stopped, "third": stopped}


def test_the_command_prints_one_json(every):
    done = CliRunner().invoke(bench_app, ["all", "--json", "--peers"])
    assert json.loads(done.output) == {"first": {"seconds": 1.5}, "second": {"seconds": 1.5}}
    assert (done.exit_code, every[0]) == (0, [True])


def test_the_command_prints_every_table_and_its_exit_code_tells_of_a_failure(every):
    good = CliRunner().invoke(bench_app, ["all"])
    assert (good.exit_code, good.stdout.count("table of 1.5")) == (0, 2)
    every[1].update(BAD)
    bad = CliRunner().invoke(bench_app, ["all"])
    assert (bad.exit_code, bad.stdout.count("table of 1.5")) == (6, 1)
    assert "failed: no room on this machine" in bad.stdout
