"""The benchmark of recommendation latency: all answer the same question, and the truth is what serving computes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from client.home import Home
from client.mapped import rows_of
from client.recommending import parts_of, summed
from client.shelving import build, open_shelf
from shared.recall.index import WIDTH
from simulations.bench_cli import bench_app
from simulations.benchmarks import recall, recall_peers, recall_table, serving
from simulations.benchmarks.recall_peers import PEERS, Built, Peer, best
from simulations.download import silent

ITEMS = 1000


@pytest.fixture(scope="module")
def result():
    return recall.measure(silent, recall.Plan(items=(ITEMS,), people=3, repeats=2))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A served model, everybody's questions and the exact best."""
    rng = np.random.default_rng(1)
    made, home = serving.make(ITEMS, rng), Home(tmp_path_factory.mktemp("home"))
    serving.publish(home, made)
    build(home)
    shelf = open_shelf(home)
    asked = [recall.question(shelf.model, serving.person_of(shelf, made, rng)) for _ in range(3)]
    whole = rows_of(shelf.model, np.arange(ITEMS))
    return shelf.model, whole, asked, [recall.truth(whole, one) for one in asked]


def rows_by_name(result):
    (size,) = result["sizes"]
    return {row["name"]: row for row in size["rows"]}


def test_a_peers_row_times_the_query_is_the_score_that_serving_computes(world):
    _, whole, asked, _ = world
    flat = recall.flat_rows(serving.POLICY, whole)
    for one in asked:
        exact = summed(parts_of(whole, serving.POLICY, one.users), (1, ITEMS))[0]
        assert np.abs(flat @ one.query - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_finds_the_best_where_it_searches_as_widely_as_it_may(world, peer):
    _, whole, asked, right = world
    index = peer.build(recall.flat_rows(serving.POLICY, whole))
    found = [index.search(one.query, peer.efforts[-1]) for one in asked]
    assert [len(set(some.tolist())) for some in found] == [recall_peers.BEST] * 3
    assert recall._recall(found, right) > (0.999 if "every row" in peer.name else 0.9)


def test_what_looks_at_every_row_finds_all_of_the_best(result):
    rows = rows_by_name(result)
    assert [name for name, row in rows.items() if row["recall"] == 1.0][:3] == [
        "fedrecall, 64 bytes of every row",
        "numpy, every row",
        "faiss, every row",
    ]
    assert len(rows) == 1 + len(PEERS)


def test_bytes_are_those_of_the_rows_searched(result):
    (size,), rows = result["sizes"], rows_by_name(result)
    assert rows["fedrecall, 64 bytes of every row"]["bytes"] == ITEMS * WIDTH
    assert rows["numpy, every row"]["bytes"] == ITEMS * size["width"] * 4
    assert rows["usearch, HNSW"]["bytes"] > ITEMS * size["width"] * 4


def test_a_large_catalogue_is_searched_through_a_graph_and_pays_for_it(monkeypatch, world):
    monkeypatch.setattr("client.shelf_files.LOOKED_THROUGH", 10)
    monkeypatch.setattr(recall, "PEERS", ())
    (row,) = recall.measured(ITEMS, 2, 1)["rows"]
    assert row["name"] == "fedrecall, graph of 64 bytes a row"
    assert row["bytes"] > 2 * ITEMS * WIDTH
    assert row["recall"] > 0.9


def test_a_peer_searches_no_wider_than_it_takes(world):
    _, whole, asked, right = world
    tried = []

    def search(query, effort):
        tried.append(effort)
        (place,) = (n for n, one in enumerate(asked) if one.query is query)
        return right[place][:effort]

    peer = Peer("made up", "", lambda rows: Built(search, rows.nbytes), efforts=(10, 50, 80, 100))
    row = recall._peer(peer, recall.flat_rows(serving.POLICY, whole), asked, right, 1, 0.5)
    assert (row["effort"], row["recall"]) == (50, 0.5)
    assert set(tried) == {10, 50}
    assert recall._peer(peer, whole.popularity, asked, right, 1, 1.1)["effort"] == 100  # never enough: the widest


def test_a_peer_that_is_not_installed_is_a_row_that_says_so(monkeypatch, world):
    _, whole, asked, right = world
    monkeypatch.setitem(sys.modules, "faiss", None)
    row = recall._peer(PEERS[1], recall.flat_rows(serving.POLICY, whole), asked, right, 1, 1.0)
    assert row == {"name": "faiss, every row", "absent": "not measured: faiss-cpu is not installed"}


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=300),
    st.integers(1, 120),
)
def test_the_best_are_the_largest_in_order(numbers, count):
    score = np.array(numbers, np.float32)
    got = best(score, count)
    assert len(set(got.tolist())) == min(count, len(score))
    assert score[got].tolist() == sorted(numbers, reverse=True)[:count]


def test_a_person_reads_every_row_the_whole_list_and_the_machine(result):
    absent = {"name": "faiss, HNSW", "absent": "not measured: faiss-cpu is not installed"}
    told = json.loads(json.dumps(result))
    told["sizes"][0]["rows"][4] = absent
    console = Console(record=True, width=140)
    recall_table.show(told, console)
    text = console.export_text()
    assert all(name in text for name in rows_by_name(told))
    for words in ("usearch 2.", "not measured: faiss-cpu", "whole list of 20", "load average", "1,000 items"):
        assert words in text


def test_the_command_measures_the_sizes_asked_for_and_prints_json_alone(monkeypatch, result):
    plans = []
    monkeypatch.setattr(recall, "measure", lambda say, *, plan: plans.append(plan) or say("working") or result)
    done = CliRunner().invoke(bench_app, ["recall", "--items", "2000", "--items", "3000", "--json"])
    assert json.loads(done.output) == result
    CliRunner().invoke(bench_app, ["recall"])
    assert [plan.items for plan in plans] == [(2000, 3000), (10_000, 100_000)]
