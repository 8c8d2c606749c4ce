"""Interaction membership: plain without protection, no better than epsilon allows with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.job import initial_state
from simulations.attack.imia import imia, implied, judged, new_game
from simulations.attack.subject import Subject, tasks_of
from simulations.config import resolve
from simulations.run import job_of
from simulations.world import load_world


def modes(found):
    return {one["mode"]: one for one in found["modes"]}


@pytest.mark.parametrize(
    "sets",
    [[], ["privacy.trust=central"], ["privacy.trust=local"], ["privacy.epsilon=1"]],
    ids=lambda sets: " ".join(sets) or "default",
)
def test_without_protection_the_attack_works_and_with_it_advantage_stays_below_what_epsilon_implies(subject, sets):
    found = imia(subject(*sets), seed=0)
    plain, summed, local = (modes(found)[mode] for mode in ("none", "distributed", "local"))
    assert plain["advantage"] == 1.0
    assert plain["low"] > 0.5
    assert plain["implied"] is None
    for one in (summed, local):
        assert one["low"] <= one["advantage"] <= one["high"]
        assert one["low"] <= one["implied"] <= 1.0
    assert found["outcome"] == "pass"


def test_where_updates_rest_on_chance_the_server_averages_over_it_and_still_tells(subject):
    found = modes(imia(subject("model.encoder=mean", "rounds=6"), seed=0))
    assert found["none"]["advantage"] > 0.3
    assert found["distributed"]["low"] < 0.4


def test_the_sum_without_noise_gives_membership_away(subject):
    """So what keeps the advantage down is the noise, and not the sum."""
    one = modes(imia(subject("privacy.epsilon=none"), seed=0))["distributed"]
    assert one["advantage"] == 1.0
    assert one["implied"] is None


def test_what_epsilon_implies_is_the_formula_at_twice_the_clip(subject):
    plan = subject().job.plan
    advantage, epsilon = implied(plan, 3)
    e = np.exp(epsilon)
    assert advantage == pytest.approx((e - 1 + 2 * plan.delta) / (e + 1))
    smaller, one_round = implied(plan, 1)
    assert one_round < epsilon
    assert smaller < advantage
    assert implied(replace(plan, unit="interaction"), 3)[1] < epsilon


def test_a_sum_has_one_noise_a_round_whatever_local_steps_the_run_takes(subject):
    one = subject("privacy.trust=local", "policy.local_iterations=2")
    found = modes(imia(one, seed=0))
    rounds = one.job.plan.update.participations
    assert found["local"]["epsilon"] == implied(one.job.plan, found["local"]["rounds"])[1]
    single = replace(one.job.plan, update=replace(one.job.plan.update, inner_steps=1))
    assert found["distributed"]["epsilon"] == implied(single, rounds)[1] < found["local"]["epsilon"]


def test_a_leak_fails_and_a_broken_attack_cannot_tell():
    plain = {"mode": "none", "low": 0.9, "implied": None}
    assert judged([plain, {"mode": "distributed", "low": 0.1, "implied": 0.4}]) == "pass"
    assert judged([plain, {"mode": "distributed", "low": 0.5, "implied": 0.4}]) == "fail"
    assert judged([plain | {"low": 0.1}, {"mode": "distributed", "low": 0.1, "implied": 0.4}]) == "cannot tell"


def test_the_game_takes_one_item_that_training_sees_from_each_history_or_leaves_it(subject):
    one = subject()
    game = new_game(one, tasks_of(one)["update"], 5)
    # 24 users, each twice.
    assert len(game.users) == len(set(game.users)) == 48
    assert 0 < game.inside.sum() < 48
    for whole, without in zip(game.whole, game.without, strict=True):
        assert len(without) == len(whole) - 1
        (gone,) = set(whole.item.tolist()) - set(without.item.tolist())
        assert not whole.held_out[whole.item.tolist().index(gone)]


def test_generated_people_are_tried_under_their_own_names(tmp_path):
    """Their data set numbers them anew, those who are asked first."""
    sets = ["data.users=60", "data.items=200", "cohort.size=10", "evaluation.users=12"]
    config = resolve("large", sets=sets, seed=1)
    world = load_world(config, tmp_path, None, lambda _sentence: None)
    job = job_of(config, world, "generated")
    one = Subject(config, world, job, initial_state(job, np.random.default_rng(0)), "")
    game = new_game(one, tasks_of(one)["update"], 5)
    assert len(game.users) == 60
    for name, whole in zip(game.users, game.whole, strict=True):
        user = int(name.partition("/")[0]) - 1
        np.testing.assert_array_equal(whole.item, world.histories[user].item)


def test_where_nobody_has_an_item_to_spare_nothing_can_be_told(subject):
    one = subject()
    none = tuple(replace(h, held_out=np.ones_like(h.held_out)) for h in one.world.histories)
    found = imia(replace(one, world=replace(one.world, histories=none)), seed=0)
    assert found == {"outcome": "cannot tell", "modes": []}
