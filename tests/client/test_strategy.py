"""How a batch is trained: a matter of public sizes, whose costs are those of the formulas."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from client.model import Items
from client.strategy import CHUNKS, KEPT, WRITTEN, Way, chosen, cost_of, seconds, ways, written
from client.training import fit
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.protocol import TrainingTerms

TERMS = TrainingTerms("softmax", 0.1, 4, 3, 3)
SMALL = {
    "linear": EncoderSpec(64, 16, 625, "linear"),
    **{kind: EncoderSpec(384, 16, 225, kind) for kind in ("mean", "attention", "gru")},
}
LARGE = {
    "linear": EncoderSpec(64, 64, 15_625, "linear"),
    **{kind: EncoderSpec(384, 64, 15_000, kind) for kind in ("mean", "attention", "gru")},
}


@pytest.mark.parametrize("kind", sorted(SMALL))
@pytest.mark.parametrize("steps", [1, 5])
def test_many_users_are_trained_at_a_time_and_those_of_large_models_written_one_by_one(kind, steps):
    assert chosen(SMALL[kind], TERMS, steps).chunk >= 64
    assert chosen(LARGE[kind], TERMS, steps).chunk >= 8
    assert (written(SMALL[kind]), written(LARGE[kind])) == (64, 1)


@pytest.mark.parametrize("spec", [*SMALL.values(), *LARGE.values()])
def test_what_is_written_at_a_time_is_counted_in_bytes(spec):
    assert written(spec) == 1 or 4 * spec.trained * written(spec) <= WRITTEN
    assert written(spec) == CHUNKS[-1] or 4 * spec.trained * written(spec) * 2 > WRITTEN


def test_whatever_is_written_at_a_time_is_the_same(history, policy, monkeypatch):
    """Training in chunks of 8, written 1, 4 or all at a time; the last chunk is not full."""
    spec, rng = SMALL["mean"], np.random.default_rng(2)
    text = rng.normal(0, 0.05, (48, spec.text_width)).astype(np.float32)
    items = Items({"text": text}, rng.integers(0, spec.buckets, 48), np.zeros(spec.buckets, np.float32))
    people, nothing = [history(n, n % 13, 0) for n in range(13)], [np.zeros(48, bool)] * 13
    found = []
    for size in (1, 4, 8):
        monkeypatch.setattr("client.strategy.WRITTEN", size * 4 * spec.trained)
        values = initial_parameters(spec, np.random.default_rng(3))
        of_text, way = policy(features=("text", "popularity")), Way("samples", 8)
        found.append([*fit(spec, values, items, of_text, TERMS, people, range(13), nothing, way=way)])
    assert [len(rows) for rows in found[1]] == [4, 4, 4, 1]
    assert [len(np.concatenate(rows)) for rows in found] == [13, 13, 13]
    assert all(np.array_equal(np.concatenate(found[0]), np.concatenate(rows)) for rows in found)


@pytest.mark.parametrize("spec", [*SMALL.values(), *LARGE.values()])
@pytest.mark.parametrize("steps", [1, 5])
def test_what_is_chosen_costs_a_tenth_more_than_the_cheapest_at_most_and_no_smaller_chunk_does(spec, steps):
    fit_in = [way for way in ways(spec) if way.chunk * cost_of(way.name, spec, TERMS, steps).block <= KEPT]
    costs = {way: seconds(way, spec, TERMS, steps) for way in fit_in}
    pick = chosen(spec, TERMS, steps)
    assert costs[pick] <= 1.1 * min(costs.values())
    assert all(cost > 1.1 * min(costs.values()) for way, cost in costs.items() if way.chunk < pick.chunk)


@pytest.mark.parametrize("spec", [*SMALL.values(), *LARGE.values()])
def test_more_users_at_a_time_are_cheaper_until_their_arrays_outgrow_what_is_kept(spec):
    for name in {way.name for way in ways(spec)}:
        cost = {chunk: seconds(Way(name, chunk), spec, TERMS, 1) for chunk in CHUNKS}
        block = cost_of(name, spec, TERMS, 1).block
        for few, many in pairwise(CHUNKS):
            same_side = (few * block <= KEPT) == (many * block <= KEPT)
            assert not same_side or cost[many] < cost[few]


def test_texts_against_texts_cost_the_square_of_the_places_and_of_the_steps():
    """So many places and steps are cheaper with a copy of the projection for each user."""
    many = replace(TERMS, context=64, targets=16, negatives=64)
    assert chosen(SMALL["mean"], TERMS, 1).name == "samples"
    assert chosen(SMALL["mean"], many, 1).name == "samples"
    assert chosen(SMALL["mean"], many, 5).name == "copies"
    one, two = (cost_of("samples", SMALL["mean"], terms, 5).operations for terms in (TERMS, many))
    assert two / one > 14.4  # places: 144 against 10


def test_the_linear_encoders_steps_are_one():
    assert cost_of("rows", SMALL["linear"], TERMS, 1) == cost_of("rows", SMALL["linear"], TERMS, 9)


@pytest.mark.parametrize("spec", list(SMALL.values()))
@pytest.mark.parametrize("steps", [1, 3])
def test_all_ways_give_the_same_contributions(spec, steps, history, policy):
    rng = np.random.default_rng(1)
    text = rng.normal(0, spec.text_width**-0.5, (48, spec.text_width)).astype(np.float32)
    items = Items({spec.reads: text}, rng.integers(0, spec.buckets, 48), np.zeros(spec.buckets, np.float32))
    values = initial_parameters(spec, rng) + rng.normal(0, 0.1, spec.size).astype(np.float32)
    people = [history(n, n % 13, 0) for n in range(9)]
    of_text = policy(local_iterations=steps, features=("text", "popularity"))
    rows = {
        way: np.concatenate(
            list(fit(spec, values, items, of_text, TERMS, people, range(9), [np.zeros(48, bool)] * 9, way=way))
        )
        for way in ways(spec)
        if way.chunk in {1, 4, 16}
    }
    first = next(iter(rows.values()))
    assert first.any()
    for way, other in rows.items():
        assert np.allclose(first, other, rtol=1e-4, atol=2e-7), (way, np.abs(first - other).max())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_what_is_chosen_is_nearly_the_fastest(number):
    """The one test with a clock: of three tries, for other work on the machine may hit one way alone."""
    from simulations.benchmarks.updates import CASES, MILLION
    from simulations.benchmarks.ways import compare

    case = CASES[number]
    case = replace(case, users=32 if case.spec.trained > MILLION else 512)
    found = (compare(case, time.process_time)[1] for _ in range(3))
    assert any(ratio <= 1.3 for ratio in found)
