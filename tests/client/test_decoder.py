"""Local training of the linear encoder: a contribution is its user's residual times its vector, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus import GradSampleModule

from client import decoder
from client.decoder import decoder_of, examples
from client.model import Items
from client.strategy import Way
from client.training import fit, fit_locally_private
from shared.encoder.spec import EncoderSpec, unpack
from shared.history import NOT_INTERESTED
from shared.privacy.noise import NoiseSource
from shared.protocol import TrainingTerms

ITEMS = 48
SPEC = EncoderSpec(text_width=16, rank=16, buckets=ITEMS, kind="linear")
TERMS = TrainingTerms("softmax", 1.0, 16, 16, 32)
OPEN = np.zeros(ITEMS, bool)
CHUNK = 16


def shown_to_the_layer(spec, parameters, items, histories, barred):
    """z, and x and what is free of it, whole; (users, ...)."""
    (shown,) = examples(spec, parameters, items, histories, barred, CHUNK)
    x = np.zeros((CHUNK, spec.buckets), np.float32)
    x[shown.row, shown.bucket] = shown.value
    return shown.z, x, shown.free


@pytest.fixture
def items(catalogue):
    groups = {**catalogue.groups, "compact": catalogue.groups["text"]}
    return Items(groups, np.arange(ITEMS), np.linspace(-1, 1, ITEMS).astype(np.float32))


@pytest.fixture
def parameters():
    return np.random.default_rng(3).normal(0, 0.3, SPEC.size).astype(np.float32)


@pytest.fixture
def histories(history):
    lengths = (12, 0, 1, 2, 40, 5, 30, 3, 0, 17)
    return [history(seed, length, length // 4) for seed, length in enumerate(lengths)]


def streams(histories):
    """The linear encoder leaves nothing to chance."""
    return [0] * len(histories)


def fitted(parameters, items, policy, histories, *, terms=TERMS, barred=None, spec=SPEC, way=None):
    barred = [OPEN] * len(histories) if barred is None else barred
    chunks = fit(spec, parameters, items, policy, terms, histories, streams(histories), barred, way=way)
    return np.concatenate(list(chunks))


def by_hand(parameters, items, history, barred=OPEN, spec=SPEC):
    """(buckets, rank) float64: (x - B z) z', item by item."""
    parts = {name: part.astype(float) for name, part in unpack(spec, parameters).items()}
    z, x = np.zeros(spec.rank), np.zeros(spec.buckets)
    for item, kind, hidden in zip(history.item, history.kind, history.held_out, strict=True):
        if hidden:
            continue
        context = items.groups["compact"][item].astype(float) @ parts["projection"]
        z += (-1.0 if kind == NOT_INTERESTED else 1.0) * (context + parts["context"][items.bucket[item]])
        if kind != NOT_INTERESTED and not barred[item]:
            x[items.bucket[item]] = 1.0
    z /= np.linalg.norm(z) or 1.0
    x /= np.linalg.norm(x) or 1.0
    residual = x - parts["target"] @ z
    for bucket in range(spec.buckets):
        if barred[items.bucket == bucket].all():
            residual[bucket] = 0.0
    return np.outer(residual, z)


def test_a_contribution_is_the_residual_times_the_users_vector(parameters, items, policy, histories):
    rows = fitted(parameters, items, policy(), histories)
    assert rows.shape == (len(histories), SPEC.trained)
    assert rows.dtype == np.float32
    for row, one in zip(rows, histories, strict=True):
        assert row == pytest.approx(by_hand(parameters, items, one).ravel(), abs=1e-5)


def test_items_that_share_a_bucket_share_a_target(parameters, items, policy, histories):
    spec = EncoderSpec(16, 16, 32, "linear")
    shared = Items(items.groups, np.arange(ITEMS) % 32, items.prior[:32])
    values = parameters[: spec.size]
    rows = fitted(values, shared, policy(), histories, spec=spec)
    for row, one in zip(rows, histories, strict=True):
        assert row == pytest.approx(by_hand(values, shared, one, spec=spec).ravel(), abs=1e-5)


def test_one_sample_is_one_user(parameters, items, histories):
    module = GradSampleModule(decoder_of(SPEC, parameters), loss_reduction="sum")
    for shown in examples(SPEC, parameters, items, histories, [OPEN] * len(histories), CHUNK):
        decoder.backward(module, shown, 1.0)
        (weight,) = module.parameters()
        assert weight.grad_sample.shape == (CHUNK, ITEMS, SPEC.rank)
        assert shown.users == len(histories)
        assert not weight.grad_sample[shown.users :].any()  # the rows that are nobody


@pytest.mark.parametrize("way", [None, *(Way(name, chunk) for name in ("rows", "samples") for chunk in (1, 2, 16, 64))])
@pytest.mark.parametrize("rank", [16, 64])
def test_a_contribution_does_not_depend_on_the_batch_not_even_in_its_last_bit(rank, way, items, policy, history):
    spec = replace(SPEC, rank=rank)
    parameters = np.random.default_rng(3).normal(0, 0.3, spec.size).astype(np.float32)
    histories = [history(seed, seed % 40, seed % 5) for seed in range(300)]
    together = fitted(parameters, items, policy(), histories, spec=spec, way=way)
    order = np.random.default_rng(1).permutation(len(histories))
    mixed = np.empty_like(together)
    for part in np.split(order, [1, 4, 11]):
        mixed[part] = fitted(parameters, items, policy(), [histories[i] for i in part], spec=spec, way=way)
    assert np.array_equal(together, mixed)


@pytest.mark.parametrize("chunk", [1, 16])
def test_written_straight_away_a_row_is_what_opacus_finds_bit_for_bit(chunk, parameters, items, policy, histories):
    rows, samples = (
        fitted(parameters, items, policy(), histories, way=Way(name, chunk)) for name in ("rows", "samples")
    )
    assert rows.any()
    assert np.array_equal(rows, samples)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["rows", "samples"])
def test_a_gpu_gives_the_same_to_the_fourth_digit(name, parameters, items, policy, histories):
    here, there = (
        np.concatenate(
            list(
                fit(
                    SPEC,
                    parameters,
                    items,
                    policy(),
                    TERMS,
                    histories,
                    streams(histories),
                    [OPEN] * len(histories),
                    way=Way(name, CHUNK),
                    device=device,
                )
            )
        )
        for device in ("cpu", "cuda")
    )
    assert np.linalg.norm(here - there) <= 1e-4 * np.linalg.norm(here)


def test_who_shows_nothing_wishes_nothing(parameters, items, policy, history):
    assert not fitted(parameters, items, policy(), [history(0, 0, 0), history(1, 5, 5)]).any()


def test_what_is_held_out_leaves_no_trace(parameters, items, policy, history):
    one = history(3, 20, 8)
    cut = type(one)(*(column[:12] for column in vars(one).values()))
    other = replace(one, item=np.concatenate([one.item[:12], one.item[12:][::-1]]))
    rows = fitted(parameters, items, policy(), [one, cut, other])
    assert rows[0].any()
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


def test_not_interested_is_no_target_but_says_who_the_user_is(parameters, items, policy, history):
    one = replace(history(4, 9, 0), kind=np.zeros(9, np.int8))
    kind = one.kind.copy()
    kind[0] = NOT_INTERESTED
    other = replace(one, kind=kind)
    z, x, _ = shown_to_the_layer(SPEC, parameters, items, [one, other], [OPEN] * 2)
    assert x[0, one.item[0]] > 0
    assert x[1, one.item[0]] == 0
    assert not np.allclose(z[0], z[1])


def test_barred_items_are_learned_neither_for_nor_against(parameters, items, policy, history):
    """They stay what the user is known by; their rows of the update are zeros, for those who may see them as well."""
    one = replace(history(5, 12, 0), kind=np.zeros(12, np.int8))
    stranger = np.setdiff1d(np.arange(ITEMS), one.item)[0]
    barred = OPEN.copy()
    barred[[one.item[0], one.item[1], stranger]] = True
    (row,) = fitted(parameters, items, policy(), [one], barred=[barred])
    assert row == pytest.approx(by_hand(parameters, items, one, barred).ravel(), abs=1e-5)
    assert not row.reshape(ITEMS, -1)[barred].any()
    assert row.reshape(ITEMS, -1)[~barred].any()
    z, x, _ = shown_to_the_layer(SPEC, parameters, items, [one], [barred])
    same, _, none = shown_to_the_layer(SPEC, parameters, items, [one], [OPEN])
    assert none is None
    assert np.array_equal(z, same)
    assert np.linalg.norm(x[0]) == pytest.approx(1, abs=1e-6)  # what is left is the whole history


def test_a_bucket_is_barred_when_all_of_its_items_are(parameters, items, history):
    shared = Items(items.groups, np.arange(ITEMS) % 32, items.prior[:32])
    spec = EncoderSpec(16, 16, 32, "linear")
    barred = OPEN.copy()
    barred[[0, 32, 20, 1]] = True  # 0 and 32 share a bucket; 1 shares its with 33; 20 has one of its own
    _, _, free = shown_to_the_layer(spec, parameters[: spec.size], shared, [history(0, 3, 0)], [barred])
    assert np.flatnonzero(free[0] == 0).tolist() == [0, 20]


@pytest.mark.parametrize(("rate", "steps"), [(0.3, 1), (0.3, 4), (1.0, 3)])
def test_local_steps_go_along_one_line_towards_no_residual(rate, steps, parameters, items, policy, histories):
    """As many steps of plain gradient descent on one's own copy of the targets."""
    rows = fitted(
        parameters,
        items,
        policy(local_iterations=steps),
        histories,
        terms=replace(TERMS, learning_rate=rate),
    )
    for row, one in zip(rows, histories, strict=True):
        own = parameters.copy()
        target = unpack(SPEC, own)["target"]
        for _ in range(steps):
            target += rate * by_hand(own, items, one).astype(np.float32)
        change = target - unpack(SPEC, parameters)["target"]
        assert row == pytest.approx(change.ravel(), abs=1e-5)


def test_a_rate_above_one_does_not_overshoot(parameters, items, policy, histories):
    terms = replace(TERMS, learning_rate=7.0)
    assert np.array_equal(
        fitted(parameters, items, policy(local_iterations=2), histories, terms=terms),
        fitted(parameters, items, policy(), histories),
    )


def test_the_policy_and_chance_have_no_say(parameters, items, policy, histories):
    one = fitted(parameters, items, policy(), histories)
    other = fit(
        SPEC,
        parameters,
        items,
        policy(weights={"text": 0.1, "lexical": 9.0, "category": 0.0, "popularity": 3.0}),
        replace(TERMS, loss="bpr", negatives=7),
        histories,
        [99] * len(histories),
        [OPEN] * len(histories),
    )
    assert np.array_equal(one, np.concatenate(list(other)))


# --- trust local


def privately(parameters, items, policy, histories, *, multiplier, clip=0.4, rate=0.5, noise=None):
    return fit_locally_private(
        SPEC,
        parameters,
        items,
        policy,
        replace(TERMS, learning_rate=rate),
        histories,
        streams(histories),
        [OPEN] * len(histories),
        clip=clip,
        noise_multiplier=multiplier,
        noise=noise or NoiseSource("seeded", np.random.SFC64(4).random_raw),
    )


@pytest.mark.parametrize("users", [3, CHUNK + 3])
def test_local_trust_without_noise_is_clipped_gradient_descent(users, parameters, items, policy, history):
    histories = [history(seed, seed % 30, 1 if seed % 30 else 0) for seed in range(users)]
    now = parameters.copy()
    for _ in range(3):
        rows = np.stack([by_hand(now, items, one).ravel() for one in histories])
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        assert (norm > 0.4).any()
        clipped = rows * np.minimum(1.0, 0.4 / np.maximum(norm, 1e-9))
        unpack(SPEC, now)["target"][:] += 0.1 * clipped.sum(0).reshape(ITEMS, -1).astype(np.float32)
    ours = privately(parameters, items, policy(local_iterations=3), histories, multiplier=0.0, rate=0.1)
    assert ours.shape == (SPEC.trained,)
    assert ours == pytest.approx((now - parameters)[-SPEC.trained :], abs=2e-5)


@pytest.mark.parametrize("lengths", [(0, 0, 0), (12, 30, 5), ()])
@pytest.mark.parametrize("steps", [1, 4])
def test_local_trust_adds_noise_to_every_target_at_every_step(lengths, steps, parameters, items, policy, history):
    drawn = []

    def words(n):
        drawn.append(n)
        return source.random_raw(n)

    source = np.random.SFC64(6)
    histories = [history(seed, length, 0) for seed, length in enumerate(lengths)]
    chosen, noise = policy(local_iterations=steps), NoiseSource("seeded", words)
    change = privately(parameters, items, chosen, histories, multiplier=2000.0, noise=noise)
    assert sum(drawn) == 2 * SPEC.trained * steps
    wanted = 0.5 * 2000.0 * 0.4 * np.sqrt(steps)  # rate times multiplier times clip
    assert abs(change.std() / wanted - 1) < 5 / np.sqrt(2 * SPEC.trained)


def test_under_local_trust_no_item_can_be_made_to_show_by_overflow(parameters, items, policy, history):
    """A server that makes one item's vector overflow must not see who has it."""
    has = replace(history(1, 20, 0), kind=np.zeros(20, np.int8))
    poisoned = parameters.copy()
    unpack(SPEC, poisoned)["target"][has.item[0]] = np.float32(3e38)
    with np.errstate(all="ignore"):
        change = privately(poisoned, items, policy(), [has, history(2, 10, 0)], multiplier=1.0)
    assert np.isfinite(change[np.arange(SPEC.trained) // SPEC.rank != has.item[0]]).all()


def test_training_uses_one_thread_and_gives_the_caller_back_its_own(parameters, items, policy, histories):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fitted(parameters, items, policy(), histories)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
