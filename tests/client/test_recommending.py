"""A list on the device: as measured, never with what is seen or barred, and changed by the next event."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.measuring import lists
from client.recommending import PRICE, Personal, requested, shelf_of, shown_to
from client.store import ClientStore, Event, add_event, load_store, save_store, with_event
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.errors import ConfigError
from shared.policy.recall_policy import GROUPS, RecallPolicy
from shared.recall.item_rules import ItemRules, barred

ITEMS = 48
SPECS = {kind: EncoderSpec(16, 16, ITEMS, kind) for kind in ("mean", "linear")}
SPEC = SPECS["mean"]
PRIOR = np.linspace(-1, 1, ITEMS).astype(np.float32)
encoders = st.sampled_from(sorted(SPECS))
RULES = ItemRules(("i40", "i41"), ("i47",), {"i46": 18, "i45": 16})


def parameters(seed=0, kind="mean"):
    rng, spec = np.random.default_rng(seed), SPECS[kind]
    return initial_parameters(spec, rng) + rng.normal(0, 0.3, spec.size).astype(np.float32)


@pytest.fixture(scope="session")
def shelf(catalogue):
    """``shelf(rules, seed, kind)``: a model that has learned something."""
    whole = replace(catalogue, groups={**catalogue.groups, "compact": catalogue.groups["text"]})

    def make(rules=RULES, seed=0, kind="mean"):
        return shelf_of(SPECS[kind], parameters(seed, kind), PRIOR, whole, rules=rules)

    return make


@pytest.fixture(scope="session")
def fours(catalogue):
    """``fours(seed)``: every four items are the same in everything, nothing is popular, and nothing was learned."""
    rows = np.arange(ITEMS) // 4
    alike = replace(catalogue, groups={name: vectors[rows] for name, vectors in catalogue.groups.items()})
    flat = np.zeros_like(PRIOR)
    return lambda seed=0: shelf_of(SPEC, initial_parameters(SPEC, np.random.default_rng(seed)), flat, alike)


@pytest.fixture(scope="session")
def of_fours(history):
    """``of_fours(seed)``: a history of the first item of some fours, all bought."""

    def make(seed):
        chosen = np.random.default_rng(seed).choice(ITEMS // 4, 6, replace=False) * 4
        return replace(history(seed, 6, 0), item=chosen.astype(np.int32), kind=np.ones(6, np.int8))

    return make


def policy(**changes):
    first = RecallPolicy(
        version=1,
        similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
        weights={"text": 5.0, "lexical": 1.0, "category": 2.0, "popularity": 1.0},
        features=("text", "lexical", "category", "popularity"),
        depth=30,
        local_iterations=1,
        exposure_price=0.0,
        diversity=0.0,
        exploration=0.0,
        k=10,
    )
    return replace(first, **changes)


@st.composite
def policies(draw):
    """Policies with every knob turned."""
    groups = draw(st.lists(st.sampled_from(GROUPS), min_size=1, unique=True))
    kinds = st.sampled_from(["cosine", "dot", "euclidean"])
    return policy(
        similarity={group: draw(kinds) for group in ("text", "lexical", "category")},
        weights={group: draw(st.floats(-1000, 1000, width=32)) for group in GROUPS},
        features=tuple(group for group in GROUPS if group in groups),
        depth=draw(st.integers(1, 100)),
        exposure_price=draw(st.just(0.0) | st.floats(0.01, 10)),
        exposure_prices=draw(st.just(()) | st.just(tuple(range(0, 10 * ITEMS, 10)))),
        diversity=draw(st.floats(0, 1)),
        exploration=draw(st.floats(0, 0.5)),
        k=draw(st.integers(10, 60)),
    )


def rng():
    return np.random.default_rng(3)


@settings(deadline=None)
@given(data=st.data())
def test_no_policy_ever_shows_what_is_barred_seen_or_turned_down(shelf, history, data):
    one = history(data.draw(st.integers(0, 50)), data.draw(st.integers(0, 40)), 2)
    age = data.draw(st.sampled_from([None, 3, 15, 16, 17, 18, 60]))
    model = shelf(seed=data.draw(st.integers(0, 5)), kind=data.draw(encoders))
    shown = shown_to(model, data.draw(policies()), one, rng(), age=age)
    never = {f"i{item}" for item in one.item} | {"i40", "i41", "i47"}
    never |= {"i46"} if age is None or age < 18 else set()
    never |= {"i45"} if age is None or age < 16 else set()
    assert not {f"i{item}" for item in shown.item} & never
    assert len(set(shown.item.tolist())) == len(shown.item)


def test_who_is_old_enough_is_shown_what_has_an_age_limit(shelf, history):
    one, everything = history(1, 5, 0), policy(k=60, depth=60)
    of = {age: set(shown_to(shelf(), everything, one, rng(), age=age).item.tolist()) for age in (None, 15, 16, 18)}
    assert of[None] == of[15] == of[18] - {45, 46}
    assert of[16] == of[18] - {46}
    assert of[18] == set(range(ITEMS)) - {40, 41, 47} - set(one.item.tolist())


@settings(deadline=None)
@given(data=st.data())
def test_a_list_is_the_one_that_is_measured(shelf, history, data):
    one, how, kind = history(data.draw(st.integers(0, 50)), 12, 0), data.draw(policies()), data.draw(encoders)
    model = shelf(kind=kind)
    masks = [barred(RULES, model.catalogue.ids, None)]
    groups, bucket = dict(model.catalogue.groups), np.arange(ITEMS)
    made = lists(model.spec, model.parameters, groups, bucket, PRIOR, how, [one], [rng()], barred=masks, visible="all")
    ranked = next(iter(made))[0]
    assert shown_to(model, how, one, rng()).item.tolist() == ranked[ranked >= 0].tolist()


@given(data=st.data())
def test_the_parts_add_up_to_a_score_that_orders_the_list(shelf, history, data):
    how = replace(data.draw(policies()), diversity=0.0, exploration=0.0)
    shown = shown_to(shelf(), how, history(4, 9, 3), rng())
    size = 1e-5 * max([1.0, *(float(np.abs(part).max(initial=0)) for part in shown.parts.values())])
    assert shown.score == pytest.approx(sum(shown.parts.values(), np.zeros(len(shown.item))), abs=size)
    assert (np.diff(shown.score) <= size).all()
    assert (PRICE in shown.parts) == (how.exposure_price > 0 or how.exposure_prices != ())
    assert not shown.chance.any()


@settings(deadline=None)
@given(data=st.data())
def test_the_list_is_the_same_without_exploration_up_to_its_places(shelf, history, data):
    how, one = data.draw(policies()), history(4, 9, 3)
    shown, plain = (shown_to(shelf(), replace(how, exploration=e), one, rng()) for e in (how.exploration, 0.0))
    kept = shown.item[~shown.chance]
    assert kept.tolist() == plain.item[: len(kept)].tolist()
    assert shown.chance.sum() <= np.ceil(how.exploration * how.k)


def test_what_item_rules_bar_was_not_seen(shelf, history):
    one = history(4, 6, 0)
    twice = replace(one, item=np.concatenate([one.item[:-1], one.item[:1]]))
    for explorer, enough in ((one, 6), (twice, 5)):
        bold, shy = (
            shown_to(shelf(), policy(exploration=0.5, explore_from=e), explorer, rng()) for e in (enough, enough + 1)
        )
        assert bold.chance.any()
        assert not shy.chance.any()


def test_a_request_has_its_own_k_and_diversity(shelf, history):
    one, in_force = history(2, 9, 0), policy()
    ten = shown_to(shelf(), in_force, one, rng()).item
    assert shown_to(shelf(), requested(in_force, k=3), one, rng()).item.tolist() == ten[:3].tolist()
    assert len(shown_to(shelf(), requested(in_force, k=25), one, rng()).item) == 25
    assert shown_to(shelf(), requested(in_force, diversity=0.9), one, rng()).item.tolist() != ten.tolist()
    assert requested(in_force) == in_force


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 1001}, {"diversity": -0.1}, {"diversity": 1.1}])
def test_a_request_out_of_bounds_is_a_sentence(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = "):
        requested(policy(), **wrong)


def test_the_personal_part_moves_this_list_alone(shelf, history):
    one = history(2, 9, 0)
    plain = shown_to(shelf(), policy(), one, rng())
    nothing = Personal(np.zeros(16, np.float32), {})
    assert shown_to(shelf(), policy(), one, rng(), personal=nothing).item.tolist() == plain.item.tolist()
    towards = shelf().items["text"][30] * 10
    assert shown_to(shelf(), policy(), one, rng(), personal=Personal(towards, {})).item[0] == 30
    only_popular = Personal(np.zeros(16, np.float32), {"text": -1.0, "lexical": -1.0, "category": -1.0})
    shown = shown_to(shelf(), policy(k=40, depth=40), one, rng(), personal=only_popular)
    assert (np.diff(shelf().popularity[shown.item]) <= 0).all()


def test_not_interested_changes_the_next_list_through_the_store(fours, of_fours, tmp_path):
    """The item itself goes, and what is like it sinks."""
    path, everything = tmp_path / "store.npz", policy(k=ITEMS, depth=ITEMS)
    save_store(ClientStore("c", ("ann",), (of_fours(3),)), path)

    before = shown_to(fours(), everything, load_store(path, ITEMS).histories[0], rng())
    refused = int(before.item[0])
    alike = refused + 1
    add_event(path, ITEMS, "ann", Event(refused, "not_interested", time=2e9))
    after = shown_to(fours(), everything, load_store(path, ITEMS).histories[0], rng())

    assert before.item[1] == alike
    assert refused not in after.item
    assert after.item.tolist().index(alike) > 10
    assert after.score[after.item == alike] < before.score[before.item == alike] - 1


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["cosine", "dot", "euclidean"]))
def test_what_is_like_a_refused_item_scores_lower(fours, of_fours, seed, kind):
    """Whatever the model, while refusing counts against as it does before anything is learned."""
    one, how = of_fours(seed), policy(similarity=dict.fromkeys(GROUPS[:3], kind), k=ITEMS, depth=ITEMS)
    before = shown_to(fours(seed), how, one, rng())
    refused = int(before.item[0])
    after = shown_to(fours(seed), how, with_event(one, Event(refused, "not_interested", 2e9)), rng())
    assert after.score[after.item == refused + 1] < before.score[before.item == refused + 1]


def test_a_score_is_finite_for_an_empty_history(shelf, history):
    shown = shown_to(shelf(), policy(), history(1, 0, 0), rng())
    assert len(shown.item) == 10
    assert all(math.isfinite(score) for score in shown.score)
