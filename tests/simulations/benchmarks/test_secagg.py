"""The benchmark of secure aggregation: what it compares is right, and nothing in it is typed in by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from shared.errors import RunError
from simulations.bench_cli import bench_app
from simulations.benchmarks import alone, measure, secagg
from simulations.benchmarks.flower_secagg import flower_secagg_plus
from simulations.secure_sum import secure_sum

TINY = {"small": 20, "large": 30, "values": 40, "repeats": (2, 1, 1), "watched": 2, "sessions": (1, 2, 3)}


@pytest.fixture(scope="module")
def result():
    return secagg.measure(lambda _: None, secagg.Plan(**TINY))


def vectors(clients, values=30):
    rng = np.random.default_rng(7)
    return {node: rng.uniform(-1, 1, values).astype(np.float32) for node in range(1, clients + 1)}


# --- the peer


@pytest.mark.parametrize("phase", ["upload", "unmask"])
@pytest.mark.parametrize("gone", [(), (3,), (1, 9)])
def test_the_peer_gives_the_mean_of_those_that_stayed(phase, gone):
    given = vectors(12)
    got = flower_secagg_plus(given, neighbours=8, threshold=4, drop={phase: gone})
    # Who leaves after the upload is in the sum.
    wanted = np.mean([given[node] for node in given if phase == "unmask" or node not in gone], axis=0)
    assert np.abs(got.mean - wanted).max() < 1e-5


@pytest.mark.parametrize("drop", [{"upload": (1, 2, 3)}, {"share": (1,)}])  # one that joins and never deals ends it
def test_a_peer_that_gives_up_is_an_error_and_no_figure(drop):
    with pytest.raises(RunError, match="gave up"):
        flower_secagg_plus(vectors(8), neighbours=4, threshold=4, drop=drop)


def test_the_peer_pays_for_its_clients_and_its_server():
    got = flower_secagg_plus(vectors(10, 2000), neighbours=8, threshold=4, drop={})
    assert got.seconds_client > 0
    assert got.seconds_server > 0
    assert got.bytes_up > 10 * 2000 * 8  # it sends 64 bits a value
    assert got.bytes_down > 0


# --- what is compared


def test_both_sides_do_the_same_work(result):
    ours, peer, fewest, big = result["sessions"]
    assert (ours["side"], peer["side"]) == ("fedrecall", "Flower SecAgg+")
    for field in ("clients", "values", "dropped", "threshold"):
        assert ours[field] == peer[field]
    assert peer["neighbours"] in (ours["neighbours"], ours["neighbours"] - 1)  # the peer's ring is even
    assert (ours["clients"], ours["dropped"], ours["values"]) == (20, 2, 40)
    assert (fewest["neighbours"], fewest["dropped"]) == (2, 0)
    assert (big["side"], big["clients"], big["dropped"]) == ("fedrecall", 30, 3)


def test_every_ratio_is_that_of_the_rows_beside_it(result):
    ours, peer, fewest, _ = result["sessions"]
    apart = 20 * result["client_alone"]["20"]["median"] + ours["server_seconds"]
    assert result["ratios"] == {
        "one process": peer["seconds"]["median"] / ours["seconds"]["median"],
        "every client a process of its own": peer["seconds"]["median"] / apart,
        "peer at its fewest neighbours": fewest["seconds"]["median"] / ours["seconds"]["median"],
    }


def test_a_row_says_how_often_and_how_widely(result):
    ours, peer, *_ = result["sessions"]
    assert (ours["seconds"]["repeats"], peer["seconds"]["repeats"]) == (2, 1)
    for row in result["sessions"]:
        assert 0 < row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
        parts = row["clients"] * row["client_seconds"] + row["server_seconds"]
        assert parts == pytest.approx(row["seconds"]["median"], rel=0.5)


def test_the_machine_is_named(result):
    where = result["machine"]
    assert where["cpu"]
    assert where["cores"] >= 1
    assert set(where["packages"]) == {"flwr", "cryptography", "numpy", "pycryptodome"}
    assert result["load_after"] >= 0


def test_memory_is_read_after_each_number_of_sessions(result):
    memory = result["memory"]
    assert memory["sessions"] == [1, 2, 3]
    assert len(memory["traced_bytes"]) == len(memory["resident_bytes"]) == 3
    assert min(memory["traced_bytes"]) > 0


def test_a_wrong_sum_is_no_figure(monkeypatch):
    def wrong(*args, **more):
        right = secure_sum(*args, **more)
        return replace(right, total=right.total + 1)

    monkeypatch.setattr(secagg, "secure_sum", wrong)
    with pytest.raises(RunError, match="fedrecall: the sum is not the plain sum"):
        secagg.measure(lambda _: None, secagg.Plan(**TINY))


def test_a_bar_is_held_against_what_was_measured():
    row = secagg.Row("fedrecall", 100, 10, 0, 2, 2, measure.spread_of([1.5]), 0.0, 0.0, 0, 0)
    plan = replace(secagg.Plan(**TINY), values=1000, sessions=(1, 2, 3))
    memory = {"traced_bytes": [5, 5, 5 + 20 * 1000 * 4]}
    bars = secagg._bars(plan, row, row, {"one process": 9.9}, memory)
    assert [bar["met"] for bar in bars] == [False, True, False, False]
    memory = {"traced_bytes": [5, 5, 5]}
    fast = replace(row, seconds=measure.spread_of([0.5]))
    assert all(bar["met"] for bar in secagg._bars(plan, fast, fast, {"one process": 10.0}, memory))


# --- how it is measured


def test_a_client_alone_shares_nothing_with_the_others(monkeypatch):
    cleared = []
    monkeypatch.setattr(alone, "_forget", lambda: cleared.append(1))
    seconds = alone.clients_alone(12, 11, 1, 20, 3)
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert len(cleared) == 3 * 6  # every client watched, at every step and with its attestation


def test_forgetting_empties_every_cache_of_the_protocol():
    alone.clients_alone(12, 11, 1, 20, 1)
    caches = [f for m in alone.MODULES for f in vars(m).values() if hasattr(f, "cache_info")]
    assert any(cache.cache_info().currsize for cache in caches)
    alone._forget()
    assert not any(cache.cache_info().currsize for cache in caches)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_one_core_is_one_core_and_given_back():
    before = os.sched_getaffinity(0)
    with measure.one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_the_spread_is_median_and_range():
    assert measure.spread_of([3.0, 1.0, 2.0]) == measure.Spread(2.0, 1.0, 3.0, 3)


def test_the_first_call_is_not_counted():
    calls = iter(range(10))
    assert measure.repeated(lambda: next(calls), 3) == [1, 2, 3]
    assert measure.repeated(lambda: next(calls), 2, warm=False) == [4, 5]


# --- the command


@pytest.fixture
def quick(monkeypatch, result):
    monkeypatch.setattr(secagg, "measure", lambda say: say("measured") or result)


def test_json_is_all_that_is_printed(quick, result):
    done = CliRunner().invoke(bench_app, ["secagg", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output) == result


def test_the_table_shows_every_bar_and_the_machine_whether_or_not_they_are_met(quick):
    done = CliRunner().invoke(bench_app, ["secagg"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    assert "Flower SecAgg+ / fedrecall" in done.stdout
    assert "memory grown" in done.stdout
    assert "NO" in done.stdout  # three sessions do not fill the caches
    assert "load average" in done.stdout


def test_asking_for_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom simulations.cli import app\n"
        "try:\n    app(['bench', 'secagg', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "beside Flower's SecAgg+" in done.stdout
    assert not {"flwr", "torch", "numpy"} & set(done.stdout.splitlines()[-1].split())
