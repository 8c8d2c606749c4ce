"""Local training: a user's contribution is its own, whatever the batch, and equals the plain formulas."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from client import training as module
from client.batch import draw
from client.model import (
    HistoryEncoder,
    Inputs,
    Items,
    Learned,
    Problem,
    gather,
    logits,
    looked_up,
    losses,
    projected_items,
)
from client.strategy import Way
from client.training import fit, fit_locally_private
from shared.encoder.encode import Padded, item_vectors, user_groups
from shared.encoder.spec import EncoderSpec, initial_parameters, unpack
from shared.history import stacked
from shared.privacy.noise import NoiseSource
from shared.protocol import TrainingTerms
from shared.recall.scoring import scores

ITEMS = 48
SPEC = EncoderSpec(text_width=16, rank=16, buckets=ITEMS)
TERMS = TrainingTerms("softmax", 1.0, 16, 16, 32)
LOSSES = ("softmax", "bpr", "squared")
KINDS = ("cosine", "dot", "euclidean")
LARGE = np.float32(3e38)
CHUNK = 16
WAYS = (None, *(Way(name, chunk) for name in ("samples", "copies") for chunk in (1, 4, 64)))


@pytest.fixture
def items(catalogue):
    return Items(dict(catalogue.groups), np.arange(ITEMS), np.linspace(-1, 1, ITEMS).astype(np.float32))


@pytest.fixture
def parameters():
    rng = np.random.default_rng(3)
    return initial_parameters(SPEC, rng) + rng.normal(0, 0.1, SPEC.size).astype(np.float32)


@pytest.fixture
def histories(history):
    lengths = (12, 0, 1, 2, 40, 5, 30, 3, 0, 17)
    return [history(seed, length, length // 4) for seed, length in enumerate(lengths)]


def streams(histories):
    """Each user's chance."""
    return list(range(len(histories)))


def free(histories):
    """Nothing is barred; users share the mask, as they do of one age."""
    return [np.zeros(ITEMS, bool)] * len(histories)


def kinds(name):
    return dict.fromkeys(("text", "lexical", "category"), name)


def fitted(parameters, items, policy, terms, histories, keys=None, **how):
    keys = streams(histories) if keys is None else keys
    return np.concatenate(list(fit(SPEC, parameters, items, policy, terms, histories, keys, free(histories), **how)))


def naive_change(parameters, items, policy, terms, one, key, first=0, dtype=torch.float32):
    """One user, plain autograd on the flat vector, one step after the other."""
    problem = Problem(SPEC, items, policy, terms)
    now = torch.tensor(parameters, dtype=dtype)
    for step in range(first, first + policy.local_iterations):
        visit = draw(stacked([one]), [key], free([one]), ITEMS, problem.shape, visit=step)
        flat = now.clone().requires_grad_()
        start, parts = 0, {}
        for name, shape in SPEC.shapes().items():
            size = int(np.prod(shape))
            parts[name] = flat[start : start + size].reshape(shape)
            start += size
        inputs = Inputs(*(part.to(dtype) if part.is_floating_point() else part for part in gather(problem, visit)))
        vectors = inputs.text @ parts["projection"] + parts["identity"][inputs.bucket]
        bias = parts["bias"][inputs.bucket[:, terms.context :]]
        traits = inputs.behaviour @ parts["behaviour"]
        weights = traits / (traits.abs().sum(1, keepdim=True) + 1e-6)
        learned = Learned(vectors, (weights[:, :, None] * vectors[:, : terms.context]).sum(1), bias)
        losses(terms.loss, logits(policy, learned, inputs), inputs).sum().backward()
        now = (now - terms.learning_rate * flat.grad).detach()
    return now.numpy() - parameters


@pytest.mark.parametrize(("loss", "kind", "steps"), list(product(LOSSES, KINDS, (1, 3))))
def test_a_contribution_is_that_of_a_plain_loop_over_users(loss, kind, steps, parameters, items, policy, histories):
    chosen = policy(similarity=kinds(kind), local_iterations=steps)
    terms = replace(TERMS, loss=loss, learning_rate=0.05)
    rows = fitted(parameters, items, chosen, terms, histories)
    assert rows.dtype == np.float32
    for row, one, key in zip(rows, histories, streams(histories), strict=True):
        naive = naive_change(parameters, items, chosen, terms, one, key)
        # A difference of parameters, several steps on, is as exact as the parameters are.
        assert np.allclose(row, naive, rtol=2e-4, atol=2e-6), np.abs(row - naive).max()


@pytest.mark.parametrize(("loss", "way", "steps"), list(product(LOSSES, WAYS[1::3], (1, 4))))
def test_a_contribution_is_the_exact_one_to_the_fifth_digit(loss, way, steps, parameters, items, policy, histories):
    """The plain loop in float64 is taken for exact; of several steps, too, the whole row counts."""
    chosen, terms = policy(local_iterations=steps), replace(TERMS, loss=loss, learning_rate=0.05)
    rows = fitted(parameters, items, chosen, terms, histories, way=way)
    for row, one, key in zip(rows, histories, streams(histories), strict=True):
        exact = naive_change(parameters, items, chosen, terms, one, key, dtype=torch.float64)
        assert np.linalg.norm(row - exact) <= 1e-5 * np.linalg.norm(exact)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("way", "steps"), list(product(WAYS, (1, 3))))
def test_a_gpu_gives_the_same_to_the_fourth_digit(way, steps, parameters, items, policy, histories):
    chosen = policy(local_iterations=steps)
    here, there = (
        fitted(parameters, items, chosen, TERMS, histories, way=way, device=device) for device in ("cpu", "cuda")
    )
    assert there.dtype == np.float32
    assert np.linalg.norm(here - there) <= 1e-4 * np.linalg.norm(here)


@pytest.mark.parametrize("steps", [1, 3])
def test_of_a_large_catalogue_only_what_is_read_is_projected(steps, parameters, items, policy, histories, monkeypatch):
    chosen, terms = policy(local_iterations=steps), replace(TERMS, learning_rate=0.05)
    usual = fitted(parameters, items, chosen, terms, histories, way=Way("samples", CHUNK))
    monkeypatch.setattr("client.model.PROJECTED_AT_ONCE", ITEMS - 1)
    other = fitted(parameters, items, chosen, terms, histories, way=Way("samples", CHUNK))
    assert np.allclose(usual, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_that_of_numpy(kind, parameters, items, policy, histories):
    chosen = policy(similarity=kinds(kind))
    problem = Problem(SPEC, items, chosen, TERMS)
    batch = draw(stacked(histories), streams(histories), free(histories), ITEMS, problem.shape)
    encoder, inputs = HistoryEncoder(SPEC, parameters), gather(problem, batch)
    weights = {name: p.detach() for name, p in encoder.named_parameters()}
    read = looked_up(weights, inputs, projected_items(weights, items.groups["text"]))
    ours = logits(chosen, encoder(inputs, read), inputs).detach().numpy()

    vectors = items.groups | {"text": item_vectors(SPEC, parameters, items.groups["text"], items.bucket)}
    padded = Padded(batch.item[:, : TERMS.context], batch.behaviour)
    users = user_groups(SPEC, parameters, vectors, vectors["text"], padded)
    total = scores(chosen, users, vectors, items.prior + unpack(SPEC, parameters)["bias"])
    assert np.allclose(ours, np.take_along_axis(total, batch.item[:, TERMS.context :], 1), atol=2e-4)


def test_one_sample_is_one_user(parameters, items, policy, histories, monkeypatch):
    seen = {}

    class Watched(module.GradSampleModule):
        def zero_grad(self, *args):
            seen.update({name: tuple(p.grad_sample.shape) for name, p in self.named_parameters()})
            super().zero_grad(*args)

    monkeypatch.setattr(module, "GradSampleModule", Watched)
    fitted(parameters, items, policy(), TERMS, histories, way=Way("samples", CHUNK))
    assert len(seen) == 3
    assert {shape[0] for shape in seen.values()} == {CHUNK}


@pytest.mark.parametrize(("loss", "kind", "steps"), list(product(LOSSES, KINDS, (1, 2))))
def test_an_empty_history_wishes_nothing(loss, kind, steps, parameters, items, policy, history):
    chosen = policy(similarity=kinds(kind), local_iterations=steps)
    for values in (parameters, np.zeros_like(parameters)):
        rows = fitted(values, items, chosen, replace(TERMS, loss=loss), [history(0, 0, 0), history(1, 5, 5)])
        assert not rows.any()


@pytest.mark.parametrize(("kind", "way", "steps"), list(product(KINDS, WAYS, (1, 2))))
def test_a_contribution_does_not_depend_on_the_batch_not_even_in_its_last_bit(
    kind, way, steps, parameters, items, policy, history
):
    chosen = policy(similarity=kinds(kind), local_iterations=steps)
    terms = replace(TERMS, context=96, targets=32, negatives=64)  # sizes at which a matrix library takes over
    histories = [history(seed, seed % 40, seed % 5) for seed in range(2 * CHUNK + 5)]
    together = fitted(parameters, items, chosen, terms, histories, way=way)
    order = np.random.default_rng(1).permutation(len(histories))
    mixed = np.empty_like(together)
    for part in np.split(order, [1, 4, 11]):
        mixed[part] = fitted(parameters, items, chosen, terms, [histories[i] for i in part], part.tolist(), way=way)
    assert np.array_equal(together, mixed)


def test_the_callers_threads_stay_as_they_are(parameters, items, policy, histories):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fitted(parameters, items, policy(), TERMS, histories)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def privately(parameters, items, policy, histories, *, multiplier, clip=0.5, noise=None, terms=TERMS):
    noise = noise or NoiseSource("seeded", np.random.SFC64(4).random_raw)
    return fit_locally_private(
        SPEC,
        parameters,
        items,
        policy,
        terms,
        histories,
        streams(histories),
        free(histories),
        clip=clip,
        noise_multiplier=multiplier,
        noise=noise,
    )


@pytest.mark.parametrize("users", [3, CHUNK, CHUNK + 3])
def test_local_trust_without_noise_is_clipped_gradient_descent(users, parameters, items, policy, history):
    histories = [history(seed, seed % 30, 1 if seed % 30 else 0) for seed in range(users)]
    chosen = policy(local_iterations=3)
    now = parameters
    for step in range(3):
        one_step, terms = policy(), replace(TERMS, learning_rate=1.0)
        rows = np.stack(
            [
                naive_change(now, items, one_step, terms, *who, step)
                for who in zip(histories, streams(histories), strict=True)
            ]
        )
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        now = now + 0.2 * (rows * np.minimum(1.0, 0.1 / (norm + 1e-6))).sum(0)
    ours = privately(
        parameters, items, chosen, histories, multiplier=0.0, clip=0.1, terms=replace(TERMS, learning_rate=0.2)
    )
    assert np.allclose(ours, now - parameters, atol=2e-5)


@pytest.mark.parametrize("lengths", [(0, 0, 0), (12, 30, 5), ()])
@pytest.mark.parametrize("steps", [1, 4])
def test_local_trust_adds_its_noise_at_every_step_whatever_the_histories(
    lengths, steps, parameters, items, policy, history
):
    drawn = []

    def words(n):
        drawn.append(n)
        return source.random_raw(n)

    source = np.random.SFC64(6)
    histories = [history(s, n, 0) for s, n in enumerate(lengths)]
    change = privately(
        parameters,
        items,
        policy(local_iterations=steps),
        histories,
        multiplier=2000.0,
        clip=0.5,
        noise=NoiseSource("seeded", words),
    )
    assert sum(drawn) == 2 * SPEC.size * steps
    # Noise of 1000 a step drowns the three gradients of norm 0.5.
    wanted = 2000.0 * 0.5 * np.sqrt(steps)
    assert abs(change.std() / wanted - 1) < 5 / np.sqrt(2 * SPEC.size)
    assert abs(change.mean()) < 5 * wanted / np.sqrt(SPEC.size)


def test_torchs_generator_has_no_say_in_the_noise(parameters, items, policy, histories):
    torch.manual_seed(1)
    first = privately(parameters, items, policy(), histories, multiplier=1.0)
    torch.manual_seed(2)
    assert np.array_equal(first, privately(parameters, items, policy(), histories, multiplier=1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_under_local_trust_no_item_can_be_made_to_show_by_overflow(kind, parameters, items, policy, history):
    """A server that makes one item's vector overflow must not see who has it."""
    has = history(1, 20, 0)
    poisoned = parameters.copy()
    unpack(SPEC, poisoned)["identity"][has.item[:]] = LARGE
    chosen = policy(similarity=kinds(kind), features=("text",))
    rows = fitted(poisoned, items, chosen, TERMS, [has])
    change = privately(poisoned, items, chosen, [has, history(2, 10, 0)], multiplier=1.0)
    assert np.isfinite(change).all()
    if kind != "cosine":
        assert not np.isfinite(rows).all()  # the attack is real: an unclipped gradient overflows
        alone = privately(poisoned, items, chosen, [history(1, 0, 0), history(2, 10, 0)], multiplier=1.0)
        assert np.abs(change - alone).max() < 1.0  # at most a clipped gradient apart


@pytest.mark.parametrize("size", [10, 200_000])
def test_box_and_muller_gives_standard_normals(size):
    drawn = module._normal(NoiseSource("seeded", np.random.SFC64(1).random_raw), size)
    assert drawn.shape == (size,)
    assert np.isfinite(drawn).all()
    if size > 10:
        assert abs(drawn.mean()) < 0.02
        assert abs(drawn.std() - 1) < 0.01
        assert abs((np.abs(drawn) < 1.96).mean() - 0.95) < 0.005


def test_words_at_their_extremes_give_finite_noise():
    for word in (0, 2**64 - 1):
        drawn = module._normal(NoiseSource("seeded", lambda n, w=word: np.full(n, w, np.uint64)), 5)
        assert np.isfinite(drawn).all()
