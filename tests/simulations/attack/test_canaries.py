"""Canaries against the real mechanism, and against broken ones that must show."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.privacy.calibration import make_plan
from shared.privacy.clipping import clip_to_grid
from shared.privacy.noise import discrete_gaussian
from shared.privacy.plan import Target
from simulations.attack import canaries
from simulations.attack.bounds import METHODS, power_cap
from simulations.attack.canaries import Server, canary_audit
from simulations.seeding import noise

ALL = {"update": 1.0, "measurement": 0.0, "statistics": 0.0, "profile": 0.0}
SOME = {"update": 0.5, "measurement": 0.1, "statistics": 0.1, "profile": 0.3}
SIZES = {"update": 2048, "measurement": 700, "statistics": 700, "profile": 3000}


def a_plan(epsilon=8.0, **changes):
    """Plain federated averaging with user-level differential privacy, adjacency zero-out."""
    usual = {
        "kind": "simulation",
        "unit": "user",
        "trust": "distributed",
        "epsilon": epsilon,
        "delta": 1e-5,
        "population": 100,
        "smallest_cohort": 90,
        "collusion": 0.5,
        "rounds": 4,
        "update_participations": 4,
        "measurement_participations": 0,
        "shares": ALL,
        "update_dimension": 9610,
        "clip": 0.5,
    }
    return make_plan(Target(**(usual | changes)))


def bounds_of(section):
    return {(row["view"], row["method"]): row["epsilon"] for row in section["bounds"]}


def best(section, view="all rounds"):
    return max(row["epsilon"] for row in section["bounds"] if row["view"] == view)


# --- sound runs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shares": SOME, "measurement_participations": 2},
        {"trust": "central"},
        {"trust": "central", "sampling": 0.5, "smallest_cohort": 0},
        {"trust": "local"},
        {"trust": "local", "local_steps": 3, "shares": SOME, "measurement_participations": 2},
        {"trust": "local", "unit": "interaction"},
    ],
)
def test_the_bounds_of_a_sound_run_lie_below_its_claim_and_well_above_nothing(changes):
    section = canary_audit(a_plan(**changes), SIZES, canaries=1500, seed=1)
    assert section["claimed"] == pytest.approx(8.0, abs=0.01)
    assert max(bounds_of(section).values()) <= section["claimed"]
    assert best(section) > 2.0


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "at_least"), [(8.0, 2.44), (4.0, 1.29), (1.0, 0.1)])
def test_with_5000_canaries_bounds_are_valid_in_20_of_20_seeds_and_say_something(epsilon, at_least):
    plan = a_plan(epsilon, population=943, smallest_cohort=849, collusion=0.1, rounds=10, update_participations=10)
    sections = [canary_audit(plan, {"update": 9610}, seed=seed) for seed in range(20)]
    found = [bounds_of(section) for section in sections]
    assert all(
        value <= section["claimed"] for section, row in zip(sections, found, strict=True) for value in row.values()
    )
    assert min(best(section) for section in sections) >= at_least
    means = {key: round(float(np.mean([row[key] for row in found])), 2) for key in found[0]}
    print(f"\ntheory {epsilon}: mean bounds of 20 seeds {means}")  # noqa: T201 - the figures of docs/audit.md


def test_every_number_stands_beside_its_confidence_its_cap_and_its_assumptions():
    section = canary_audit(a_plan(), SIZES, canaries=200, seed=2)
    assert section == json.loads(json.dumps(section))
    assert {key: section[key] for key in ("delta", "confidence")} == {"delta": 1e-5, "confidence": 0.95}
    assert section["together"] == pytest.approx(0.80)  # four bounds at 95 %, by the union bound
    assert {(row["view"], row["method"]) for row in section["bounds"]} == {
        (view, method) for view in ("all rounds", "final model") for method in METHODS
    }
    for row in section["bounds"]:
        assert set(row) == {"method", "view", "epsilon", "canaries", "guesses", "right", "power_cap", "assumes"}
        assert 0 <= row["epsilon"] <= row["power_cap"]
        assert row["right"] <= row["guesses"] <= row["canaries"] == 200
        assert "coins" in row["assumes"]
    assert [(row["method"], row["view"]) for row in section["estimates"]] == [
        ("gdp", "all rounds"),
        ("gdp", "final model"),
    ]


def test_the_number_of_guesses_is_the_plan_s_whatever_the_seed_shows():
    guesses = {
        tuple(row["guesses"] for row in canary_audit(a_plan(), SIZES, canaries=200, seed=seed)["bounds"])
        for seed in range(4)
    }
    assert len(guesses) == 1


def test_a_seed_repeats_an_audit_and_another_gives_another():
    first, again, other = (canary_audit(a_plan(), SIZES, canaries=300, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first["estimates"] != other["estimates"]


def test_without_a_seed_chance_comes_from_the_operating_system():
    section = canary_audit(a_plan(), {"update": 512}, canaries=100, seed=None)
    assert max(bounds_of(section).values()) <= section["claimed"]


def test_without_noise_every_guess_is_right_and_nothing_is_claimed():
    section = canary_audit(a_plan(epsilon=None), {"update": 2048}, canaries=1500, seed=5)
    assert section["claimed"] is None
    assert all(row["right"] == row["guesses"] for row in section["bounds"])
    assert all(row["epsilon"] == pytest.approx(row["power_cap"]) for row in section["bounds"])
    assert all(math.isfinite(row["epsilon"]) for row in section["estimates"])


def test_more_kinds_of_release_show_more_of_the_same_person():
    plan = a_plan(shares=SOME, measurement_participations=2)
    everything = canary_audit(plan, SIZES, canaries=1500, seed=6)
    updates = canary_audit(plan, {"update": SIZES["update"]}, canaries=1500, seed=6)
    assert best(updates) < best(everything)
    assert best(updates) == pytest.approx(best(updates, "final model"), abs=0.2)  # averaging keeps the whole sum


def test_a_final_model_shows_less_the_more_rounds_went_by_without_the_canaries():
    section = canary_audit(a_plan(rounds=40), SIZES, canaries=1500, seed=7)
    assert best(section, "final model") < best(section) / 2


def test_the_final_model_is_made_by_the_server_s_own_step():
    def forgets(state, parameters, mean):
        return parameters, state

    server = Server(forgets, np.zeros(2048 + 5, np.float32), 90)
    section = canary_audit(a_plan(), {"update": 2048}, canaries=1500, seed=8, server=server)
    assert best(section, "final model") < 0.5
    assert best(section) > 2.0


# --- the noise that is tested is the plan's


@pytest.mark.parametrize("budget", [10**9, 3 * 4 * 8192])
@pytest.mark.parametrize("trust", ["distributed", "central", "local"])
def test_the_noise_in_the_sums_is_what_the_plan_promises_however_much_is_drawn_share_by_share(trust, budget):
    plan = a_plan(trust=trust)
    game = replace(canaries._games(plan, {"update": 8192}, 64, 9)[0], budget=budget)
    silent = replace(game, inside=np.zeros(64, bool))
    sums = canaries._sums(silent)
    assert sums.shape == (4, 8192)
    expected = plan.update.noise_multiplier * plan.update.steps
    assert sums.std() == pytest.approx(expected, rel=0.02)  # 32,768 numbers: 0.4 % is one deviation


def test_canaries_go_into_the_sum_at_the_clip_and_no_further():
    game = canaries._games(a_plan(epsilon=None), {"update": 4096}, 64, 10)[0]
    scores = canaries._score(game, canaries._sums(game).sum(axis=0)) * game.variance / game.distance**2 + 0.5
    np.testing.assert_allclose(scores, game.inside, atol=0.02)  # truncation to the grid costs a percent


# --- broken builds


def test_noise_that_is_halved_shows(monkeypatch):
    monkeypatch.setattr(
        "client.release.discrete_gaussian", lambda s, size, source: discrete_gaussian(s / 2, size, source)
    )
    section = canary_audit(a_plan(), SIZES, seed=11)
    assert best(section) > section["claimed"]


def test_a_clip_that_lets_twice_as_much_through_shows(monkeypatch):
    def doubled(rows, clip, steps):
        return clip_to_grid(rows, clip, 2 * steps)

    monkeypatch.setattr(canaries, "clip_to_grid", doubled)
    section = canary_audit(a_plan(), SIZES, seed=12)
    assert best(section) > section["claimed"]


def test_a_server_that_forgets_its_noise_shows(monkeypatch):
    monkeypatch.setattr(canaries, "discrete_gaussian", lambda _sigma, size, _source: np.zeros(size, np.int32))
    section = canary_audit(a_plan(trust="central"), SIZES, seed=13)
    assert best(section) > section["claimed"]


# --- what is refused


def test_there_are_no_more_canaries_than_an_update_has_numbers():
    section = canary_audit(a_plan(), {"update": 300, "profile": 900}, canaries=1000, seed=1)
    assert {row["canaries"] for row in section["bounds"]} == {300}


@pytest.mark.parametrize("number", [0, 49, 100_001])
def test_a_number_of_canaries_that_says_nothing_or_takes_for_ever_is_refused(number):
    with pytest.raises(ConfigError, match=f"canaries = {number}: must lie between 50 and 100000"):
        canary_audit(a_plan(), SIZES, canaries=number)


def test_a_plan_without_a_release_of_known_length_is_refused():
    with pytest.raises(ConfigError, match="nothing to look at"):
        canary_audit(a_plan(), {"statistics": 100})


def test_it_says_what_it_is_doing():
    told = []
    canary_audit(a_plan(), {"update": 256}, canaries=64, seed=1, tell=told.append)
    assert told[0] == "canaries: update, 4 releases of 256 numbers"


def test_shares_have_sources_of_their_own():
    plan = a_plan()
    game = canaries._games(plan, {"update": 64}, 50, 1)[0]
    drawn = {tuple(game.noise(round_, client).words(2)) for round_ in range(3) for client in range(3)}
    assert len(drawn) == 9
    assert tuple(game.noise(0, 0).words(2)) == tuple(noise(1, "canary", "update", 0, 0).words(2))


def test_power_caps_are_of_the_delta_that_the_bound_is_of():
    section = canary_audit(a_plan(), {"update": 256}, canaries=64, seed=1)
    row = section["bounds"][0]
    assert row["power_cap"] == power_cap(64, row["guesses"], 0.95, delta=1e-5, method=row["method"])
