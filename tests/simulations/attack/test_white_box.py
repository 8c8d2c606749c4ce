"""The white-box check passes what the plan promises, and sees noise and clips that are not the plan's."""

from __future__ import annotations

import numpy as np
import pytest

from shared.privacy.calibration import make_plan
from shared.privacy.clipping import clip_to_grid
from shared.privacy.noise import discrete_gaussian
from shared.privacy.plan import Target
from simulations.attack.white_box import ALARM, VECTORS, white_box

SHARES = {"update": 0.4, "measurement": 0.1, "statistics": 0.1, "profile": 0.3, "trending": 0.1}


def a_plan(**changes):
    usual = {
        "kind": "simulation",
        "unit": "user",
        "trust": "distributed",
        "epsilon": 8.0,
        "delta": 1e-5,
        "population": 100,
        "smallest_cohort": 90,
        "collusion": 0.1,
        "rounds": 4,
        "update_participations": 4,
        "measurement_participations": 2,
        "trending_participations": 2,
        "shares": SHARES,
        "update_dimension": 9610,
        "profile_dimension": 500,
        "clip": 0.5,
    }
    return make_plan(Target(**(usual | changes)))


def failed(found):
    return {one["release"]: one["why"] for one in found["releases"] if one["outcome"] == "fail"}


@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
def test_honest_noise_passes_under_every_trust(trust):
    found = white_box(a_plan(trust=trust), seed=0)
    assert failed(found) == {}
    assert found["outcome"] == "pass"
    assert [one["release"] for one in found["releases"]] == list(SHARES)
    assert all(one["measured"] == pytest.approx(one["sigma"], rel=0.02) for one in found["releases"])


def test_it_raises_no_alarm_on_a_hundred_seeds():
    only = dict.fromkeys(SHARES, 0.0) | {"update": 1.0}
    plan = a_plan(measurement_participations=0, shares=only, profile_dimension=0)
    found = [white_box(plan, seed=seed)["releases"][0] for seed in range(100)]
    assert all(one["outcome"] == "pass" for one in found)
    # Nor are the p-values those of a test that never fails.
    assert 0.3 < np.mean([one["chi_square_p"] for one in found]) < 0.7
    assert 0.3 < np.mean([one["variance_p"] for one in found]) < 0.7


def test_without_privacy_there_is_no_noise_and_that_is_what_the_plan_says():
    found = white_box(a_plan(epsilon=None), seed=0)
    assert found["outcome"] == "pass"
    assert {one["measured"] for one in found["releases"]} == {0.0}


@pytest.mark.parametrize("factor", [1 / 2, 2 / 3, 0.97, 1.03, 4 / 3])
def test_noise_that_is_off_is_seen(monkeypatch, factor):
    monkeypatch.setattr(
        "client.release.discrete_gaussian", lambda sigma, size, source: discrete_gaussian(sigma * factor, size, source)
    )
    assert set(failed(white_box(a_plan(), seed=0))) == set(SHARES)


def test_noise_of_the_right_size_and_the_wrong_shape_is_seen(monkeypatch):
    def uniform(sigma, size, source):
        reach = sigma * np.sqrt(3.0)
        return np.rint((source.words(size) * 2.0**-64 - 0.5) * 2 * reach).astype(np.int32)

    monkeypatch.setattr("client.release.discrete_gaussian", uniform)
    found = white_box(a_plan(), seed=0)
    assert found["outcome"] == "fail"
    assert all(one["variance_p"] > ALARM > one["chi_square_p"] for one in found["releases"])


def test_noise_that_is_drawn_once_and_used_again_is_seen(monkeypatch):
    kept = {}

    def again(sigma, size, source):
        return kept.setdefault((sigma, size), discrete_gaussian(sigma, size, source))

    monkeypatch.setattr("client.release.discrete_gaussian", again)
    assert failed(white_box(a_plan(), seed=0))["update"] == "the same noise was drawn twice"


def test_noise_that_depends_on_the_vector_is_seen(monkeypatch):
    from client.release import seal

    def shy(rows, mechanism, sigma, noise, *, private=False):
        return seal(rows, mechanism, sigma if rows.any() else sigma / 2, noise, private=private)

    monkeypatch.setattr("client.release.seal", shy)
    assert white_box(a_plan(), seed=0)["outcome"] == "fail"


def test_no_noise_at_all_is_seen(monkeypatch):
    monkeypatch.setattr("client.release.discrete_gaussian", lambda _sigma, size, _source: np.zeros(size, np.int32))
    assert set(failed(white_box(a_plan(), seed=0))) == set(SHARES)


def test_a_clip_that_lets_more_through_is_seen(monkeypatch):
    monkeypatch.setattr(
        "client.release.clip_to_grid", lambda rows, clip, steps: clip_to_grid(rows, 2 * clip, 2 * steps)
    )
    assert "at most 1 is allowed" in failed(white_box(a_plan(), seed=0))["update"]


def test_a_clip_that_lets_a_bad_value_through_is_seen(monkeypatch):
    monkeypatch.setattr(
        "client.release.clip_to_grid", lambda rows, clip, steps: clip_to_grid(np.nan_to_num(rows), clip, steps)
    )
    assert failed(white_box(a_plan(), seed=0))["update"].startswith("vector 'one NaN'")


def test_under_central_trust_the_servers_noise_is_looked_at_and_clients_add_none(monkeypatch):
    plan = a_plan(trust="central")
    monkeypatch.setattr(
        "server.asking.discrete_gaussian", lambda sigma, size, source: discrete_gaussian(sigma / 2, size, source)
    )
    assert failed(white_box(plan, seed=0))["update"] == "the noise is not the plan's"
    monkeypatch.undo()
    monkeypatch.setattr(
        "client.release.discrete_gaussian", lambda _sigma, size, source: discrete_gaussian(50.0, size, source)
    )
    assert failed(white_box(plan, seed=0))["update"] == "under trust central a client adds noise of its own"


def test_under_local_trust_the_noise_of_local_steps_is_looked_at(monkeypatch):
    from client import training

    normal = training._normal
    monkeypatch.setattr(training, "_normal", lambda noise, size: normal(noise, size) * 2 / 3)
    assert failed(white_box(a_plan(trust="local"), seed=0)) == {"update": "the noise is not the plan's"}


def test_the_fixed_vectors_are_the_hard_cases():
    assert set(VECTORS) == {"zeros", "ones", "one NaN", "huge"}
