"""Floor and ceiling: the same on the same data, anew on generated data, validation apart from test."""

from __future__ import annotations

import pytest

from simulations.baselines import run_baselines
from simulations.baselines.models import fit_popularity
from simulations.baselines.protocol import evaluate, interactions
from simulations.config import resolve
from simulations.datasets import load_dataset, split_dataset
from simulations.frontier.rows import BOTH, METRICS, TRAIN, VALID
from simulations.sweep.yardsticks import yardsticks


@pytest.fixture
def found(tmp_path, tiny_data):
    """``found(seeds)``: outcomes on the tiny data; ``found(seeds, None)``: on generated ones. ``found.said`` grows."""
    said: list[str] = []

    def go(seeds, data=tiny_data):
        config = resolve("synthetic", sets=["model.text_encoder=none"], data=data)
        return yardsticks(config, seeds, tmp_path / "kept", cache=tmp_path, source=None, say=said.append)

    go.said = said
    return go


def test_each_is_measured_on_validation_and_in_both_readings_of_test(found, tiny_data, tmp_path):
    popularity, ease = found((0,))
    assert (popularity.name, ease.name) == ("popularity", "EASE")
    assert set(popularity.metrics) == set(ease.metrics) == {TRAIN, BOTH, VALID}
    dataset = load_dataset(str(tiny_data), cache=tmp_path)
    data = interactions(dataset, split_dataset(dataset, "rs"))
    scorer = fit_popularity(data.train)
    for reading, on in ((VALID, "valid"), (TRAIN, "test")):
        exact = evaluate(scorer, data, on)
        assert popularity.metrics[reading] == {metric: exact[metric] for metric in METRICS}
    assert popularity.metrics[VALID] != popularity.metrics[TRAIN]


def test_the_same_data_are_fitted_once_and_alike_at_every_seed(found):
    outcomes = found((0, 1, 2))
    assert sum(sentence == "baseline ease" for sentence in found.said) == 1
    for name in ("popularity", "EASE"):
        assert len({str(outcome.metrics) for outcome in outcomes if outcome.name == name}) == 1


def test_generated_data_are_drawn_anew_by_every_seed(found):
    outcomes = found((0, 1), None)
    assert len({str(outcome.metrics) for outcome in outcomes if outcome.name == "popularity"}) == 2


def test_validation_items_are_never_looked_for_among_rows_that_hold_them(tiny_data, tmp_path):
    dataset = load_dataset(str(tiny_data), cache=tmp_path)
    with pytest.raises(ValueError, match="train rows alone"):
        run_baselines(
            dataset, split_dataset(dataset, "rs"), delta=1e-3, epsilons=(), seed=0, also_valid=True, on="valid"
        )
