"""What a simulation deals out: clients never hold a test item, and every user sits somewhere once."""

from __future__ import annotations

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.history import NOT_INTERESTED
from shared.recall.item_rules import NO_RULES
from simulations.download import silent
from simulations.world import load_world, oracle, stores_of


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
