from __future__ import annotations

import numpy as np
import pytest
import torch

from client.silo import (
    CHUNK,
    AdapterSpec,
    SiloTerms,
    Tower,
    fit,
    item_vectors,
    losses,
    read_catalogue,
    trained,
    visits,
    write_adapters,
)
from shared.errors import ConfigError
from shared.history import History

TEXTS = ("red pen", "blue mug for tea", "", "coffee", "pen", "tea and coffee in the morning", "a mug", "blue pen")
SPEC = AdapterSpec(width=16, layers=1, rank=2)
TERMS = SiloTerms(temperature=0.2, context=4, read=2, targets=2, negatives=3)


@pytest.fixture(scope="module", params=[1, 2], ids=["last layer", "both layers"])
def spec(request):
    return AdapterSpec(width=16, layers=request.param, rank=2)


def tower_of(model, spec, **head):
    public = {"mean": np.zeros(16, np.float32), "mix": np.eye(16, dtype=np.float32)} | head
    return Tower(*read_catalogue(TEXTS, model, spec, tokens=9, batch=3, **public))


def some(spec, seed=1, size=0.3):
    return (np.random.default_rng(seed).standard_normal(spec.size) * size).astype(np.float32)


def history(items, held_out=()):
    n = len(items)
    return History(
        item=np.array(items, np.int32),
        kind=np.ones(n, np.int8),
        count=np.ones(n, np.float32),
        dwell=np.zeros(n, np.float32),
        rating=np.full(n, np.nan, np.float32),
        time=np.arange(n, dtype=np.float64),
        held_out=np.isin(items, held_out),
    )


HISTORIES = [history(items) for items in ([0, 1, 3, 5], [4, 5, 6], [], [7, 0, 1], [2, 3], [1, 6])] * 2


def rngs(histories=HISTORIES):
    return [np.random.default_rng([7, number]) for number in range(len(histories))]


def rows_of(tower, spec, histories=HISTORIES, streams=None, parameters=None):
    parameters = some(spec) if parameters is None else parameters
    vectors = item_vectors(tower, parameters)
    return np.concatenate(list(fit(tower, parameters, vectors, TERMS, histories, streams or rngs(histories))))


def test_without_adapters_an_item_has_the_text_models_own_vector(tiny_bert, spec):
    from server.features import text_vectors

    found = item_vectors(tower_of(tiny_bert, spec), np.zeros(spec.size, np.float32))
    np.testing.assert_allclose(found, text_vectors(TEXTS, tiny_bert), atol=1e-5)


def test_the_public_head_takes_off_the_mean_and_mixes(tiny_bert):
    from server.basis import unit_rows
    from server.features import text_vectors

    rng = np.random.default_rng(3)
    mean, mix = rng.standard_normal(16).astype(np.float32) * 0.1, rng.standard_normal((16, 16)).astype(np.float32)
    raw = text_vectors(TEXTS, tiny_bert)
    expected = unit_rows(np.where(raw.any(axis=1, keepdims=True), (raw - mean) @ mix, 0))
    found = item_vectors(tower_of(tiny_bert, SPEC, mean=mean, mix=mix), np.zeros(SPEC.size, np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_neighbours_in_a_users_sequence_are_never_read(tiny_bert, spec):
    tower, parameters = tower_of(tiny_bert, spec), some(spec)
    alone = item_vectors(tower, parameters)
    with torch.no_grad():
        together = tower(torch.tensor([[0, 5, 2, 1], [7, 7, 4, 3]])).numpy()
    np.testing.assert_allclose(together, alone[[[0, 5, 2, 1], [7, 7, 4, 3]]], atol=1e-5)


def test_the_gradients_are_one_a_user_and_not_one_a_text(tiny_bert, spec):
    from opacus import GradSampleModule

    tower = tower_of(tiny_bert, spec)
    module = GradSampleModule(tower, loss_reduction="sum")
    known = torch.from_numpy(item_vectors(tower, some(spec)))
    losses(module, visits(known, TERMS, HISTORIES[:CHUNK], rngs()[:CHUNK]), TERMS).sum().backward()
    assert [tuple(p.grad_sample.shape) for p in trained(module)] == [(CHUNK, 16, 2)] * (2 * spec.layers)
    assert sum(p.numel() for p in trained(module)) == spec.size
    module.to_standard_module()


def test_a_contribution_is_the_users_own_gradient_by_finite_differences(tiny_bert, spec):
    tower, at, step = tower_of(tiny_bert, spec), some(spec), 1e-2
    rows = rows_of(tower, spec)[:CHUNK]
    visit = visits(torch.from_numpy(item_vectors(tower, at)), TERMS, HISTORIES[:CHUNK], rngs()[:CHUNK])

    def loss(parameters):
        write_adapters(tower, parameters)
        with torch.no_grad():
            return losses(tower, visit, TERMS).numpy()

    places = np.argsort(-np.abs(rows).max(axis=0))[:6]
    assert np.abs(rows[:, places]).max(axis=0).min() > 0.05
    for place in places:
        shift = np.zeros(spec.size, np.float32)
        shift[place] = step
        slope = (loss(at + shift) - loss(at - shift)) / (2 * step)
        np.testing.assert_allclose(-rows[:, place], slope, atol=2e-3)


def test_no_row_depends_on_who_else_is_in_the_batch(tiny_bert, spec):
    tower = tower_of(tiny_bert, spec)
    together = rows_of(tower, spec)
    for number in (0, 5, len(HISTORIES) - 1):
        alone = rows_of(tower, spec, HISTORIES[number : number + 1], rngs()[number : number + 1])
        np.testing.assert_array_equal(alone[0], together[number])


def test_an_empty_history_contributes_zeros_and_the_others_something(tiny_bert, spec):
    rows = rows_of(tower_of(tiny_bert, spec), spec)
    assert rows.shape == (len(HISTORIES), spec.size)
    assert np.isfinite(rows).all()
    assert not rows[2].any()
    assert all(np.linalg.norm(rows[n]) > 1e-4 for n in (0, 1, 3))


def test_what_is_held_out_is_never_read(tiny_bert):
    tower = tower_of(tiny_bert, SPEC)
    one, other = (rows_of(tower, SPEC, [history([0, 1, 3, item], held_out=[item])]) for item in (5, 7))
    np.testing.assert_array_equal(one, other)


def test_in_the_mean_a_contribution_is_the_gradient_of_the_softmax_over_the_whole_catalogue(tiny_bert):
    tower, at, step = tower_of(tiny_bert, SPEC), some(SPEC), 1e-2
    known = item_vectors(tower, at)
    user = history([0, 1])  # one is the context, the other the target
    slopes = []
    rows = [next(fit(tower, at, known, TERMS, [user], [np.random.default_rng(seed)]))[0] for seed in range(100)]
    place = int(np.argmax(np.abs(np.mean(rows, axis=0))))
    for context, target in (([0], [1]), ([1], [0])):
        ends = []
        for shift in (step, -step):
            moved = at.copy()
            moved[place] += shift
            vectors = item_vectors(tower, moved)
            ends.append(_against(vectors, context, user, target))
        slopes.append((ends[0] - ends[1]) / (2 * step))
    error = 4 * np.std(rows, axis=0)[place] / np.sqrt(len(rows))
    assert abs(-np.mean(rows, axis=0)[place] - np.mean(slopes)) < error + 1e-3
    assert abs(np.mean(slopes)) > 2 * error


def _against(vectors, context, user, target):
    """Softmax loss over the catalogue without what the user has, from the definition."""
    profile = vectors[context].mean(axis=0)
    scores = vectors @ (profile / np.linalg.norm(profile)) / TERMS.temperature
    others = np.setdiff1d(np.arange(len(vectors)), user.item)
    return np.log(np.exp(scores[others]).sum()) - scores[target].mean()


def test_the_profile_is_the_whole_context_though_a_part_of_it_is_read(tiny_bert):
    tower = tower_of(tiny_bert, SPEC)
    known = torch.from_numpy(item_vectors(tower, some(SPEC)))
    visit = visits(known, TERMS, [history([0, 1, 3, 4, 5, 6, 7])], [np.random.default_rng(0)])
    read, targets = visit.item[0, : TERMS.read], visit.item[0, TERMS.read : TERMS.read + TERMS.targets]
    assert visit.there[0].tolist() == [1, 1]
    context = torch.tensor(sorted({0, 1, 3, 4, 5, 6, 7} - set(targets.tolist())))  # five, of which four are the most
    means = [known[np.setdiff1d(context, [left])].mean(0) for left in context]
    mean = visit.rest[0] + known[read].mean(0)
    assert min((mean - one).abs().max() for one in means) < 1e-6


def test_negatives_are_never_what_the_user_has_and_may_be_what_is_held_out(tiny_bert):
    known = torch.from_numpy(item_vectors(tower_of(tiny_bert, SPEC), some(SPEC)))
    user, seen = history([0, 1, 4, 7], held_out=[7]), set()
    for number in range(100):
        seen |= set(
            visits(known, TERMS, [user], [np.random.default_rng(number)]).item[0, TERMS.read + TERMS.targets :].tolist()
        )
    assert seen.isdisjoint({0, 1, 4})
    assert 7 in seen


def test_steps_along_the_contributions_lower_the_loss(tiny_bert, spec):
    tower, parameters = tower_of(tiny_bert, spec), np.zeros(spec.size, np.float32)
    users = [history([0, 4]), history([1, 6]), history([3, 5])]  # pens, mugs, drinks

    def loss():
        vectors = item_vectors(tower, parameters)
        pairs = [(user, [a], [b]) for user in users for a, b in (user.item, user.item[::-1])]
        return np.mean([_against(vectors, a, user, b) for user, a, b in pairs])

    before = loss()
    for number in range(15):
        streams = [np.random.default_rng([number, n]) for n in range(len(users))]
        parameters += 0.3 * rows_of(tower, spec, users, streams, parameters).sum(0)
    assert loss() < before - 0.1


def test_the_inner_factors_are_public_and_orthonormal_and_the_outer_ones_begin_at_zero(tiny_bert, spec):
    one, two = (dict(tower_of(tiny_bert, spec).named_parameters()) for _ in range(2))
    for name, weight in one.items():
        assert torch.equal(weight, two[name])
        if "lora_A" in name:
            torch.testing.assert_close(weight @ weight.T, torch.eye(2))
        if "lora_B" in name:
            assert not weight.any()
        assert weight.requires_grad == ("lora_B" in name)


def test_another_number_of_parameters_is_a_wrong_call(tiny_bert):
    with pytest.raises((ValueError, RuntimeError)):
        write_adapters(tower_of(tiny_bert, SPEC), np.zeros(SPEC.size - 1, np.float32))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (AdapterSpec(32, 1, 2), "of the BERT family that is 32 wide"),
        (AdapterSpec(16, 3, 2), "3 adapted layers: .* has 2"),
        (AdapterSpec(16, 0, 2), "0 adapted layers"),
    ],
)
def test_a_model_of_other_sizes_is_refused_in_one_sentence(tiny_bert, spec, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tower_of(tiny_bert, spec)
