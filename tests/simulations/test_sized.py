"""What a size costs: the same uplink whatever the catalogue, nothing made of who is not asked."""

from __future__ import annotations

import pytest

from shared.errors import RunError
from simulations.download import silent
from simulations.sized import Size, measure_size


def size(**changed):
    small = {"users": 300, "items": 200, "cohort": 30, "rounds": 1, "buckets": 100, "rank": 4, "evaluated": 20}
    return Size(**{**small, **changed})


def test_a_size_is_measured_and_uplink_does_not_depend_on_the_catalogue(tmp_path):
    small = measure_size(size(), tmp_path / "a", cache=tmp_path, say=silent)
    large = measure_size(size(items=400), tmp_path / "b", cache=tmp_path, say=silent)
    assert small["bytes_up_client"] == large["bytes_up_client"] == 4 * 400
    assert small["parameters"] == 400
    assert all(small[name] > 0 for name in ("prepare_seconds", "seconds_round", "peak_rss_mb", "history_bytes"))


def test_rounds_that_nobody_answers_are_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr("client.contributions.contributions", None)
    monkeypatch.setattr("client.host.contributions", None)
    with pytest.raises(RunError, match="whole rounds were expected"):
        measure_size(size(), tmp_path / "a", cache=tmp_path, say=silent)
