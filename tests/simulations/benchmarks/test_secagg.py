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
from simulations.download import silent
from simulations.secure_sum import secure_sum

TINY = secagg.Plan(20, 30, values=(40, 90), repeats=((2, 1, 1), (1, 1, 1)), watched=2, sessions=(1, 2, 3))
OURS, PEER, FEWEST = secagg.OURS, secagg.PEER, secagg.FEWEST


@pytest.fixture(scope="module")
def result():
    return secagg.measure(silent, TINY)


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
    rows = {(row["side"], row["clients"], row["values"]): row for row in result["sessions"]}
    assert set(rows) == {
        *((OURS, clients, values) for clients in (20, 30) for values in (40, 90)),
        *((PEER, 20, values) for values in (40, 90)),
        (FEWEST, 20, 40),
    }
    for values in (40, 90):
        ours, peer = rows[OURS, 20, values], rows[PEER, 20, values]
        assert ours["dropped"] == peer["dropped"] == 2
        assert ours["threshold"] == peer["threshold"]
        assert peer["neighbours"] in (ours["neighbours"], ours["neighbours"] - 1)  # the peer's ring is even
        assert rows[OURS, 30, values]["dropped"] == 3
    assert (rows[FEWEST, 20, 40]["neighbours"], rows[FEWEST, 20, 40]["dropped"]) == (2, 0)


def test_every_ratio_is_that_of_the_rows_beside_it(result):
    seconds = {(r["side"], r["clients"], r["values"]): r["seconds"]["median"] for r in result["sessions"]}
    server = result["sessions"][0]["server_seconds"]
    wanted = {
        "20 clients, 40 values": seconds[PEER, 20, 40] / seconds[OURS, 20, 40],
        "20 clients, 90 values": seconds[PEER, 20, 90] / seconds[OURS, 20, 90],
        "30 clients, 40 values, at least (peer: 20 clients, times 1.5)": 1.5
        * seconds[PEER, 20, 40]
        / seconds[OURS, 30, 40],
        "30 clients, 90 values, at least (peer: 20 clients, times 1.5)": 1.5
        * seconds[PEER, 20, 90]
        / seconds[OURS, 30, 90],
        "every client a process of its own": seconds[PEER, 20, 40]
        / (20 * result["client_alone"]["20"]["median"] + server),
        "peer at its fewest neighbours": seconds[FEWEST, 20, 40] / seconds[OURS, 20, 40],
    }
    assert result["ratios"] == pytest.approx(wanted)


def test_the_peer_at_the_larger_number_of_clients_is_a_ratio_and_bounds_longer_vectors():
    def row(side, clients, values, seconds):
        return (side, clients, values), secagg.Row(
            side, clients, values, 0, 2, 2, measure.spread_of([seconds]), 0.0, 0.5, 0, 0
        )

    rows = dict(
        row(*one)
        for one in [
            *((OURS, clients, values, 2.0) for clients in (20, 30) for values in (40, 90)),
            (PEER, 20, 40, 10.0),
            (PEER, 20, 90, 12.0),
            (PEER, 30, 40, 40.0),
            (FEWEST, 20, 40, 4.0),
        ]
    )
    ratios = secagg._ratios(rows, TINY, alone=0.1)
    assert list(ratios.items()) == [
        ("20 clients, 40 values", 5.0),
        ("20 clients, 90 values", 6.0),
        ("30 clients, 40 values", 20.0),
        ("30 clients, 90 values, at least (peer: 40 values)", 20.0),
        ("every client a process of its own", 4.0),
        ("peer at its fewest neighbours", 2.0),
    ]


@pytest.mark.parametrize("peers", [False, True])
def test_the_larger_session_of_the_peer_is_a_row_when_it_is_asked_for(monkeypatch, peers):
    def row(side):
        spread = measure.spread_of([1.0])
        return lambda terms, values, _repeats, _say, name=side: secagg.Row(
            name, terms.members, values, 0, 2, 2, spread, 0.0, 0.5, 0, 0
        )

    monkeypatch.setattr(secagg, "_ours", row(OURS))
    monkeypatch.setattr(secagg, "_peer", row(PEER))
    monkeypatch.setattr(secagg, "_alone", lambda *_: measure.spread_of([0.1]))
    monkeypatch.setattr(secagg, "_memory", lambda *_: {"traced_bytes": [1, 1, 1]})
    result = secagg.measure(silent, TINY, peers=peers)
    rows = [(one["side"], one["clients"], one["values"]) for one in result["sessions"]]
    assert ((PEER, 30, 40) in rows) == peers
    assert ("30 clients, 40 values" in result["ratios"]) == peers


def test_vectors_are_views_of_one_row_and_differ():
    rows = secagg._integers(5, 1000)
    assert len({id(vector.base) for vector in rows.values()}) == 1
    assert len({vector.tobytes() for vector in rows.values()}) == 5


def test_a_row_says_how_often_and_how_widely(result):
    ours, peer, *_ = result["sessions"]
    assert (ours["side"], ours["seconds"]["repeats"]) == (OURS, 2)
    assert (peer["side"], peer["seconds"]["repeats"]) == (PEER, 1)
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
        secagg.measure(silent, TINY)


def test_a_bar_is_held_against_what_was_measured():
    plan = secagg.Plan(values=(1000,), repeats=((1, 1, 1),), sessions=(1, 2, 3))
    size = "100 clients, 1,000 values"

    def met(seconds, ratio, grown):
        row = secagg.Row(OURS, 100, 1000, 0, 2, 2, measure.spread_of([seconds]), 0.0, 0.0, 0, 0)
        rows = {(OURS, clients, 1000): row for clients in (100, 1000)}
        memory = {"traced_bytes": [5, 5, 5 + grown]}
        return [bar["met"] for bar in secagg._bars(plan, rows, {size: ratio}, memory)]

    assert met(1.5, 9.9, 20 * 1000 * 4) == [False, True, False, False]
    assert met(0.5, 10.0, 0) == [True] * 4


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
    monkeypatch.setattr(secagg, "measure", lambda say, *, peers: say(f"peers: {peers}") or result)


def test_json_is_all_that_is_printed(quick, result):
    done = CliRunner().invoke(bench_app, ["secagg", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output) == result


def test_the_table_shows_every_bar_and_the_machine_whether_or_not_they_are_met(quick):
    done = CliRunner().invoke(bench_app, ["secagg"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    assert "peers: False" in done.stderr
    assert "peers: True" in CliRunner().invoke(bench_app, ["secagg", "--peers"]).stderr
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
