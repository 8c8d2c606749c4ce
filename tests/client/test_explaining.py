"""Explanations are faithful: what is named is what carries the score."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.explaining import TELLING, effects, explain, without
from client.recommending import PRICE, Personal, parts_of, shelf_of, shown_to, summed, user_sides
from shared.encoder.spec import KINDS_OF_ENCODER, EncoderSpec, initial_parameters
from shared.history import NOT_INTERESTED, History
from shared.policy.recall_policy import GROUPS, RecallPolicy

ITEMS = 48
SPECS = {kind: EncoderSpec(16, 16, ITEMS, kind) for kind in KINDS_OF_ENCODER}
SPEC = SPECS["mean"]
PRIOR = np.linspace(-1, 1, ITEMS).astype(np.float32)
PLAIN = RecallPolicy(
    version=7,
    similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
    weights={"text": 5.0, "lexical": 1.0, "category": 2.0, "popularity": 1.0},
    features=GROUPS,
    depth=30,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=10,
)

encoders = st.sampled_from(sorted(SPECS))


@pytest.fixture(scope="session")
def shelf(catalogue):
    """``shelf(seed, kind)``: a model that has learned something, behaviour weights of either sign included."""
    groups = {**catalogue.groups, "compact": catalogue.groups["text"]}

    def make(seed, kind="mean"):
        rng, spec = np.random.default_rng(seed), SPECS[kind]
        parameters = initial_parameters(spec, rng) + rng.normal(0, 0.4, spec.size).astype(np.float32)
        return shelf_of(spec, parameters, PRIOR, replace(catalogue, groups=groups))

    return make


@st.composite
def policies(draw):
    kinds = st.sampled_from(["cosine", "dot", "euclidean"])
    return replace(
        PLAIN,
        similarity={group: draw(kinds) for group in GROUPS[:3]},
        weights={group: draw(st.floats(0, 20, width=32)) for group in GROUPS},
        features=tuple(g for g in GROUPS if g == "text" or draw(st.booleans())),
        exposure_price=draw(st.sampled_from([0.0, 1.5])),
        diversity=draw(st.sampled_from([0.0, 0.4])),
    )


def rng():
    return np.random.default_rng(3)


def score_of(shelf, policy, history, item):
    """By another way: scored alone, as if the user had never seen the item that is left out."""
    parts = parts_of(shelf, policy, user_sides(shelf, policy, [history]))
    return sum(float(part[0, item]) for part in parts.values())


@settings(deadline=None)
@given(data=st.data())
def test_without_a_named_item_the_score_is_lower_by_what_was_said(shelf, history, data):
    model, policy = shelf(data.draw(st.integers(0, 1000)), data.draw(encoders)), data.draw(policies())
    one = history(data.draw(st.integers(0, 1000)), data.draw(st.integers(0, 14)), 2)
    shown = shown_to(model, policy, one, rng())
    for said in explain(model, policy, one, shown):
        whole = score_of(model, policy, one, said.item)
        for reason in (*said.because, *said.despite):
            fall = whole - score_of(model, policy, without(one, reason.row), said.item)
            assert fall == pytest.approx(reason.effect, abs=1e-4 * max(1, abs(whole)))
        assert all(reason.effect > 0 for reason in said.because)
        assert all(reason.effect < 0 for reason in said.despite)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), kind=encoders)
def test_who_is_not_named_would_lower_the_score_less(shelf, history, seed, kind):
    model, one = shelf(seed, kind), history(seed, 12, 0)
    shown = shown_to(model, PLAIN, one, rng())
    effect = effects(model, PLAIN, one, shown.item)
    for place, said in enumerate(explain(model, PLAIN, one, shown, reasons=2)):
        named = [reason.row for reason in said.because]
        least = min((reason.effect for reason in said.because), default=0)
        rest = np.delete(effect[:, place], named)
        assert len(named) <= 2
        assert rest.max() <= (least if len(named) == 2 else TELLING)


def test_who_lowers_no_score_is_not_named(shelf, history):
    """One item was turned down: nothing that was done speaks for what is like it."""
    model = shelf_of(SPEC, initial_parameters(SPEC, np.random.default_rng(0)), PRIOR, shelf(0).catalogue)
    one = replace(history(1, 1, 0), kind=np.full(1, NOT_INTERESTED, np.int8))
    policy = replace(
        PLAIN, similarity=dict.fromkeys(GROUPS[:3], "dot"), features=("text", "popularity"), k=40, depth=40
    )
    shown = shown_to(model, policy, one, rng())
    alike = model.items["text"][shown.item] @ model.items["text"][one.item[0]]
    assert 5 < (alike > 0.1).sum() < 35
    for said, likeness in zip(explain(model, policy, one, shown), alike, strict=True):
        if likeness > 0.01:
            assert said.because == ()
            assert said.despite[0].row == 0
        elif likeness < -0.01:
            assert said.because[0].row == 0


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_an_effect_is_what_scoring_the_rest_alone_gives(shelf, history, data):
    model, policy = shelf(data.draw(st.integers(0, 1000)), data.draw(encoders)), data.draw(policies())
    one = history(data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 14)), 2)
    if data.draw(st.booleans()):
        one = replace(one, time=np.full(len(one), 1.7e9))  # all are the newest
    personal = data.draw(st.sampled_from([None, Personal(np.full(16, 0.2, np.float32), {"text": 0.5})]))
    found = effects(model, policy, one, np.arange(ITEMS), personal=personal)

    def total(some):
        users = user_sides(model, policy, [some], personal)
        return summed(parts_of(model, policy, users, personal), (1, ITEMS))[0]

    whole = total(one)
    for row in range(len(one)):
        np.testing.assert_allclose(
            found[row], whole - total(without(one, row)), atol=2e-5 * max(1, np.abs(whole).max())
        )


@pytest.mark.parametrize(("kind", "most"), [("linear", 1), ("mean", 2), ("attention", 3), ("gru", 129)])
def test_a_long_history_is_not_read_again_for_every_row(shelf, history, monkeypatch, kind, most):
    model, one = shelf(1, kind), history(2, 48, 0)
    long = History(**{f.name: np.tile(getattr(one, f.name), 20) for f in fields(History)})
    long = replace(long, time=1e9 + np.arange(len(long), dtype=np.float64))
    read = []

    def counted(shelf, policy, histories, personal=None):
        read.extend(histories)
        return user_sides(shelf, policy, histories, personal)

    monkeypatch.setattr("client.explaining.user_sides", counted)
    effect = effects(model, PLAIN, long, np.arange(3))
    assert effect.shape == (960, 3)
    assert np.abs(effect).max() > 0
    assert len(read) <= most


def test_what_a_history_has_no_say_in_is_put_on_nobody(shelf, history):
    model, popular, one = shelf(1), replace(PLAIN, features=("popularity",)), history(1, 9, 0)
    for said in explain(model, popular, one, shown_to(model, popular, one, rng())):
        assert (said.because, said.despite) == ((), ())


@given(data=st.data())
def test_shares_are_parts_of_the_whole_and_keep_their_signs(shelf, history, data):
    model, policy, one = shelf(data.draw(st.integers(0, 9))), data.draw(policies()), history(5, 9, 2)
    shown = shown_to(model, policy, one, rng())
    for place, said in enumerate(explain(model, policy, one, shown)):
        assert said.score == pytest.approx(sum(said.parts.values()), abs=1e-3)
        assert set(said.parts) == set(said.shares) == set(shown.parts)
        assert sum(map(abs, said.shares.values())) == pytest.approx(1) or not any(said.parts.values())
        assert all(np.sign(said.shares[name]) == np.sign(part) for name, part in said.parts.items())
        assert (PRICE in said.parts) == (policy.exposure_price > 0)
        assert said.item == shown.item[place]
        assert said.policy_version == 7


def test_what_put_an_item_there_is_said(shelf, history):
    model, one = shelf(1), history(2, 9, 0)

    def placed(**changes):
        policy = replace(PLAIN, **changes)
        return [said.placed for said in explain(model, policy, one, shown_to(model, policy, one, rng()))]

    assert placed() == ["score"] * 10
    assert placed(diversity=0.3) == ["score and diversity"] * 10
    half = placed(exploration=0.5)
    assert half[:5] == ["score"] * 5
    assert half[-3:] == ["chance"] * 3


def test_a_personal_part_is_explained_with_the_rest(shelf, history):
    model, one = shelf(1), history(2, 9, 0)
    personal = Personal(np.full(16, 0.2, np.float32), {"text": 0.5})
    shown = shown_to(model, PLAIN, one, rng(), personal=personal)
    (first, *_) = explain(model, PLAIN, one, shown, personal=personal)
    for reason in first.because:
        users = user_sides(model, PLAIN, [without(one, reason.row)], personal)
        left = sum(part[0, first.item] for part in parts_of(model, PLAIN, users, personal).values())
        assert first.score - left == pytest.approx(reason.effect, abs=1e-3)


def test_nothing_shown_or_nothing_done_is_nothing_to_explain(shelf, history):
    model, empty = shelf(1), history(2, 0, 0)
    shown = shown_to(model, PLAIN, empty, rng())
    assert all(not said.because and not said.despite for said in explain(model, PLAIN, empty, shown))
    everything = history(2, 48, 0)
    assert explain(model, PLAIN, everything, shown_to(model, PLAIN, everything, rng())) == []
