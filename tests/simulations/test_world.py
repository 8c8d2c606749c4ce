"""What a simulation deals out: clients never hold a test item, and every user sits somewhere once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.history import NOT_INTERESTED
from shared.recall.item_rules import NO_RULES
from simulations.config import resolve
from simulations.download import silent
from simulations.world import judged, load_world, oracle, stores_of


@pytest.fixture
def world(tiny, tmp_path):
    return load_world(tiny(), tmp_path / "cache", None, silent)


def test_no_client_ever_holds_a_test_item(world):
    for history, test in zip(world.histories, world.test, strict=True):
        assert not np.isin(test, history.item).any()


def test_histories_are_train_and_validation_rows_oldest_first(world):
    kept = ~world.split.test
    assert sum(len(history) for history in world.histories) == kept.sum()
    assert sum(history.held_out.sum() for history in world.histories) == world.split.valid.sum()
    for history in world.histories:
        assert (np.diff(history.time) >= 0).all()


@pytest.mark.parametrize(("per_client", "clients"), [(1, 24), (5, 5), (24, 1), (100, 1)])
def test_every_user_sits_in_exactly_one_client(world, per_client, clients):
    stores = stores_of(world, per_client)
    assert len(stores) == clients
    assert [user for store in stores.values() for user in store.users] == list(world.dataset.users)


def test_turned_down_items_are_never_asked_for(world):
    for history in world.histories:
        assert not (history.held_out & (history.kind == NOT_INTERESTED)).any()


def test_random_scores_stay_at_chance(world):
    """The trap of the field: a client that learns nothing must not find its test items."""
    from server.job import initial_state
    from shared.policy.recall_policy import RecallPolicy
    from simulations.run import job_of

    policy = RecallPolicy(
        version=1,
        similarity=dict.fromkeys(("text", "lexical", "category"), "cosine"),
        weights=dict.fromkeys(("text", "lexical", "category", "popularity"), 1.0),
        features=("popularity",),
        depth=40,
        local_iterations=1,
        exposure_price=0.0,
        diversity=0.0,
        exploration=0.0,
        k=10,
    )
    from simulations.config import resolve

    config = resolve("synthetic", sets=["model.text_encoder=none", "privacy.delta=1e-3", "policy.k=10"])
    job = job_of(config, world, "x")
    state = initial_state(job, np.random.default_rng(0))
    found, chance = [], []
    for seed in range(60):
        prior = np.random.default_rng(seed).normal(size=job.encoder.buckets).astype(np.float32)
        rngs = [np.random.default_rng(0)] * 24
        found.append(
            oracle(world, job.encoder, state.parameters, prior, policy, NO_RULES, rngs, on="test")["recall@10"]
        )
        chance.append(np.mean([10 / (40 - len(h)) for h in world.histories]))
    assert np.mean(found) == pytest.approx(np.mean(chance), rel=0.1)


def test_data_that_no_split_can_use_is_refused(tiny, tmp_path):
    folder = tmp_path / "short"
    folder.mkdir()
    (folder / "items.csv").write_text("id,title,text\na,A,one\nb,B,two\n")
    (folder / "interactions.csv").write_text("user,item,time\nu,a,1\nv,b,2\n")
    with pytest.raises(ConfigError, match="nobody has enough history for split 'rs'"):
        load_world(tiny(f'data.name="{folder}"'), tmp_path / "cache", None, silent)


@pytest.mark.parametrize("sets", [["data.rows=2"], ["data.rows=4", "evaluation.users=1"]])
def test_a_run_that_would_measure_nothing_is_refused_before_texts_are_read(sets, tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.world.build_catalogue", None)
    config = resolve("large", sets=["data.users=30", "cohort.size=10", "data.items=100", *sets])
    with pytest.raises(ConfigError, match="has enough history for split 'ts'"):
        load_world(config, tmp_path, None, silent)


def test_a_generated_world_is_itself_whoever_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.world.FITTED", 40)
    sets = ["data.users=90", "cohort.size=10", "data.items=300", "evaluation.users=12"]
    world = load_world(resolve("large", sets=sets), tmp_path, None, silent)
    assert (len(world.users), len(world.histories), len(world.asked)) == (90, 90, 12)
    assert set(world.asked_names) | set(map(str, range(1, 41))) == set(world.dataset.users)
    for place, name in enumerate(world.dataset.users):
        user, own = int(name) - 1, world.dataset.user == place
        np.testing.assert_array_equal(world.histories[user].item, world.dataset.item[own & ~world.split.test])
        liked = world.dataset.kind != NOT_INTERESTED
        np.testing.assert_array_equal(world.test[user], world.dataset.item[own & world.split.test & liked])
    rows = judged(world)
    assert set(world.dataset.user[rows.test | rows.valid]) <= set(range(12))


def test_a_sample_of_users_is_asked_and_the_yardsticks_with_them(tiny, tmp_path):
    world = load_world(tiny("evaluation.users=5"), tmp_path / "cache", None, silent)
    assert len(world.asked) == len(set(world.asked.tolist())) == 5
    assert (np.diff(world.asked) > 0).all()
    again = load_world(tiny("evaluation.users=5"), tmp_path / "cache", None, silent)
    other = load_world(tiny("evaluation.users=5", seed=2), tmp_path / "cache", None, silent)
    assert world.asked.tolist() == again.asked.tolist() != other.asked.tolist()
    split, among = judged(world), np.isin(world.dataset.user, world.asked)
    assert (split.test == world.split.test & among).all()
    assert (split.valid == world.split.valid & among).all()
    assert (split.train == world.split.train).all()
    everybody = load_world(tiny(), tmp_path / "cache", None, silent)
    assert everybody.asked.tolist() == list(range(24))


@pytest.mark.parametrize(("on", "parts"), [("valid", ["train"]), ("test", ["train", "valid"])])
def test_how_popular_an_item_is_does_not_depend_on_who_is_asked(on, parts, tiny, tmp_path, monkeypatch):
    from server.job import initial_state
    from shared.config import first_policy
    from simulations.run import job_of

    config, told = tiny("evaluation.users=3"), []
    world = load_world(config, tmp_path / "cache", None, silent)
    job = job_of(config, world, "x")
    state, policy = initial_state(job, np.random.default_rng(0)), first_policy(config.policy)
    monkeypatch.setattr("simulations.world.novelty", lambda _shown, *known: told.append(known) or 0.0)
    prior, rngs = np.zeros(job.encoder.buckets, np.float32), [np.random.default_rng(0)] * 3
    oracle(world, job.encoder, state.parameters, prior, policy, NO_RULES, rngs, on=on)
    ((popularity, users),) = told
    kept = np.logical_or.reduce([getattr(world.split, part) for part in parts])
    np.testing.assert_array_equal(popularity, np.bincount(world.dataset.item[kept], minlength=job.items))
    assert users == 24


def test_what_the_oracle_says_of_a_sample_is_the_mean_over_its_users(tiny, tmp_path):
    from server.job import initial_state
    from shared.config import first_policy
    from simulations.run import job_of

    config = tiny("evaluation.users=3")
    world = load_world(config, tmp_path / "cache", None, silent)
    job = job_of(config, world, "x")
    state, policy = initial_state(job, np.random.default_rng(0)), first_policy(config.policy)
    prior = np.random.default_rng(1).normal(size=job.encoder.buckets).astype(np.float32)

    def recall(asked):
        rngs = [np.random.default_rng(0)] * len(asked)
        some = replace(world, asked=np.array(asked))
        return oracle(some, job.encoder, state.parameters, prior, policy, NO_RULES, rngs, on="test")["recall@10"]

    alone = [recall([user]) for user in world.asked]
    assert recall(world.asked) == pytest.approx(np.mean(alone))


def test_a_large_world_is_dealt_out_without_being_made(tmp_path):
    sets = ["data.users=30000", "data.items=200", "evaluation.users=10", "cohort.size=100"]
    config = resolve("large", sets=sets, seed=1)
    world = load_world(config, tmp_path / "cache", None, silent)
    stores = stores_of(world, 1)
    assert len(stores) == len(world.users) == 30_000
    assert len(world.dataset.users) <= 20_010
    store = stores["29999"]
    assert (store.users, len(store.histories)) == (("29999",), 1)
    assert store.histories[0].item.tolist() == world.histories[29_998].item.tolist()
    assert not np.isin(world.test[29_998], store.histories[0].item).any()
    assert [world.dataset.users[n] for n in range(10)] == world.asked_names


def test_a_gpu_that_is_not_there_is_said_before_anything_is_read(tiny, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("simulations.world.load_dataset", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ConfigError, match='device = "cuda": torch finds no CUDA GPU'):
        load_world(tiny('device="cuda"'), tmp_path / "cache", None, silent)
