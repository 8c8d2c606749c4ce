"""Learning from events on the device, measured: events in their order, nobody sees what is still to come."""

from __future__ import annotations

import json

import numpy as np
import pytest

from client.adapting import AdaptingTerms, adapted, unadapted
from client.recommending import shelf_of
from client.store import Event, with_event
from shared.encoder.spec import EncoderSpec, initial_parameters
from simulations.adapt import (
    AFTER,
    ARMS,
    PAST,
    STILL,
    _before,
    _chosen,
    _event_of,
    _events,
    _ndcg,
    _walk,
    adapt_run,
    measured,
    table,
)
from simulations.config import resolve
from simulations.world import load_world

SETS = ["model.text_encoder=none", "model.rank=4", "data.split=ts"]


@pytest.fixture(scope="module")
def config(tiny_data):
    short = ["rounds=2", "training.context=8", "training.targets=4", "training.negatives=8", "privacy.delta=1e-3"]
    return resolve("synthetic", sets=[*SETS, *short, "secure_aggregation=ideal"], seed=1, data=tiny_data)


@pytest.fixture(scope="module")
def world(config, tmp_path_factory):
    return load_world(config, tmp_path_factory.mktemp("cache"), None, lambda _sentence: None)


@pytest.fixture(scope="module")
def shelf(world):
    spec = EncoderSpec(world.catalogue.groups["text"].shape[1], 4, 40)
    parameters = initial_parameters(spec, np.random.default_rng(0))
    return shelf_of(spec, parameters, np.zeros(40, np.float32), world.catalogue)


@pytest.fixture(scope="module")
def policy(config):
    from shared.config import first_policy

    return first_policy(config.policy)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_events_are_the_held_out_rows_oldest_first_and_the_history_is_older(world, part):
    mask = getattr(world.split, part)
    for user in range(len(world.histories)):
        events, history = list(_events(world, user, part)), _before(world, user, part)
        rows = mask & (world.dataset.user == user)
        assert {event.item for event in events} == set(world.dataset.item[rows].tolist())
        times = [event.time for event in events]
        assert times == sorted(times)
        assert not {event.item for event in events} & set(history.item.tolist())
        if events:
            assert history.time.max() <= times[0]


def test_a_list_rests_on_what_came_before_it_alone(world, shelf, policy):
    """The naive twin: history and personal part of the first t events, rebuilt for every t."""
    history, free = _before(world, 3, "test"), np.zeros(40, bool)
    events = list(_events(world, 3, "test")) + [Event(int(n), "view", 2e9) for n in (1, 5, 9) if n not in history.item]
    terms = AdaptingTerms("adagrad", 0.3)
    arms = {"plain": None, "learns": terms}
    walk = dict(_walk(shelf, policy, history, events, arms, free, np.random.default_rng(0)))
    for t, found in walk.items():
        rng = np.random.default_rng(0).spawn(2)[1]
        one, state = _chosen(history, np.arange(len(history)) < max(0, len(history) - PAST)), unadapted(4)
        past = [_event_of(history, row) for row in range(len(one), len(history))]
        for event in [*past, *events[:t]]:
            state = adapted(shelf, policy, one, free, state, event, terms, rng)
            one = with_event(one, event)
        to_come = np.array([event.item for event in events[t:]])
        assert found["plain"] == _ndcg(shelf, policy, one, one, None, free, to_come)
        assert found["learns"] == pytest.approx(_ndcg(shelf, policy, one, one, state, free, to_come), abs=1e-9)
        assert found[STILL] == _ndcg(shelf, policy, history, one, None, free, to_come)


def test_refusals_are_events_but_nothing_to_be_found(world, shelf, policy):
    history = _before(world, 3, "test")
    free = np.setdiff1d(np.arange(40), history.item)
    refused = [Event(int(free[0]), "not_interested", 2e9), Event(int(free[1]), "view", 2e9 + 1)]
    walk = dict(_walk(shelf, policy, history, refused, {"plain": None}, np.zeros(40, bool), np.random.default_rng(0)))
    assert set(walk) == {0, 1}
    alone = dict(
        _walk(shelf, policy, history, refused[:1], {"plain": None}, np.zeros(40, bool), np.random.default_rng(0))
    )
    assert alone == {}


def test_whoever_learns_nothing_gains_nothing(world, shelf, policy):
    arms = {"plain": None, "rate 0": AdaptingTerms("sgd", 1e-30)}
    found = measured(world, shelf, policy, arms, 0)
    for row in found["after"].values():
        if row["users"]:
            assert row["gain"]["rate 0"] == {"mean": 0.0, "error": 0.0}
            assert row["ndcg@10"]["plain"] == row["ndcg@10"]["rate 0"]


def test_the_first_list_is_the_same_for_a_history_that_will_grow(world, shelf, policy):
    found = measured(world, shelf, policy, ARMS, 0)["after"]
    assert found[0]["ndcg@10"][STILL] == found[0]["ndcg@10"]["history grows"]
    assert found[0]["users"] == 24
    assert [row["users"] for row in found.values()] == sorted((row["users"] for row in found.values()), reverse=True)


def test_no_more_users_than_asked_for_and_the_same_again(world, shelf, policy):
    few = measured(world, shelf, policy, ARMS, 0, users=5)
    assert few["users"] == 5
    assert measured(world, shelf, policy, ARMS, 0, users=5) == few


def test_generated_people_walk_their_own_events_and_those_alone_who_are_asked(policy, tmp_path, monkeypatch):
    """Their data set numbers them anew, those who are asked first."""
    sets = ["data.users=60", "data.items=200", "cohort.size=10", "evaluation.users=12"]
    world = load_world(resolve("large", sets=sets, seed=1), tmp_path, None, lambda _sentence: None)
    spec = EncoderSpec(world.catalogue.groups["text"].shape[1], 4, 200)
    parameters = initial_parameters(spec, np.random.default_rng(0))
    shelf = shelf_of(spec, parameters, np.zeros(200, np.float32), world.catalogue)
    walked = []

    def walk(_shelf, _policy, history, events, *_):
        walked.append((history.item.tolist(), {event.item for event in events if event.kind != "not_interested"}))
        return ()

    monkeypatch.setattr("simulations.adapt._walk", walk)
    assert measured(world, shelf, policy, ARMS, 0)["users"] == len(walked) == len(world.asked)
    assert walked == [(world.histories[user].item.tolist(), set(world.test[user].tolist())) for user in world.asked]


def test_a_run_ends_in_a_table(config, tmp_path):
    from simulations.run import Screen

    screen = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
    found = adapt_run(config, tmp_path / "run", cache=tmp_path / "cache", source=None, screen=screen)
    assert (found["users"], found["split"], found["trust"]) == (24, "ts", "distributed")
    assert set(found["after"]) == set(AFTER)
    assert json.loads(json.dumps(found))["users"] == 24
    text = table(found)
    assert "history grows, AdaGrad: gain" in text
    assert f"{found['after'][0]['ndcg@10'][STILL]:.4f}" in text
