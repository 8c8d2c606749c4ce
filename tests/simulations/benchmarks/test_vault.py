from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from client.vault import Vault
from shared.errors import RunError
from simulations.benchmarks import vault

PLAN = vault.Plan(events=3000, items=50, single=3)


def test_every_figure_is_taken_and_printed():
    result = json.loads(json.dumps(vault.measure(lambda _: None, PLAN)))
    assert set(result["peer"]) < set(result["seconds"])
    assert all(seconds > 0 for seconds in (*result["seconds"].values(), *result["peer"].values()))
    assert result["one_event_ms"]["repeats"] == 3
    assert sum(done["events"] for done in result["forgotten"].values()) == 3003
    assert all(done["found"] == 0 < done["probes"] for done in result["forgotten"].values())
    page = io.StringIO()
    vault.show(result, Console(file=page, width=100))
    assert all(what in page.getvalue() for what in (*result["seconds"], "One event", "SQLite in clear", "0 found"))


def test_a_store_that_loses_events_is_no_figure(monkeypatch):
    record = Vault.record
    monkeypatch.setattr(Vault, "record", lambda self, events: record(self, list(events)[1:]))
    with pytest.raises(RunError, match="2999 events of 3000"):
        vault.measure(lambda _: None, PLAN)
