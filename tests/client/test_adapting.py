"""Learning on the device: the gradient is the loss's, a step goes the right way, and nothing runs away."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.adapting import (
    GAINS,
    Adapted,
    AdaptingTerms,
    adapted,
    gradient,
    personal_of,
    unadapted,
)
from client.recommending import parts_of, shelf_of, shown_to, summed, user_sides
from client.store import Event, with_event
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.policy.recall_policy import GROUPS, RecallPolicy
from shared.recall.item_rules import NO_RULES, barred

ITEMS = 48
SPECS = {kind: EncoderSpec(16, 16, ITEMS, kind) for kind in ("mean", "linear")}
SPEC = SPECS["mean"]
PRIOR = np.linspace(-1, 1, ITEMS).astype(np.float32)
FREE = np.zeros(ITEMS, bool)
PLAIN = RecallPolicy(
    version=1,
    similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
    weights={"text": 5.0, "lexical": 1.0, "category": 2.0, "popularity": 1.0},
    features=GROUPS,
    depth=48,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=10,
)


@pytest.fixture(scope="session")
def shelf(catalogue):
    """``shelf(seed, kind)``: a model that has learned something."""
    groups = {**catalogue.groups, "compact": catalogue.groups["text"]}

    def make(seed=0, kind="mean"):
        rng, spec = np.random.default_rng(seed), SPECS[kind]
        parameters = initial_parameters(spec, rng) + rng.normal(0, 0.2, spec.size).astype(np.float32)
        return shelf_of(spec, parameters, PRIOR, replace(catalogue, groups=groups))

    return make


def state_of(seed):
    rng = np.random.default_rng(seed)
    gain = {group: float(rng.uniform(-0.5, 1)) for group in GROUPS}
    return replace(unadapted(16), z=rng.normal(0, 0.3, 16).astype(np.float32), gain=gain)


def loss_of(shelf, policy, history, state, candidates, *, wanted):
    """By another way, in float64, from the definition."""
    personal = personal_of(state, shelf.scale)
    parts = parts_of(shelf, policy, user_sides(shelf, policy, [history], personal), personal, item=candidates)
    scores = summed(parts, (1, len(candidates)))[0].astype(np.float64)
    p = np.exp(scores - scores.max())
    p /= p.sum()
    return -np.log(p[0] if wanted else 1 - p[0])


kinds = st.sampled_from(["cosine", "dot", "euclidean"])
encoders = st.sampled_from(sorted(SPECS))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), kind=kinds, wanted=st.booleans(), length=st.integers(0, 12), encoder=encoders)
def test_the_gradient_is_that_of_finite_differences(shelf, history, seed, kind, wanted, length, encoder):
    policy = replace(PLAIN, similarity=dict.fromkeys(GROUPS[:3], kind))
    model, one, state = shelf(seed, encoder), history(seed, length, 0), state_of(seed)
    candidates = np.random.default_rng(seed).permutation(ITEMS)[:9]
    found = gradient(model, policy, one, state, candidates, wanted=wanted)
    assert found.loss == pytest.approx(
        loss_of(model, policy, one, state, candidates, wanted=wanted), rel=1e-3, abs=1e-4
    )

    def difference(change):
        up, down = (loss_of(model, policy, one, change(sign * 1e-2), candidates, wanted=wanted) for sign in (1.0, -1.0))
        return (up - down) / 2e-2

    size = max(float(np.abs(found.z).max()), 1e-2)
    for at in range(0, 16, 5):
        step = np.eye(16, dtype=np.float32)[at]
        slope = difference(lambda by, step=step: replace(state, z=state.z + np.float32(by) * step))
        assert found.z[at] == pytest.approx(slope, abs=0.03 * size + 2e-3)
    for group in GROUPS:
        slope = difference(lambda by, g=group: replace(state, gain=state.gain | {g: state.gain[g] + by}))
        assert found.gain[group] == pytest.approx(slope, rel=0.03, abs=5e-3)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), kind=kinds, wanted=st.booleans())
def test_the_gradient_is_torchs(shelf, history, seed, kind, wanted):
    """The same loss through the similarity that trains the shared encoder."""
    import torch

    from client.model import similarity

    policy = replace(PLAIN, similarity=dict.fromkeys(GROUPS[:3], kind), features=("text", "popularity"))
    model, one, state = shelf(seed), history(seed, 9, 0), state_of(seed)
    candidates = np.random.default_rng(seed).permutation(ITEMS)[:9]
    found = gradient(model, policy, one, state, candidates, wanted=wanted)

    z, gain = torch.tensor(state.z, requires_grad=True), torch.tensor([state.gain["text"], 0.0], requires_grad=True)
    user = torch.from_numpy(user_sides(model, policy, [one])["text"]) + model.scale * z
    near = similarity(kind, user, torch.from_numpy(model.items["text"][candidates])[None])[0]
    popular = torch.from_numpy(model.popularity[candidates]) * (1 + state.gain["popularity"])
    p = torch.softmax(5.0 * (1 + gain[0]) * near + popular, 0)
    loss = -torch.log(p[0] if wanted else 1 - p[0])
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), rel=1e-3, abs=1e-4)
    assert found.z == pytest.approx(z.grad.numpy(), rel=1e-2, abs=1e-3)
    assert found.gain["text"] == pytest.approx(gain.grad[0].item(), rel=1e-2, abs=1e-3)


def learn(shelf, history, kind, *, optimizer, rate=0.1, times=10, item=None):
    item = int(np.setdiff1d(np.arange(ITEMS), history.item)[0]) if item is None else item
    terms = AdaptingTerms(optimizer, rate, warmup=3, negatives=20)
    state = unadapted(16)
    for step in range(times):
        state = adapted(shelf, PLAIN, history, FREE, state, Event(item, kind, 2e9), terms, np.random.default_rng(step))
    return item, state


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("encoder", sorted(SPECS))
@pytest.mark.parametrize(("kind", "up"), [("purchase", True), ("not_interested", False)])
def test_what_was_done_makes_the_next_of_its_kind_more_or_less_likely(shelf, history, optimizer, encoder, kind, up):
    model, one = shelf(0, encoder), history(3, 9, 0)
    item, state = learn(model, one, kind, optimizer=optimizer, times=60)

    def score(state):
        personal = personal_of(state, model.scale)
        shown = shown_to(model, replace(PLAIN, k=48), one, np.random.default_rng(0), personal=personal)
        return shown.score[shown.item == item][0] - shown.score.mean()

    assert (score(state) > score(unadapted(16)) + 0.1) if up else (score(state) < score(unadapted(16)) - 0.1)
    assert state.events == 60


def test_a_step_of_sgd_is_the_rate_times_the_gradient_and_rises_through_the_warm_up(shelf, history):
    model, one = shelf(), history(3, 9, 0)
    event, terms = Event(40, "purchase", 2e9), AdaptingTerms("sgd", 0.2, warmup=4, negatives=100)
    assert 40 not in one.item
    candidates = np.array([40, *np.setdiff1d(np.arange(ITEMS), [*one.item, 40])])
    start = gradient(model, PLAIN, one, unadapted(16), candidates, wanted=True)
    for events, share in ((0, 0.25), (3, 1.0), (90, 1.0)):
        before = replace(unadapted(16), events=events)
        after = adapted(model, PLAIN, one, FREE, before, event, terms, np.random.default_rng(0))
        assert after.z == pytest.approx(-0.2 * share * start.z, rel=1e-3, abs=1e-6)


def test_a_first_step_of_adagrad_is_as_long_as_the_rate_and_later_ones_are_shorter(shelf, history):
    model, one = shelf(), history(3, 9, 0)
    terms, moved, state = AdaptingTerms("adagrad", 0.1, warmup=0, negatives=100), [], unadapted(16)
    for step in range(5):
        after = adapted(model, PLAIN, one, FREE, state, Event(40, "purchase", 2e9), terms, np.random.default_rng(step))
        moved.append(np.abs(after.z - state.z).max())
        assert (after.squares[0] >= state.squares[0]).all()
        state = after
    assert moved[0] == pytest.approx(0.1, rel=1e-3)
    assert all(later < earlier for earlier, later in pairwise(moved))


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_no_rate_takes_the_offset_out_of_reach(shelf, history, optimizer):
    _, state = learn(shelf(), history(3, 9, 0), "purchase", optimizer=optimizer, rate=1e4)
    assert np.linalg.norm(state.z) <= np.sqrt(16) * 1.0001
    assert all(GAINS[0] <= gain <= GAINS[1] for gain in state.gain.values())
    assert np.isfinite(state.z).all()


def test_barred_items_are_not_learned_and_no_negatives(shelf, history):
    model, one = shelf(), history(3, 9, 0)
    state = state_of(1)
    mask = FREE.copy()
    mask[40] = True
    args = (Event(40, "purchase", 2e9), AdaptingTerms(), np.random.default_rng(0))
    assert adapted(model, PLAIN, one, mask, state, *args) is state
    assert adapted(model, PLAIN, one, ~FREE, state, *args) is state
    only = ~FREE
    only[[40, 41]] = False
    assert {40, 41}.isdisjoint(one.item)
    two = gradient(model, PLAIN, one, unadapted(16), np.array([40, 41]), wanted=True)
    after = adapted(model, PLAIN, one, only, unadapted(16), args[0], AdaptingTerms("sgd", 1.0, 1), args[2])
    assert after.z == pytest.approx(-two.z, rel=1e-3, abs=1e-6)


def test_an_empty_history_can_begin_to_learn(shelf, history):
    empty = history(3, 0, 0)
    item, state = learn(shelf(), empty, "purchase", optimizer="adagrad", times=20, item=5)
    assert np.linalg.norm(state.z) > 0.1
    shown = shown_to(shelf(), PLAIN, empty, np.random.default_rng(0), personal=personal_of(state, shelf().scale))
    assert item in shown.item[:3]


def test_nothing_learned_is_the_shared_model(shelf, history):
    model, one = shelf(), history(3, 9, 0)
    plain, same = (
        shown_to(model, PLAIN, one, np.random.default_rng(0), personal=p)
        for p in (None, personal_of(unadapted(16), model.scale))
    )
    assert plain.item.tolist() == same.item.tolist()
    assert np.array_equal(plain.score, same.score)


def test_events_flow_from_the_history_into_the_next_list(shelf, history):
    """The whole way: event, step, history, list; item rules hold throughout."""
    model, one, state = shelf(), history(3, 9, 0), unadapted(16)
    mask = barred(NO_RULES, model.catalogue.ids, None)
    for item in np.setdiff1d(np.arange(ITEMS), one.item)[:5]:
        event = Event(int(item), "view", 2e9)
        state = adapted(model, PLAIN, one, mask, state, event, AdaptingTerms(), np.random.default_rng(0))
        one = with_event(one, event)
    shown = shown_to(model, PLAIN, one, np.random.default_rng(0), personal=personal_of(state, model.scale))
    assert isinstance(state, Adapted)
    assert not set(shown.item.tolist()) & set(one.item.tolist())
