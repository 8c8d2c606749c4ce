"""Runs side by side: every claim with its unit and trust, seeds grouped, nothing compared that has not ended."""

from __future__ import annotations

import json
from statistics import fmean, stdev

import pytest

from shared.errors import RunError
from simulations.compare import compare, table


def test_a_row_a_run_with_its_settings_claim_and_test_metrics(run_folder):
    [row] = compare([run_folder("one", rounds=2, seed=3)])["runs"]
    assert row["folder"].endswith("one")
    assert {
        key: row[key] for key in ("preset", "split", "seed", "epsilon", "unit", "trust", "delta", "controller")
    } == {
        "preset": "ml-100k",
        "split": "rs",
        "seed": 3,
        "epsilon": 8.0,
        "unit": "user",
        "trust": "distributed",
        "delta": 1e-5,
        "controller": "dual",
    }
    assert row["test"]["ndcg@10"] == 0.2503
    assert row["seconds"] == 74.2
    assert row["stopped"] == "finished"


def test_rows_keep_the_order_in_which_the_folders_were_named(run_folder):
    folders = [run_folder(name, rounds=1, rate=rate) for name, rate in (("b", 0.1), ("a", 0.2), ("c", 0.3))]
    assert [row["folder"] for row in compare(folders)["runs"]] == [str(folder) for folder in folders]


def test_runs_that_differ_only_in_seed_are_averaged(run_folder):
    folders = [
        run_folder(f"seed-{seed}", rounds=1, seed=seed, changed={"epsilon": 7.9 + seed / 100}) for seed in (0, 1, 2)
    ]
    result = compare(folders)
    [group] = result["groups"]
    recalls = [row["test"]["recall@20"] for row in result["runs"]]
    assert len(set(recalls)) == 3
    assert group["seeds"] == [0, 1, 2]
    assert group["test"]["recall@20"] == {"mean": fmean(recalls), "std": stdev(recalls), "n": 3}
    assert group["epsilon"] == pytest.approx(7.92)  # the largest: a claim must hold for every run


def test_runs_that_differ_in_anything_else_are_not_averaged(run_folder):
    one, other = run_folder("one", rounds=1, seed=0, rate=0.01), run_folder("other", rounds=1, seed=1, rate=0.02)
    assert compare([one, other])["groups"] == []


def test_one_run_named_twice_is_not_a_second_seed(run_folder):
    folder = run_folder(rounds=1)
    assert compare([folder, folder])["groups"] == []


def test_a_seed_in_a_nested_table_is_a_seed_too(run_folder):
    folders = []
    for seed in (0, 1):
        folder = run_folder(f"run-{seed}", rounds=1, seed=seed)
        with (folder / "config.toml").open("a", encoding="utf-8") as out:
            out.write(f"[model]\nseed = {seed}\n")
        folders.append(folder)
    assert len(compare(folders)["groups"]) == 1


def test_a_metric_that_one_seed_lacks_is_averaged_over_those_that_have_it(run_folder):
    one = run_folder("one", rounds=1, seed=0)
    other = run_folder("other", rounds=1, seed=1, changed={"test": {"recall@20": 0.4, "ndcg@10": None}})
    [group] = compare([one, other])["groups"]
    assert group["test"]["ndcg@10"] == {"mean": 0.2503, "std": None, "n": 1}


def test_the_result_is_plain_json(run_folder):
    result = compare([run_folder("one", rounds=1, seed=0), run_folder("two", rounds=1, seed=1)])
    assert json.loads(json.dumps(result)) == result


def test_the_table_is_aligned_and_prints_no_epsilon_without_unit_and_trust(run_folder):
    folders = [
        run_folder("private", rounds=1, changed={"epsilon": 7.991}),
        run_folder("open", rounds=1, epsilon=None, changed={"wall_seconds": None}),
    ]
    text = table(compare(folders))
    head, rule, private, unprotected = text.splitlines()[:4]
    assert head.split()[:5] == ["run", "preset", "split", "seed", "epsilon"]
    assert set(rule) == {"-", " "}
    at = head.index("unit, trust")
    assert private[at:].startswith("user, distributed")
    assert unprotected[at:].startswith("no privacy")
    assert " 8.00 " in private  # rounded up
    assert " none " in unprotected
    assert "—" in unprotected
    assert "simulation" in text.splitlines()[-1]


def test_the_table_ends_with_mean_and_deviation_over_seeds(run_folder):
    text = table(compare([run_folder("one", rounds=1, seed=0), run_folder("two", rounds=1, seed=1)]))
    assert "Mean ± standard deviation over seeds" in text
    assert "0.2503 ± 0.0000" in text
    assert "0,1" in text


@pytest.mark.parametrize("rubbish", [None, [], 3, {"recall@20": "high"}])
def test_a_summary_without_test_metrics_still_has_a_row(run_folder, rubbish):
    folder = run_folder(rounds=1, changed={"test": rubbish})
    assert table(compare([folder])).splitlines()[2].startswith("run  ml-100k")


def test_a_run_that_has_not_ended_is_not_compared(run_folder):
    with pytest.raises(RunError, match=r"holds no summary\.json: its run goes on or was interrupted"):
        compare([run_folder("done", rounds=1), run_folder("killed", rounds=1, summary=False)])


def test_a_folder_without_a_run_is_named(run_folder, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RunError, match=r"nothing holds no run: there is no config\.toml"):
        compare([run_folder(rounds=1), tmp_path / "nothing"])


def test_there_must_be_something_to_compare():
    with pytest.raises(RunError, match="name at least one run folder"):
        compare([])
