"""The two-tower kinds side by side: numpy and torch are twins, and a contribution is its user's own, for every kind."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from client import training as module
from client.batch import draw
from client.model import HistoryEncoder, Items, Learned, Problem, gather, logits, looked_up, losses, projected_items
from client.strategy import Way
from client.training import fit, fit_locally_private
from shared.encoder.encode import Padded, item_vectors, log_popularity_of, pad, user_groups
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.history import BEHAVIOUR_WIDTH, NOT_INTERESTED, stacked
from shared.privacy.noise import NoiseSource
from shared.protocol import TrainingTerms
from shared.recall.scoring import scores

ITEMS = 48
KINDS = ("mean", "attention", "gru")
SPECS = {kind: EncoderSpec(16, 16, ITEMS, kind) for kind in KINDS}
TERMS = TrainingTerms("softmax", 0.05, 16, 16, 32)
OPEN = np.zeros(ITEMS, bool)
CHUNK = 16
WAYS = (Way("samples", CHUNK), Way("copies", CHUNK))


@pytest.fixture
def items(catalogue):
    return Items(dict(catalogue.groups), np.arange(ITEMS), np.linspace(-1, 1, ITEMS).astype(np.float32))


@pytest.fixture
def parameters():
    """``parameters(kind)``: everything has moved away from where it began."""

    def make(kind):
        rng = np.random.default_rng(3)
        spec = SPECS[kind]
        return initial_parameters(spec, rng) + rng.normal(0, 0.2, spec.size).astype(np.float32)

    return make


@pytest.fixture
def histories(history):
    lengths = (12, 0, 1, 2, 40, 5, 30, 3, 0, 17)
    return [history(seed, length, length // 4) for seed, length in enumerate(lengths)]


def test_the_page_counts_parameters_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "encoder.md").read_text("utf-8")
    for kind in KINDS:
        size = EncoderSpec(384, 32, 1682, kind).size  # MovieLens 100K
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{kind}` | ") and "| all |" in line]
        assert f"| {size:,} |".replace(",", " ") in row


def streams(count):
    """Each user's chance."""
    return list(range(count))


def fitted(kind, parameters, items, policy, histories, keys=None, terms=TERMS, **how):
    count = len(histories)
    keys = streams(count) if keys is None else keys
    chunks = fit(SPECS[kind], parameters, items, policy, terms, histories, keys, [OPEN] * count, **how)
    return np.concatenate(list(chunks))


def split(flat, spec):
    """The flat vector's parts, as autograd sees them."""
    parts, start = {}, 0
    for name, shape in spec.shapes().items():
        size = int(np.prod(shape))
        parts[name] = flat[start : start + size].reshape(shape)
        start += size
    return parts


def naive_user(kind, parts, vectors, behaviour):
    """One user's vector: the pseudo-code, a place after the other; (rank,)."""
    filled = [place for place in range(len(behaviour)) if behaviour[place].any()]
    signs = [-1.0 if behaviour[place, NOT_INTERESTED] else 1.0 for place in filled]
    if not filled:
        return torch.zeros(vectors.shape[1])
    if kind == "gru":
        rank = vectors.shape[1]
        cell = torch.nn.GRUCell(rank + BEHAVIOUR_WIDTH, rank)
        told = {"weight_ih": parts["input"].T, "weight_hh": parts["state"].T, "bias_ih": parts["gate"]}
        told["bias_hh"] = torch.zeros(3 * rank)
        state = torch.zeros(1, rank)
        for sign, place in zip(signs, filled, strict=True):
            read = torch.cat([sign * vectors[place], behaviour[place]])[None]
            state = torch.func.functional_call(cell, told, (read, state))
        return state[0]
    if kind == "mean":
        weights = torch.stack([behaviour[place] @ parts["behaviour"] for place in filled])
        weights = weights / (weights.abs().sum() + 1e-6)
    else:
        said = [vectors[place] @ parts["query"] + behaviour[place] @ parts["behaviour"] for place in filled]
        weights = torch.tensor(signs) * torch.softmax(torch.stack(said), 0)
    return weights @ vectors[filled]


def naive_change(kind, parameters, items, policy, one, key, terms=TERMS):
    """One user, plain autograd on the flat vector, one step after the other."""
    spec = SPECS[kind]
    problem = Problem(spec, items, policy, terms)
    now = torch.tensor(parameters)
    for step in range(policy.local_iterations):
        visit = draw(stacked([one]), [key], [OPEN], ITEMS, problem.shape, visit=step)
        flat = now.clone().requires_grad_()
        parts, inputs = split(flat, spec), gather(problem, visit)
        vectors = inputs.text @ parts["projection"] + parts["identity"][inputs.bucket]
        user = naive_user(kind, parts, vectors[0, : terms.context], inputs.behaviour[0])
        learned = Learned(vectors, user[None], parts["bias"][inputs.bucket[:, terms.context :]])
        losses(terms.loss, logits(policy, learned, inputs), inputs).sum().backward()
        now = (now - terms.learning_rate * flat.grad).detach()
    return now.numpy() - parameters


@pytest.mark.parametrize(
    ("kind", "near", "steps", "way"),
    list(product(("attention", "gru"), ("cosine", "dot", "euclidean"), (1, 3), WAYS)),
)
def test_a_contribution_is_that_of_a_plain_loop_over_users(
    kind, near, steps, way, parameters, items, policy, histories
):
    chosen = policy(similarity=dict.fromkeys(("text", "lexical", "category"), near), local_iterations=steps)
    values = parameters(kind)
    rows = fitted(kind, values, items, chosen, histories, way=way)
    assert rows.shape == (len(histories), SPECS[kind].size)
    assert rows.dtype == np.float32
    last = sum(int(np.prod(shape)) for shape in SPECS[kind].history_shapes().values())
    assert rows[0, -last:].any()  # the history's side learns too
    for row, one, key in zip(rows, histories, streams(len(histories)), strict=True):
        naive = naive_change(kind, values, items, chosen, one, key)
        assert np.allclose(row, naive, rtol=2e-4, atol=3e-6), np.abs(row - naive).max()


@pytest.mark.parametrize(("kind", "loss"), list(product(("attention", "gru"), ("bpr", "squared"))))
def test_a_contribution_is_that_of_a_plain_loop_for_every_loss(kind, loss, parameters, items, policy, histories):
    terms = replace(TERMS, loss=loss)
    rows = fitted(kind, parameters(kind), items, policy(), histories, terms=terms)
    for row, one, key in zip(rows, histories, streams(len(histories)), strict=True):
        naive = naive_change(kind, parameters(kind), items, policy(), one, key, terms)
        assert np.allclose(row, naive, rtol=2e-4, atol=3e-6), np.abs(row - naive).max()


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_that_of_numpy(kind, parameters, items, policy, histories):
    spec, values, chosen = SPECS[kind], parameters(kind), policy()
    problem = Problem(spec, items, chosen, TERMS)
    batch = draw(stacked(histories), streams(len(histories)), [OPEN] * len(histories), ITEMS, problem.shape)
    encoder, inputs = HistoryEncoder(spec, values), gather(problem, batch)
    weights = {name: p.detach() for name, p in encoder.named_parameters()}
    learned = encoder(inputs, looked_up(weights, inputs, projected_items(weights, items.groups["text"])))
    vectors = items.groups | {"text": item_vectors(spec, values, items.groups["text"], items.bucket)}
    padded = Padded(batch.item[:, : TERMS.context], batch.behaviour)
    users = user_groups(spec, values, vectors, vectors["text"], padded)
    assert np.allclose(learned.user.detach().numpy(), users["text"], atol=1e-5)
    total = scores(chosen, users, vectors, log_popularity_of(spec, values, items.prior))
    ours = logits(chosen, learned, inputs).detach().numpy()
    assert np.allclose(ours, np.take_along_axis(total, batch.item[:, TERMS.context :], 1), atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_is_one_user(kind, parameters, items, policy, histories, monkeypatch):
    seen = {}

    class Watched(module.GradSampleModule):
        def zero_grad(self, *args):
            seen.update({name: tuple(p.grad_sample.shape) for name, p in self.named_parameters()})
            super().zero_grad(*args)

    monkeypatch.setattr(module, "GradSampleModule", Watched)
    fitted(kind, parameters(kind), items, policy(), histories, way=Way("samples", CHUNK))
    assert len(seen) == 2 + len(SPECS[kind].history_shapes())
    assert {shape[0] for shape in seen.values()} == {CHUNK}


@pytest.mark.parametrize(("kind", "steps", "way"), list(product(KINDS, (1, 2), WAYS)))
def test_a_contribution_does_not_depend_on_the_batch_not_even_in_its_last_bit(
    kind, steps, way, parameters, items, policy, history
):
    chosen, values = policy(local_iterations=steps), parameters(kind)
    terms = replace(TERMS, context=96, targets=32, negatives=64)  # sizes at which a matrix library takes over
    histories = [history(seed, seed % 40, seed % 5) for seed in range(2 * CHUNK + 5)]
    together = fitted(kind, values, items, chosen, histories, terms=terms, way=way)
    order = np.random.default_rng(1).permutation(len(histories))
    mixed = np.empty_like(together)
    for part in np.split(order, [1, 4, 11]):
        keys = part.tolist()
        mixed[part] = fitted(kind, values, items, chosen, [histories[i] for i in part], keys, terms, way=way)
    assert np.array_equal(together, mixed)


@pytest.mark.parametrize(("kind", "steps", "way"), list(product(KINDS, (1, 2), WAYS)))
def test_an_empty_history_wishes_nothing(kind, steps, way, parameters, items, policy, history):
    chosen, values = policy(local_iterations=steps), parameters(kind)
    for flat in (values, np.zeros_like(values)):
        assert not fitted(kind, flat, items, chosen, [history(0, 0, 0), history(1, 5, 5)], way=way).any()


@pytest.mark.parametrize("kind", KINDS)
def test_under_local_trust_without_noise_it_is_clipped_gradient_descent(kind, parameters, items, policy, history):
    histories, values = [history(seed, seed % 30, 0) for seed in range(CHUNK + 3)], parameters(kind)
    rows = fitted(kind, values, items, policy(), histories, terms=replace(TERMS, learning_rate=1.0))
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = 0.2 * (rows * np.minimum(1.0, 0.1 / (norm + 1e-6))).sum(0)
    got = fit_locally_private(
        SPECS[kind],
        values,
        items,
        policy(),
        replace(TERMS, learning_rate=0.2),
        histories,
        streams(len(histories)),
        [OPEN] * len(histories),
        clip=0.1,
        noise_multiplier=0.0,
        noise=NoiseSource("seeded", np.random.SFC64(4).random_raw),
    )
    assert np.allclose(got, wanted, atol=1e-5)


def text_of(kind, flat, items, histories):
    vectors = item_vectors(SPECS[kind], flat, items.groups["text"], items.bucket)
    return user_groups(SPECS[kind], flat, {"text": vectors}, vectors, pad(histories, visible="all"))["text"], vectors


def test_before_training_attention_is_the_plain_mean(items, histories):
    first = {kind: initial_parameters(SPECS[kind], np.random.default_rng(0)) for kind in ("mean", "attention")}
    (mean, vectors), (attention, same) = (text_of(kind, flat, items, histories) for kind, flat in first.items())
    assert np.array_equal(vectors, same)
    assert np.allclose(attention, mean, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_round_zero_draws_to_what_was_liked_and_away_from_what_was_turned_down(kind, items, history):
    flat = initial_parameters(SPECS[kind], np.random.default_rng(0))
    one = replace(history(2, 1, 0), kind=np.zeros(1, np.int8))
    other = replace(one, kind=np.full(1, NOT_INTERESTED, np.int8))
    (liked, disliked), vectors = text_of(kind, flat, items, [one, other])
    cosine = liked @ vectors[one.item[0]] / np.linalg.norm(liked) / np.linalg.norm(vectors[one.item[0]])
    assert cosine == pytest.approx(1, abs=0.02)
    assert np.allclose(disliked, -liked, atol=1e-6)


def test_before_training_the_state_forgets_at_a_steady_rate(items, history):
    """The first of two items has the share of one that was kept."""
    flat = initial_parameters(SPECS["gru"], np.random.default_rng(0))
    two = replace(history(2, 2, 0), kind=np.zeros(2, np.int8))
    (user,), vectors = text_of("gru", flat, items, [two])
    keep = 1 / (1 + np.exp(-3.0))
    first, second = np.tanh(vectors[two.item])
    assert np.allclose(user, (1 - keep) * (keep * first + second), atol=1e-5)


def test_only_the_gru_asks_in_which_order(parameters, items, history):
    one = replace(history(5, 9, 0), time=np.zeros(9))  # recency is a trait of its own
    back = type(one)(*(column[::-1] for column in vars(one).values()))
    for kind in KINDS:
        (forth, reverse), _ = text_of(kind, parameters(kind), items, [one, back])
        assert np.allclose(forth, reverse, atol=1e-5) == (kind != "gru")


@pytest.mark.parametrize("kind", KINDS)
def test_empty_places_say_nothing(kind, parameters, items, histories):
    together, _ = text_of(kind, parameters(kind), items, histories)
    assert np.isfinite(together).all()
    for row, one in zip(together, histories, strict=True):
        (alone,), _ = text_of(kind, parameters(kind), items, [one])
        assert np.allclose(row, alone, atol=1e-6)
        assert row.any() == (len(one) > 0)


def test_a_split_keeps_the_order_of_time(history):
    problem = replace(TERMS, context=6)
    shape = Problem(SPECS["gru"], None, None, problem).shape
    for seed in range(20):
        one = history(seed, 30, 5)
        place = {int(item): row for row, item in enumerate(one.item)}
        batch = draw(stacked([one]), [seed], [OPEN], ITEMS, shape)
        filled = (batch.behaviour[0] != 0).any(1)
        rows = [place[int(item)] for item in batch.item[0, :6][filled]]
        assert rows == sorted(rows)
        assert len(rows) == 6
        assert rows != list(range(6))  # which rows stays a matter of chance


@pytest.mark.parametrize(("kind", "way"), list(product(("attention", "gru"), WAYS)))
def test_numbers_that_are_too_large_do_not_reach_the_rows_of_others(kind, way, parameters, items, policy, history):
    values = parameters(kind)
    values[-16:] = np.float32(3e38)
    histories = [history(1, 20, 0), history(2, 0, 0)]
    with np.errstate(all="ignore"):
        assert not fitted(kind, values, items, policy(), histories, way=way)[1].any()
