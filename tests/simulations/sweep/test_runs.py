"""A sweep in its folder: what is finished stays, what failed is tried again, what does not belong is refused."""

from __future__ import annotations

import json
import re

import pytest
import tomli_w

from server.resuming import alone
from shared.errors import ConfigError, RunError
from simulations.frontier.page import Circumstances
from simulations.frontier.rows import BOTH, METRICS, TRAIN, VALID, said
from simulations.sweep.grid import Grid, parse_axes, planned
from simulations.sweep.page import terminal
from simulations.sweep.publish import publish
from simulations.sweep.runs import answer, unfinished

SETS = ("rounds=2", "model.text_encoder=none", "privacy.delta=1e-3")


@pytest.fixture
def sweep(tmp_path, tiny_data):
    """``sweep(grid)``: answered by stand-ins that leave what runs leave. ``sweep.done`` grows; ``sweep.fail`` fails."""
    done: list[str] = []
    fail: dict[str, str] = {}

    def dispatch(orders, begun):
        for name, order in orders.items():
            begun(name)
            done.append(name)
            folder = tmp_path / "out" / "runs" / name
            assert str(folder) == order.folder
            folder.mkdir(exist_ok=True)
            (folder / "config.toml").write_text(tomli_w.dumps(order.config))
            if name in fail:
                yield name, fail[name]
                continue
            (folder / "summary.json").write_text(json.dumps(summary(order.config)))
            (folder / "report.html").write_text("")
            yield name, None

    def runs(*sets, epsilons=(None, 8.0), seeds=(0, 1)):
        return planned(Grid(("synthetic",), parse_axes([*SETS, *sets]), epsilons, seeds, tiny_data))

    def go(*sets, folder=tmp_path / "out", **asked):
        return answer(
            runs(*sets, **asked), folder, dispatch, cache=tmp_path / "cache", source=None, say=said_so_far.append
        )

    said_so_far: list[str] = []
    go.done, go.fail, go.said, go.runs = done, fail, said_so_far, runs
    return go


def summary(config):
    epsilon = config["privacy"]["epsilon"]
    value = 0.2 + 0.01 * config["seed"] + (0.1 if epsilon == "none" else 0.0)
    claim = {"epsilon": None} if epsilon == "none" else {"epsilon": epsilon, "unit": "user", "adjacency": "zero-out"}
    claim |= {"trust": "distributed", "delta": 1e-3, "accountant": "PLD", "covers": "all", "covers_tuning": False}
    metrics = {name: dict.fromkeys(METRICS, value) for name in ("test", "test_reading_train")}
    metrics["valid"] = dict.fromkeys(METRICS, value - 0.1)
    return claim | metrics | {"seed": config["seed"], "asked": "", "stopped": "finished", "rounds_done": 2, "rounds": 2}


def test_rows_are_means_over_seeds_beside_floor_and_ceiling(sweep):
    (section,) = sweep().sections
    assert [(row.name, said(row.epsilon), row.seeds) for row in section.rows] == [
        ("fedrecall", "none", (0, 1)),
        ("fedrecall", "8", (0, 1)),
        ("popularity", "none", (0, 1)),
        ("EASE", "none", (0, 1)),
    ]
    for row in section.rows:
        assert set(row.metrics) == {TRAIN, BOTH, VALID}
    private = section.rows[1].metrics
    assert private[BOTH]["recall@20"].mean == pytest.approx(0.205)
    assert private[VALID]["recall@20"].mean == pytest.approx(0.105)


def test_a_second_sweep_runs_what_is_new_alone(sweep, tmp_path):
    first = sweep()
    sweep.done.clear()
    sweep.said.clear()
    assert unfinished(sweep.runs(), tmp_path / "out") == []  # so no cluster is asked for
    assert sweep() == first
    assert sweep.done == []
    assert not any(sentence.startswith("data ") for sentence in sweep.said)  # nor is anything fitted again
    sweep(epsilons=(None, 8.0, 2.0))
    assert {name.partition("-epsilon-")[2] for name in sweep.done} == {"2-seed-0", "2-seed-1"}


def test_more_items_than_the_ceiling_is_fitted_to_are_told_where_it_would_stand(sweep, monkeypatch, tmp_path):
    monkeypatch.setattr("simulations.baselines.run.LARGEST_DENSE", 10)
    found = sweep()
    (ease,) = (row for row in found.sections[0].rows if row.name == "EASE")
    assert (ease.seeds, ease.metrics) == ((0, 1), {})
    (remark,) = found.remarks
    assert "EASE is not fitted to more than 10,000 items" in remark
    assert re.search(r"^EASE +no DP +no DP +— +— +— +—$", terminal(found.sections, found.remarks, ()), re.MULTILINE)
    grid = Grid(("synthetic",), (), (None, 8.0), (0, 1))
    result = publish(found, grid, tmp_path / "out", Circumstances("2026-01-01", "a CPU", 2, {}))
    assert result["sections"][0]["rows"][-1]["name"] == "EASE"
    assert re.search(r"\| EASE +\| no DP", (tmp_path / "out" / "sweep.md").read_text())


def test_a_failure_costs_its_row_a_seed_and_is_tried_again(sweep):
    name = next(run.name for run in sweep.runs() if run.seed == 1 and run.epsilon == 8.0)
    sweep.fail[name] = "out of memory"
    found = sweep()
    assert [failure.run for failure in found.failures] == [name]
    assert found.failures[0].why.startswith("out of memory; see runs/")
    assert [row.seeds for row in found.sections[0].rows] == [(0, 1), (0,), (0, 1), (0, 1)]
    sweep.fail.clear()
    sweep.done.clear()
    again = sweep()
    assert sweep.done == [name]
    assert again.failures == ()
    assert [row.seeds for row in again.sections[0].rows] == [(0, 1)] * 4


def test_all_runs_may_fail_and_the_yardsticks_still_stand(sweep):
    sweep.fail.update({run.name: "no" for run in sweep.runs()})
    (section,) = sweep().sections
    assert [row.name for row in section.rows] == ["popularity", "EASE"]


def test_other_settings_in_the_same_folder_are_refused_before_anything_runs(sweep):
    sweep(epsilons=(8.0,), seeds=(0,))
    sweep.done.clear()
    with pytest.raises(RunError, match=r"policy.k = .*this sweep asks for 12; choose another --out"):
        sweep("policy.k=12", epsilons=(8.0, 2.0), seeds=(0,))
    assert sweep.done == []


def test_values_of_a_key_are_rows_of_one_section_and_splits_are_sections(sweep):
    (section,) = sweep("policy.k=10,20", epsilons=(8.0,), seeds=(0,)).sections
    names = ["fedrecall, policy.k=10", "fedrecall, policy.k=20", "popularity", "EASE"]
    assert [row.name for row in section.rows] == names
    found = sweep("data.split=rs,loo", epsilons=(8.0,), seeds=(0,)).sections
    assert [section.split for section in found] == ["rs", "loo"]
    assert [len(section.rows) for section in found] == [3, 3]


def test_a_run_of_other_code_or_that_ended_early_is_told(sweep, tmp_path):
    sweep(epsilons=(8.0,), seeds=(0,))
    (run,) = sweep.runs(epsilons=(8.0,), seeds=(0,))
    folder = tmp_path / "out" / "runs"
    (folder / f"{run.name}.code").write_text("another")
    path = folder / run.name / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stopped": "no quorum", "rounds_done": 1}))
    earlier, early = sweep(epsilons=(8.0,), seeds=(0,)).remarks
    assert "earlier state of the code" in earlier
    assert "ended early (no quorum, after 1 of 2 rounds)" in early


def test_wrong_data_or_a_promise_that_cannot_be_kept_are_found_before_anything_runs(sweep):
    with pytest.raises(ConfigError):
        sweep("cohort.size=100000000", "privacy.trust=central", "privacy.unit=nobody")
    assert sweep.done == []


def test_a_folder_of_something_else_is_refused(sweep, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("")
    with pytest.raises(RunError, match=r"no sweep: it holds letter.txt"):
        sweep(folder=tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        sweep(folder=tmp_path / "file")


def test_two_sweeps_never_share_a_folder_at_once(sweep, tmp_path):
    sweep(epsilons=(8.0,), seeds=(0,))
    with (
        alone(tmp_path / "out" / ".lock", "in use"),
        pytest.raises(RunError, match="another process works on this sweep"),
    ):
        sweep(epsilons=(8.0,), seeds=(0,))


def test_a_broken_yardstick_file_is_made_anew(sweep, tmp_path):
    first = sweep(epsilons=(8.0,), seeds=(0,))
    (kept,) = (tmp_path / "out" / "yardsticks").iterdir()
    kept.write_text('{"popul')
    assert sweep(epsilons=(8.0,), seeds=(0,)) == first
    assert json.loads(kept.read_text())
