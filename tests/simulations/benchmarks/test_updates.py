"""The benchmark of client updates: the sides train the same thing, and what cannot be measured says so."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from shared.errors import FetchError, RunError
from simulations.benchmarks import updates
from simulations.benchmarks.handover import Case, contributions, material, peer_sum, peer_task
from simulations.benchmarks.peers import make
from simulations.benchmarks.peers.models import build
from simulations.benchmarks.peers.task import PeerTask, Terms, read_task, write_task
from simulations.benchmarks.updates import Plan, measure
from simulations.benchmarks.updates_own import SUM, TASK, summed
from simulations.benchmarks.updates_own import measure as measure_own
from simulations.benchmarks.updates_table import show

SMALL = {"users": 12, "cohort": 6}
CASES = [Case(kind, 16, 32, steps, **SMALL) for kind in ("linear", "mean") for steps in (1, 3)]


def trained_by_a_peer(task: PeerTask) -> np.ndarray:
    """Plain SGD of one user after another, clip and sum, as peers do it."""
    terms, total = task.terms, {}
    for user in range(terms.cohort):
        module = build(terms.kind, task.parameters)
        start = {name: value.clone() for name, value in module.state_dict().items()}
        optimizer = torch.optim.SGD(module.parameters(), lr=terms.rate)
        rows = [torch.from_numpy(part[user]) for part in task.data]
        batches = [[part[i : i + 1] for part in rows] for i in range(len(rows[0]))] if terms.batch else [rows]
        for batch in batches * terms.epochs:
            optimizer.zero_grad()
            module.loss(*batch).backward()
            optimizer.step()
        change = {name: value - start[name] for name, value in module.state_dict().items()}
        norm = torch.cat([value.ravel() for value in change.values()]).norm()
        for name, value in change.items():
            total[name] = total.get(name, 0.0) + value * min(1.0, terms.clip / float(norm))
    return {name: value.numpy() for name, value in total.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.steps}")
def test_a_peer_that_trains_user_by_user_finds_the_sum_of_the_product(case, tmp_path):
    measure_own(case, 0.01, 1, tmp_path)
    task = read_task(tmp_path / TASK)
    theirs = peer_sum(case.kind, trained_by_a_peer(task))
    ours = np.load(tmp_path / SUM)
    assert np.linalg.norm(theirs - ours) < 1e-4 * np.linalg.norm(ours)


def test_half_of_the_users_are_clipped_so_that_clipping_is_compared_too(tmp_path):
    case = CASES[0]
    clip = measure_own(case, 0.01, 1, tmp_path)["clip"]
    rows = np.concatenate([part.copy() for part in contributions(material(case), slice(0, 6), 1)])
    assert 0 < (np.linalg.norm(rows, axis=1) > clip).sum() < 6


def test_a_sum_over_the_grid_that_lost_a_user_is_an_error(tmp_path, monkeypatch):
    from simulations.benchmarks import updates_own

    monkeypatch.setattr(updates_own, "summed", lambda made, _users, *rest: summed(made, slice(0, 5), *rest))
    with pytest.raises(RunError, match="not that of the clipped contributions"):
        measure_own(CASES[0], 0.01, 1, tmp_path)


def test_every_user_has_ten_different_items_and_every_process_the_same():
    first, second = material(CASES[0]), material(CASES[0])
    assert all(len(set(history.item)) == 10 for history in first.histories)
    assert np.array_equal(first.parameters, second.parameters)
    assert np.array_equal(first.histories[3].item, second.histories[3].item)


def test_a_task_survives_its_file(tmp_path):
    terms = Terms("linear", 1, 0, 0.5, 1.0, 6, 1, 0.1)
    task = peer_task(material(CASES[0]), terms)
    write_task(tmp_path / "task.npz", task)
    back = read_task(tmp_path / "task.npz")
    assert back.terms == terms
    assert np.array_equal(back.parameters["target.weight"], task.parameters["target.weight"])
    assert [part.shape for part in back.data] == [(12, 1, 16), (12, 1, 32)]


@pytest.fixture
def quick(monkeypatch):
    """Ours in this process; peers answer at once."""

    def in_child(_module, case, seconds, repeats, folder):
        return measure_own(Case(**json.loads(case)), float(seconds), int(repeats), Path(folder))

    monkeypatch.setattr(updates, "in_child", in_child)
    monkeypatch.setattr(updates, "product_rate", lambda: 1e9)
    monkeypatch.setattr(updates, "copy_rate", lambda _size: 1e9)
    return Plan(cases=(CASES[0],), seconds=0.01, repeats=1, hidden=(4,), rounds=0)


def answering(kind, factor=1.0):
    """A peer whose sum is ours times a factor, where there is one."""

    def peer(task_path, sum_path):
        task = read_task(task_path)
        if task.terms.kind == kind:
            found = trained_by_a_peer(task)
            np.savez(sum_path, **{name: factor * value for name, value in found.items()})
        return {"rates": [100.0, 110.0, 90.0], "versions": {"peer": "1"}}

    return peer


def shown(result) -> str:
    console = Console(width=160, file=io.StringIO())
    show(result, console)
    return console.file.getvalue()


def test_a_row_is_ours_beside_the_bound_and_both_peers(quick, monkeypatch):
    monkeypatch.setattr(updates, "_pfl", lambda _say: answering("linear"))
    monkeypatch.setattr(updates, "run_flower", answering("linear"))
    result = measure(lambda _: None, peers=True, plan=quick)
    (row,) = result["rows"]
    assert row["peers"]["pfl"]["times"] == row["rate"]["median"] / 100.0
    assert row["peers"]["pfl"]["distance"] < 1e-4
    assert [bar["bar"] for bar in result["bars"]] == [">= 20", ">= 50"]
    assert [line["parameters"] for line in result["calibration"]] == [310, 310]
    assert "Peers" in shown(result)
    assert "peer 1" in shown(result)  # its version


def test_a_peer_with_another_sum_is_an_error_and_no_figure(quick, monkeypatch):
    monkeypatch.setattr(updates, "_pfl", lambda _say: answering("linear", 1.001))
    with pytest.raises(RunError, match="its time says nothing"):
        measure(lambda _: None, peers=True, plan=quick)


def test_without_peers_nobody_is_asked_and_nothing_is_judged(quick, monkeypatch):
    monkeypatch.setattr(updates, "_pfl", lambda _say: pytest.fail("asked"))
    result = measure(lambda _: None, plan=quick)
    assert result["bars"] == []
    assert "Peers" not in shown(result)


def test_a_peer_that_cannot_be_installed_is_a_row_that_says_so(quick, monkeypatch):
    def fails(_cache, _say):
        raise FetchError("pfl cannot be installed here: no such registry")

    monkeypatch.setattr(updates, "pfl_environment", fails)
    monkeypatch.setattr(updates, "run_flower", answering("linear"))
    result = measure(lambda _: None, peers=True, plan=quick)
    assert result["rows"][0]["peers"]["pfl"] == {"missing": "pfl cannot be installed here: no such registry"}
    assert result["calibration"] == []
    assert "no such registry" in shown(result)


def test_an_environment_that_pip_refuses_is_one_sentence_and_is_not_taken_for_ready(tmp_path, monkeypatch):
    def refuses(command, **_):
        return subprocess.CompletedProcess(
            command, 1, "", "noise\nERROR: No matching distribution found for pfl==0.6.0"
        )

    monkeypatch.setattr(make.subprocess, "run", refuses)
    monkeypatch.setattr(make.venv, "create", lambda home, **_: home.mkdir(parents=True))
    for _ in range(2):
        with pytest.raises(FetchError, match=r"pfl cannot be installed here: ERROR: No matching .* pfl==0\.6\.0"):
            make.pfl_environment(tmp_path, lambda _: None)


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(make.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    monkeypatch.setattr(make.venv, "create", lambda home, **_: (made.append(home), home.mkdir(parents=True)))
    homes = [make.pfl_environment(tmp_path, lambda _: None) for _ in range(2)]
    assert homes == made * 2


def test_a_script_that_fails_is_an_error_with_its_last_words(tmp_path):
    with pytest.raises(RunError, match=r"ended with 1: .*no module named"):
        make.run_script([sys.executable, "-c", "raise SystemExit('no module named pfl')"], tmp_path)
    said = make.run_script([sys.executable, "-c", "print('noise'); print('{\"rates\": [1.0]}')"], tmp_path)
    assert said == {"rates": [1.0]}


def test_what_the_environment_of_pfl_is_given_imports_nothing_of_fedrecall():
    for name in make.SHARED:
        lines = (make.HERE / name).read_text(encoding="utf-8").splitlines()
        own = [line for line in lines if line.startswith(("from simulations", "from shared", "from client"))]
        assert all(line.startswith("from simulations.benchmarks.peers.") for line in own)


def test_a_peer_that_fails_while_it_runs_is_rows_that_say_so(quick, monkeypatch):
    def breaks(_task_path, _sum_path):
        raise RunError("the peer's script ended with 1: out of memory")

    monkeypatch.setattr(updates, "_pfl", lambda _say: breaks)
    monkeypatch.setattr(updates, "run_flower", breaks)
    result = measure(lambda _: None, peers=True, plan=quick)
    assert all("out of memory" in found["missing"] for found in result["rows"][0]["peers"].values())
    assert all("out of memory" in row["missing"] for row in result["calibration"])
    assert shown(result).count("out of memory") == 4
