from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

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
