from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from shared.errors import RunError
from simulations.benchmarks import device
from simulations.run import new_run


@pytest.fixture
def run(tiny, tmp_path, silent):
    """A finished run of 24 users and 40 items."""
    new_run(tiny("rounds=1"), tmp_path / "run", cache=tmp_path / "cache", source=None, screen=silent)
    return tmp_path / "run"


def test_every_figure_is_taken_once_a_user_and_printed(run, tmp_path):
    result = device.measure(run, cache=tmp_path / "cache", source=None, say=lambda _: None)
    assert (result["items"], result["k"]) == (40, 10)
    once, *requests = result["milliseconds"].values()
    assert once["repeats"] == 3
    assert len(requests) == 3
    for spread in requests:
        assert spread["repeats"] == 24
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    page = io.StringIO()
    device.show(json.loads(json.dumps(result)), Console(file=page, width=100))
    assert all(what in page.getvalue() for what in result["milliseconds"])


def test_a_folder_without_a_finished_run_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        device.measure(tmp_path, cache=tmp_path, source=None, say=lambda _: None)
