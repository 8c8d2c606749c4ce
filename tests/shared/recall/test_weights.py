from __future__ import annotations

import math

import numpy as np
import pytest

from shared.recall.weights import MEASUREMENT_WEIGHTS, exposure_weight


def a_full_report(k, recall=1.0, ndcg=1.0):
    """The largest that a user can report: everything found, k different items shown."""
    w = MEASUREMENT_WEIGHTS
    return np.array([recall * w["recall"], ndcg * w["ndcg"], w["users"], *[exposure_weight(k)] * k])


@pytest.mark.parametrize("k", [1, 10, 20, 100, 1000])
def test_a_full_report_has_norm_one_whatever_k(k):
    assert math.fsum(x * x for x in a_full_report(k)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("k", [10, 20, 1000])
def test_a_full_report_passes_the_clip_whole(k):
    from shared.privacy.clipping import clip_to_grid

    grid = clip_to_grid(a_full_report(k)[None], 1.0, 1 << 16)[0]
    assert grid / (1 << 16) == pytest.approx(a_full_report(k), abs=2 / (1 << 16))


def test_every_part_has_a_share_and_no_report_is_longer():
    rng = np.random.default_rng(0)
    assert min(*MEASUREMENT_WEIGHTS.values(), exposure_weight(20)) > 0
    for recall, ndcg in rng.random((50, 2)):
        assert np.linalg.norm(a_full_report(20, recall, ndcg)) < 1


def test_one_more_place_in_the_list_makes_each_count_less():
    assert exposure_weight(40) == pytest.approx(exposure_weight(10) / 2)
