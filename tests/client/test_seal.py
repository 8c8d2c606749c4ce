"""What leaves a client, white-box: fixed rows in, known noise taken off again, the rest compared to the integer."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from client.host import answer
from client.release import seal
from shared.errors import PlanError
from shared.privacy.calibration import make_plan
from shared.privacy.checks import MODULUS_BITS
from shared.privacy.clipping import clip_to_grid
from shared.privacy.noise import NoiseSource, discrete_gaussian, os_noise
from shared.privacy.plan import RELEASES, Mechanism, Target
from shared.protocol import parse_sealed, vector_length
from shared.secagg import masks

STEPS = 64
MECHANISM = Mechanism(participations=1, clip=0.5, steps=STEPS, noise_multiplier=1.0)
ROWS = np.array([[3, -4, 0, 1], [0, 0, -64, 0]], np.int32)
GOLDEN = [3, 6, -72, 7]  # of ROWS under sigma 5 and the words of SFC64(1)
BELIEVED = 1e-4


def seeded(seed=1):
    return NoiseSource("seeded", np.random.SFC64(seed).random_raw)


def unused(_):
    raise AssertionError("randomness was used")


# --- fixed vectors


def test_without_noise_the_sealed_vector_is_the_sum_of_the_rows():
    sealed = seal(ROWS, MECHANISM, 0.0, NoiseSource("seeded", unused))
    assert (sealed.dtype, sealed.tolist()) == (np.int32, [3, -4, -64, 1])


def test_the_sealed_vector_is_the_sum_plus_this_noise_and_nothing_else():
    words = [2**63 + 12345, 77, 2**64 - 1, 2**40]
    source = NoiseSource("seeded", lambda n: np.array(words[:n], np.uint64))
    drawn = discrete_gaussian(5.0, 4, source)
    assert seal(ROWS, MECHANISM, 5.0, source).tolist() == (np.array([3, -4, -64, 1]) + drawn).tolist()
    assert seal(ROWS, MECHANISM, 5.0, seeded()).tolist() == GOLDEN
    assert seal(ROWS, MECHANISM, 5.0 * 2 / 3, seeded()).tolist() != GOLDEN


def test_no_rows_are_noise_alone():
    assert seal(ROWS[:0], MECHANISM, 5.0, seeded()).tolist() == discrete_gaussian(5.0, 4, seeded()).tolist()


@pytest.mark.parametrize("rows", [ROWS, ROWS * 0, ROWS[:0], np.full((9, 4), STEPS, np.int32)])
def test_noise_depends_on_no_row_and_takes_as_much_randomness_for_each(rows):
    drawn = []

    def words(n):
        drawn.append(n)
        return np.random.SFC64(3).random_raw(n)

    sealed = seal(rows, MECHANISM, 5.0, NoiseSource("seeded", words))
    assert sum(drawn) == 4
    assert (sealed - rows.sum(axis=0)).tolist() == discrete_gaussian(5.0, 4, seeded(3)).tolist()


# --- the noise has the size that the plan promises


@pytest.fixture
def noise_of(plan):
    """What a client adds to a vector of 50,000, in units of what the plan says it adds."""

    def make(kind, trust, scale=1.0):
        made = plan(trust=trust)
        mechanism, sigma = made.mechanism(kind), made.share_sigma(kind)
        rows = clip_to_grid(np.full((2, 50_000), 0.01), mechanism.clip, mechanism.steps)
        sealed = seal(rows, mechanism, sigma * scale, seeded(8))
        return (sealed - rows.sum(axis=0, dtype=np.int64)) / (mechanism.noise_multiplier * mechanism.steps), made.honest

    return make


@pytest.mark.parametrize("kind", RELEASES)
def test_a_share_is_the_noise_of_the_sum_over_the_root_of_the_honest_and_a_third_off_is_caught(kind, noise_of):
    def believed(noise, honest):
        return stats.kstest(noise * math.sqrt(honest), "norm").pvalue

    assert believed(*noise_of(kind, "distributed")) > BELIEVED
    for wrong in (2 / 3, 0.9, 1.1, 4 / 3):
        assert believed(*noise_of(kind, "distributed", wrong)) < BELIEVED


@pytest.mark.parametrize("kind", ["measurement", "statistics", "profile", "trending"])
def test_under_local_trust_a_client_adds_all_of_it(kind, noise_of):
    noise, _ = noise_of(kind, "local")
    assert stats.kstest(noise, "norm").pvalue > BELIEVED


@pytest.mark.parametrize("kind", RELEASES)
def test_under_central_trust_a_client_adds_none(kind, noise_of):
    assert not noise_of(kind, "central")[0].any()


def test_the_honest_of_a_smallest_cohort_make_up_the_noise_that_a_central_server_adds(plan):
    made, size = plan(smallest_cohort=4, collusion=0.0), 20_000
    mechanism, sigma = made.update, made.share_sigma("update")
    zero = np.zeros((1, size), np.int32)
    total = sum(seal(zero, mechanism, sigma, seeded(n)).astype(np.int64) for n in range(made.honest))
    central = discrete_gaussian(replace(made, trust="central").sum_sigma("update", 4), size, seeded(99))
    assert stats.ks_2samp(total, central).pvalue > BELIEVED
    assert stats.ks_2samp(total, central * 0.9).pvalue < BELIEVED
    more = sum(seal(zero, mechanism, sigma, seeded(n)).astype(np.int64) for n in range(made.population))
    assert more.var() / central.var() == pytest.approx(made.population / made.honest, rel=0.06)


# --- sensitivity: neighbouring data sets under the same noise

any_row = hnp.arrays(np.float64, 6, elements=st.floats(width=64, allow_nan=True, allow_infinity=True))


def norm_squared(vector):
    return sum(int(x) ** 2 for x in vector)


def sealed_of(rows, clip=0.5, sigma=5.0):
    grid = clip_to_grid(rows, clip, STEPS)
    return seal(grid, MECHANISM, sigma, seeded()).astype(np.int64)


@given(st.lists(any_row, min_size=1, max_size=4))
def test_zeroing_one_unit_out_moves_what_leaves_by_at_most_the_clip(rows):
    data = np.stack(rows)
    neighbour = data.copy()
    neighbour[0] = 0.0
    assert norm_squared(sealed_of(data) - sealed_of(neighbour)) <= STEPS**2


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((3, 6)),  # a zero update
        np.full((3, 6), 1e300),  # all clipped
        np.array([[1, 2, 3, 4, 5, 6]] * 3),  # whole numbers
        np.array([[True, False] * 3] * 3),
        np.array([[np.nan, 1, 1, 1, 1, 1], [0.1] * 6, [0.2] * 6]),  # one bad value
        np.array([[np.inf] * 6, [-np.inf] * 6, [0.1] * 6]),
        np.array([[5e-324] * 6, [1.7e308] * 6, [0.5, 0, 0, 0, 0, 0]]),
    ],
    ids=["zero", "clipped", "whole", "boolean", "nan", "infinite", "extreme"],
)
def test_every_unit_of_a_hard_case_moves_it_by_at_most_the_clip(rows):
    for unit in range(len(rows)):
        neighbour = np.array(rows)
        neighbour[unit] = 0
        assert norm_squared(sealed_of(rows) - sealed_of(neighbour)) <= STEPS**2


def test_the_bound_is_reached_so_a_doubled_clip_would_show():
    rows, zero = np.array([[3.0, 0, 0, 0, 0, 0]]), np.zeros((1, 6))
    assert norm_squared(sealed_of(rows) - sealed_of(zero)) == (STEPS - 1) ** 2
    # Clipped at twice the norm, the same row is twice as long on the grid of the plan.
    doubled = clip_to_grid(rows, 1.0, 2 * STEPS)
    assert norm_squared(doubled[0]) > STEPS**2


# --- the modulus: no sum of a plan that is accepted wraps


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 60_000), st.floats(0.3, 8.0), st.sampled_from([10, 3_000, 70_000, 5_000_000]), st.floats(0, 0.4))
def test_sums_under_the_modulus_are_the_integer_sums(population, epsilon, dimension, collusion):
    target = Target(
        kind="deployment",
        unit="user",
        trust="distributed",
        epsilon=epsilon,
        delta=1e-6,
        population=population,
        smallest_cohort=max(2, math.ceil(0.9 * population)),
        collusion=collusion if population > 10 else 0.0,
        rounds=10,
        update_participations=10,
        measurement_participations=2,
        trending_participations=2,
        shares={"update": 0.65, "measurement": 0.15, "statistics": 0.05, "profile": 0.1, "trending": 0.05},
        update_dimension=dimension,
        clip=0.5,
    )
    try:
        plan = make_plan(target)
    except PlanError as refused:
        assert "overflow 32 bits" in str(refused) or "too coarse a grid" in str(refused)  # noqa: PT017 - either is fine
        return
    for kind in RELEASES:
        mechanism, modulus = plan.mechanism(kind), 2**MODULUS_BITS
        # Everybody at the clip in one coordinate, and noise at eight deviations: the worst that counts.
        worst = population * mechanism.steps + round(8 * plan.sum_sigma(kind, population))
        for total in (worst, -worst):
            wrapped = total % modulus
            assert (wrapped - modulus if wrapped >= modulus // 2 else wrapped) == total


@given(hnp.arrays(np.int32, (5, 40), elements=st.integers(-(2**28), 2**28)))
def test_added_up_modulo_two_to_the_32_sealed_vectors_give_their_sum(vectors):
    assert masks.MODULUS_BITS == MODULUS_BITS
    total = np.sum([masks.to_words(vector) for vector in vectors], axis=0, dtype=np.uint32)
    assert np.array_equal(masks.from_words(total), vectors.sum(axis=0, dtype=np.int64))


@pytest.mark.parametrize("value", [0, 1, -(2**30)])
def test_behind_a_mask_every_bit_of_any_value_is_a_fair_coin(value):
    """Seen elsewhere: float masks of some thousand, through which larger values showed."""
    words = masks.to_words(np.full(20_000, value))
    masks.add_masks(words, [bytes(range(32))], [])
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32)
    assert all(stats.binomtest(int(n), len(words)).pvalue > BELIEVED for n in bits.sum(axis=0))
    assert stats.kstest(words / 2**32, "uniform").pvalue > BELIEVED
    masks.add_masks(words, [], [bytes(range(32))])
    assert set(masks.from_words(words)) == {value}


def test_a_sealed_vector_of_a_deployment_is_noisy_whatever_it_holds():
    assert seal(np.zeros((1, 500), np.int32), MECHANISM, 40.0, os_noise()).any()


# --- the whole chain, from a history to what leaves, on neighbouring data


@pytest.fixture
def left(host, task, plan, policy, message):
    """What leaves client "1" of two users, with noise as seeded whatever the data, and the mechanism of its release."""

    def make(histories, kind, name, **changes):
        one = host(histories, users_per_client=2, name=name)
        asked = task(kind, plan=plan(**changes), policy=policy())
        record = answer(one, "1", message(asked))
        return parse_sealed(record, vector_length(asked)).astype(np.int64), asked.header.plan.mechanism(kind)

    return make


@pytest.mark.parametrize("trust", ["distributed", "central"])
@pytest.mark.parametrize("kind", RELEASES)
def test_without_one_users_whole_history_what_leaves_moves_by_at_most_the_clip(kind, trust, left, history):
    first, second, nothing = history(1, 40), history(2, 20), history(3, 0, 0)
    with_both, mechanism = left([first, second], kind, "both", trust=trust)
    for name, fewer in (("one", [first, nothing]), ("other", [nothing, second])):
        without, _ = left(fewer, kind, name, trust=trust)
        assert 0 < norm_squared(with_both - without) <= mechanism.steps**2


@pytest.mark.parametrize("kind", RELEASES)
def test_without_one_event_what_leaves_moves_by_at_most_twice_the_clip(kind, left, history):
    whole = history(1, 40, 3 if kind == "measurement" else 0)
    fewer = replace(whole, **{f.name: getattr(whole, f.name)[:-1] for f in fields(whole)})
    with_it, mechanism = left([whole, history(2)], kind, "with", trust="local", unit="interaction")
    without, _ = left([fewer, history(2)], kind, "without", trust="local", unit="interaction")
    # Updates under local trust are rounded to the grid: half a unit a coordinate. The learning rate is 1.
    slack = math.sqrt(len(without)) if kind == "update" else 0
    assert 0 < norm_squared(with_it - without) <= (mechanism.sensitivity * mechanism.steps + slack) ** 2
