"""Cold items: nothing of them reaches training, and what is measured is what is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.history import NOT_INTERESTED
from simulations.cold import cold_items, cold_run, measured, table, without_items
from simulations.world import load_world


@pytest.fixture(scope="module")
def world(tiny_data, tmp_path_factory):
    from simulations.config import resolve

    config = resolve("synthetic", sets=["model.text_encoder=none"], data=tiny_data)
    return load_world(config, tmp_path_factory.mktemp("cache"), None, lambda _sentence: None)


def test_the_same_items_are_cold_whatever_their_order():
    ids = [f"i{n}" for n in range(50)]
    cold = cold_items(ids, 3)
    assert cold.sum() == 5
    chosen = {ids[at] for at in np.flatnonzero(cold)}
    turned = ids[::-1]
    assert {turned[at] for at in np.flatnonzero(cold_items(turned, 3))} == chosen
    assert chosen != {ids[at] for at in np.flatnonzero(cold_items(ids, 4))}
    with pytest.raises(ConfigError, match="9 items are too few to hold 10% of them out"):
        cold_items(ids[:9], 0)


@pytest.mark.parametrize("rule", ['rules.blocked=["i3"]', "rules.min_age.i3=18"])
def test_item_rules_are_refused_before_any_data_is_read(tiny, tmp_path, silent, monkeypatch, rule):
    monkeypatch.setattr("simulations.cold.load_world", lambda *_: pytest.fail("data were read"))
    with pytest.raises(ConfigError, match="rules: fedrecall-sim cold asks for every item that it holds out"):
        cold_run(tiny(rule), tmp_path / "a", cache=tmp_path, source=None, screen=silent)


def test_a_world_without_some_items_knows_nothing_of_them(world):
    cold = cold_items(world.catalogue.ids, 0)
    smaller = without_items(world, cold)
    gone = {world.catalogue.ids[at] for at in np.flatnonzero(cold)}
    assert not gone & {*smaller.catalogue.ids, *smaller.dataset.items.ids}
    assert len(smaller.catalogue) == (~cold).sum()
    assert not any(text in smaller.catalogue.texts for text in np.array(world.catalogue.texts)[cold])


def test_everything_else_stays_as_it_was_item_by_item(world):
    cold = cold_items(world.catalogue.ids, 0)
    smaller = without_items(world, cold)
    before, after = np.array(world.catalogue.ids), np.array(smaller.catalogue.ids)
    for user, history in enumerate(world.histories):
        kept = ~cold[history.item]
        assert after[smaller.histories[user].item].tolist() == before[history.item[kept]].tolist()
        assert smaller.histories[user].held_out.tolist() == history.held_out[kept].tolist()
        wanted = world.test[user]
        assert after[smaller.test[user]].tolist() == before[wanted[~cold[wanted]]].tolist()
    rows = ~cold[world.dataset.item]
    assert after[smaller.dataset.item].tolist() == before[world.dataset.item[rows]].tolist()
    assert smaller.dataset.user.tolist() == world.dataset.user[rows].tolist()
    assert smaller.split.valid.tolist() == world.split.valid[rows].tolist()
    for name, vectors in world.catalogue.groups.items():
        assert np.array_equal(smaller.catalogue.groups[name], vectors[~cold])


@pytest.fixture(scope="module")
def result(tiny_data, tmp_path_factory):
    from simulations.config import resolve
    from simulations.run import Screen

    sets = ["rounds=3", "model.text_encoder=none", "model.rank=4", "training.context=8", "training.targets=4"]
    sets += ["training.negatives=8", "privacy.delta=1e-3", "policy.depth=20", "secure_aggregation=ideal"]
    config = resolve("synthetic", sets=[*sets, "privacy.epsilon=50"], seed=1, data=tiny_data)
    screen = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
    folder = tmp_path_factory.mktemp("cold") / "run"
    return cold_run(config, folder, cache=tmp_path_factory.mktemp("cache"), source=None, screen=screen), folder


def test_a_cold_run_says_how_new_items_fare_beside_chance_and_popularity(result):
    found, _ = result
    assert (found["items"], found["cold"], found["seed"], found["epsilon"] <= 50) == (40, 4, 1, True)
    assert json.loads(json.dumps(found)) == found
    rows = found["rows"]
    assert all(0 <= value <= 1 for row in rows.values() for value in row.values())
    assert rows["popularity (unknown of new items)"]["among all"] == 0
    # With 4 new items, a list of 20 holds them all.
    assert {row["among cold"] for row in rows.values()} == {1.0}
    text = table(found)
    for name, row in rows.items():
        assert f"{name} " in text
        assert f"{row['among all']:.4f}" in text
    assert "trust distributed" in text
    assert "Held out of training: 4 of 40 items" in text


def test_the_model_of_a_cold_run_has_no_row_for_a_new_item(result):
    _, folder = result
    from safetensors.numpy import load_file

    assert load_file(folder / "model.safetensors")["items"].shape[0] == 36


def test_chance_is_what_random_lists_find(world):
    """Simulated, for the exact value that is printed."""
    from simulations.cold import K, _Asked, _chance, _recall, _rows, _wanted

    cold = cold_items(world.catalogue.ids, 0, share=0.6)
    asked = _Asked(
        world,
        cold,
        tuple(_rows(history, ~cold[history.item]) for history in world.histories),
        tuple(_wanted(world, user, cold) for user in range(len(world.histories))),
        np.random.default_rng,
    )
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        ranked = [rng.permutation(np.setdiff1d(np.arange(40), h.item))[:K] for h in asked.histories]
        drawn.append(_recall(ranked, asked.wanted))
    assert np.mean(drawn) == pytest.approx(_chance(asked)["among all"], abs=0.01)
    assert _chance(asked)["among cold"] == pytest.approx(20 / 24)


def test_who_wants_a_new_item_is_asked_and_refusals_are_no_wish(world):
    from simulations.cold import _wanted

    cold = cold_items(world.catalogue.ids, 0, share=0.5)
    for user, history in enumerate(world.histories):
        rows = (world.dataset.user == user) & (world.dataset.kind != NOT_INTERESTED)
        expected = set(world.dataset.item[rows & cold[world.dataset.item]].tolist())
        assert set(_wanted(world, user, cold).tolist()) == expected
        assert len(history)


def test_measuring_again_gives_the_same(world, result):
    from simulations.model import read_model

    found, folder = result
    cold = cold_items(world.catalogue.ids, 1)
    again = measured(world, cold, read_model(folder / "model.safetensors"), 1)
    assert {name: found[name] for name in again} == again
