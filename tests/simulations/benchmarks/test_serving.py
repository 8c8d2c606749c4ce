from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from client.answers import Wish
from client.home import Home
from client.serving import answered
from client.shelving import build, open_shelf
from shared.recall.index import has_graphs
from simulations.benchmarks import serving


@pytest.mark.parametrize("items", [1000])
def test_every_figure_of_serving_is_taken_and_printed(items, monkeypatch):
    monkeypatch.setattr(serving, "PEOPLE", 5)
    said = []
    result = serving.measure(said.append, [items])
    (row,) = result["sizes"]
    assert (row["items"], row["index"]) == (items, "every row")
    for name in ("list ms", "device list ms", "event stored and learned ms", "event to next list ms", "explanation ms"):
        assert 0 < row[name]["p50"] <= row[name]["p99"]
    assert row["recall@100 of 64 bytes"] == 1.0
    assert row["recall@100 of whole vectors"] > 0.9
    assert row["imports flwr"] is False
    assert len(said) == 3
    page = io.StringIO()
    serving.show(json.loads(json.dumps(result)), Console(file=page, width=160))
    assert all(name in page.getvalue() for name in row if name != "items")


@pytest.mark.skipif(not has_graphs(), reason='needs usearch (extra "index")')
def test_lists_through_a_graph_are_nearly_those_of_every_row(tmp_path, monkeypatch):
    monkeypatch.setattr("client.shelf_files.LOOKED_THROUGH", 1000)
    home, rng = Home(tmp_path), np.random.default_rng(3)
    made = serving.make(6000, rng)
    serving.publish(home, made)
    build(home)
    shelf = open_shelf(home)
    everything = replace(shelf, model=replace(shelf.model, graph=None))
    shares = []
    for wish in (
        Wish(),
        Wish(categories=("topic 1", "topic 2")),
        Wish(categories=tuple(f"topic {n}" for n in range(20))),
    ):
        for _ in range(5):
            person = serving.person_of(shelf, made, rng)
            one, other = ({o.id for o in answered(s, person, wish, rng).offers} for s in (shelf, everything))
            shares.append(len(one & other) / len(other))
    assert shelf.model.graph is not None
    assert np.mean(shares) > 0.97
