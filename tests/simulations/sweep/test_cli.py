"""The command, end to end: real runs in processes of their own, killed in the middle, and on a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import typer
from typer.testing import CliRunner

from server.resuming import held
from shared.errors import ConfigError, RunError
from simulations.sweep_cli import SOME_FAILED, sweep_command

SETS = (
    *("model.text_encoder=none", "model.rank=4", "policy.measure_every=2", "training.context=8"),
    *("training.targets=4", "training.negatives=8", "privacy.delta=1e-3", "policy.k=20", "policy.depth=20"),
    "secure_aggregation=ideal",
)
FILES = {"sweep.md", "sweep.csv", "sweep.json", "runs", "yardsticks", ".lock"}


def words_of(data, out, *more):
    fixed = ["synthetic", "--data", str(data), "--out", str(out)]
    return [*fixed, *(word for pair in SETS for word in ("--set", pair)), *more]


@pytest.fixture
def sweep(tiny_data, tmp_path, monkeypatch):
    """``sweep("--seeds", "0")``: a process that does what the command does."""
    monkeypatch.setenv("FEDRECALL_CACHE", str(tmp_path / "cache"))

    def start(*more, out=tmp_path / "out", rounds=3):
        asked = words_of(tiny_data, out, "--set", f"rounds={rounds}", *more)
        words = [sys.executable, "-m", "simulations.cli", "sweep", *asked]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def end(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


def finished(out):
    return {path.parent.name for path in (out / "runs").glob("*/report.html")}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--seeds", "two"), ConfigError),
        (("--epsilons", "0"), ConfigError),
        (("--presets", "ml-100k"), ConfigError),  # beside one without an option
        (("--set", "policy.k=10,ten"), ConfigError),
    ],
)
def test_a_wrong_option_is_one_sentence_and_nothing_is_written(tiny_data, tmp_path, words, error):
    app = typer.Typer()
    app.command()(sweep_command)
    called = CliRunner().invoke(app, words_of(tiny_data, tmp_path / "out", *words))
    assert isinstance(called.exception, error)
    assert not (tmp_path / "out").exists()


def test_no_cluster_at_an_address_is_one_sentence_before_anything_is_read(tiny_data, tmp_path):
    app = typer.Typer()
    app.command()(sweep_command)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        called = CliRunner().invoke(app, words_of(tiny_data, tmp_path / "out", "--ray", address))
    assert isinstance(called.exception, RunError)
    assert "no Ray cluster there" in str(called.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_and_nothing_finished_is_run_again(sweep, tmp_path):
    asked, out = ("--seeds", "0..2", "--epsilons", "none,8", "--jobs", "2", "--json"), tmp_path / "out"
    first = sweep(*asked)
    while not finished(out):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.kill()  # SIGKILL: nothing of it can tidy up
    end(first, -signal.SIGKILL)
    begun = [path.parent for path in (out / "runs").glob("*/config.toml")]
    limit = time.monotonic() + 30
    while any(held(folder / ".lock") for folder in begun):
        assert time.monotonic() < limit, "a run went on without the sweep"
        time.sleep(0.05)
    done = finished(out)
    assert 0 < len(done) < 6
    stamps = {path: path.stat().st_mtime_ns for name in done for path in (out / "runs" / name).rglob("*")}
    result, said = end(sweep(*[word for word in asked if word != "--json"]))
    assert f"{len(done)} of 6 runs are there already" in said
    assert not any(f"begun: {name}" in said for name in done)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(finished(out)) == 6
    assert "Validation items" in result
    pictures = {path.name.rpartition("-")[2] for path in out.iterdir()} - FILES
    assert pictures == {"test.png", "test.svg", "validation.png", "validation.svg"}
    again, _ = end(sweep(*asked))
    whole, _ = end(sweep(*asked, out=tmp_path / "whole"))
    assert json.loads(again)["sections"] == json.loads(whole)["sections"]  # a kill changes no number


@pytest.mark.slow
def test_one_run_that_fails_leaves_the_others_and_the_exit_code_says_so(sweep, tiny_data, tmp_path):
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    name = f"{tiny_data.name}-epsilon-8-seed-1"
    (out / "runs" / name).mkdir()
    (out / "runs" / name / "letter.txt").write_text("somebody's")
    result = json.loads(end(sweep("--seeds", "0,1", "--epsilons", "8", "--json"), SOME_FAILED)[0])
    assert [failure["run"] for failure in result["failed"]] == [name]
    assert "not empty" in result["failed"][0]["why"]
    assert result["sections"][0]["rows"][0]["seeds"] == [0]
    (out / "runs" / name / "letter.txt").unlink()
    result = json.loads(end(sweep("--seeds", "0,1", "--epsilons", "8", "--json"))[0])
    assert result["failed"] == []
    assert result["sections"][0]["rows"][0]["seeds"] == [0, 1]


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(sweep, tmp_path):
    out = tmp_path / "out"
    process = sweep("--seeds", "0,1", "--epsilons", "8", "--jobs", "2", rounds=200)
    while not list((out / "runs").glob("*/checkpoint.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = end(process, 130)
    assert "the same command goes on from there" in said
    assert not any(held(path.parent / ".lock") for path in (out / "runs").glob("*/config.toml"))


@pytest.fixture
def cluster(tmp_path, tmp_path_factory, monkeypatch):
    """A Ray cluster of this machine with two cores: its address."""
    monkeypatch.setenv("FEDRECALL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    short = tmp_path_factory.mktemp("r")  # sockets lie in it, whose paths may have a hundred characters
    words = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    words += ["--include-dashboard=false", f"--temp-dir={short}", "--disable-usage-stats"]
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *words[1:]], stdout=log, stderr=log, start_new_session=True
        )
    try:
        limit = time.monotonic() + 60
        while "Ray runtime started" not in (tmp_path / "ray.log").read_text():
            assert head.poll() is None, (tmp_path / "ray.log").read_text()
            assert time.monotonic() < limit, (tmp_path / "ray.log").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        with suppress(subprocess.TimeoutExpired):
            head.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()


@pytest.mark.slow
def test_a_ray_cluster_gives_the_numbers_that_processes_give(sweep, cluster, tmp_path):
    asked = ("--seeds", "0,1", "--epsilons", "none,8", "--json")
    on_ray = json.loads(end(sweep(*asked, "--ray", cluster))[0])
    here = json.loads(end(sweep(*asked, out=tmp_path / "here"))[0])
    assert on_ray["sections"] == here["sections"]
    assert on_ray["failed"] == []
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*.json")}
    end(sweep(*asked, "--ray", cluster))  # nothing is left to do, on a cluster or here
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
