from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.secagg.shamir import LIMBS, PRIME, SECRET, combine, split

secrets = st.binary(min_size=SECRET, max_size=SECRET)
NAUGHTY = [bytes(SECRET), b"\xff" * SECRET, bytes(31) + b"\x80", b"\x01" + bytes(31)]


def limbs(secret):
    """Nine limbs of 30 bits, read off one by one: the twin of the packed arithmetic."""
    bit = "".join(f"{byte:08b}"[::-1] for byte in secret).ljust(LIMBS * 30, "0")
    return [int(bit[30 * place : 30 * place + 30][::-1], 2) for place in range(LIMBS)]


def value_at(points, x):
    """The polynomial through points (x, y), at x, in Python integers."""
    total = 0
    for i, (xi, yi) in enumerate(points):
        term = yi
        for j, (xj, _) in enumerate(points):
            if i != j:
                term = term * (x - xj) * pow(xi - xj, -1, PRIME) % PRIME
        total += term
    return total % PRIME


@st.composite
def splits(draw, largest=12):
    count = draw(st.integers(1, largest))
    return draw(secrets | st.sampled_from(NAUGHTY)), draw(st.integers(1, count)), count


@given(splits(), st.randoms(use_true_random=False))
def test_any_t_shares_recover_the_secret(entropy, drawn, random):
    secret, threshold, count = drawn
    shares = split(secret, threshold, count, entropy(f"{drawn}"))
    positions = random.sample(range(1, count + 1), threshold)
    assert combine(positions, shares[[x - 1 for x in positions]]) == secret


def test_every_choice_of_t_shares_recovers_it(entropy):
    shares = split(secret := bytes(range(32)), 3, 6, entropy("choices"))
    for positions in itertools.combinations(range(1, 7), 3):
        assert combine(positions, shares[[x - 1 for x in positions]]) == secret


@given(splits())
def test_shares_lie_on_one_polynomial_of_degree_below_t_whose_value_at_zero_is_the_secret(entropy, drawn):
    secret, threshold, count = drawn
    shares = split(secret, threshold, count, entropy(f"{drawn}"))
    for limb in range(LIMBS):
        points = [(0, limbs(secret)[limb]), *((x, int(shares[x - 1, limb])) for x in range(1, threshold))]
        for x in range(1, count + 1):
            assert value_at(points, x) == shares[x - 1, limb]


@settings(max_examples=30)
@given(secrets, secrets, st.integers(2, 6), st.randoms(use_true_random=False))
def test_t_minus_one_shares_fit_every_other_secret(entropy, secret, other, threshold, random):
    """For any other secret there is exactly one choice of coefficients that gives the very same shares."""
    shares = split(secret, threshold, 8, entropy(f"{secret}"))
    seen = random.sample(range(1, 9), threshold - 1)
    coefficients = []
    for limb in range(LIMBS):
        points = [(0, limbs(other)[limb]), *((x, int(shares[x - 1, limb])) for x in seen)]
        missing = next(x for x in range(1, 9) if x not in seen)
        points.append((missing, value_at(points, missing)))
        coefficients.append(coefficients_of(points[:threshold]))
    again = split(other, threshold, 8, lambda size: encode(coefficients, threshold, size))
    for x in seen:
        assert (again[x - 1] == shares[x - 1]).all()
    assert combine(range(1, threshold + 1), again[:threshold]) == other


def coefficients_of(points):
    """Coefficients of the polynomial through points, lowest first, by solving for them in Python integers."""
    size = len(points)
    rows = [[*(pow(x, power, PRIME) for power in range(size)), y] for x, y in points]
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, PRIME)
        rows[column] = [value * inverse % PRIME for value in rows[column]]
        for row in range(size):
            if row != column:
                factor = rows[row][column]
                rows[row] = [(a - factor * b) % PRIME for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[-1] for row in rows]


def encode(coefficients, threshold, size):
    """The bytes from which ``split`` draws these coefficients, highest degree first."""
    words = [coefficients[limb][power] for power in range(threshold - 1, 0, -1) for limb in range(LIMBS)]
    assert size == 4 * len(words)
    return np.array(words, "<u4").tobytes()


def test_a_single_share_of_two_looks_uniform_whatever_the_secret():
    """65,536 words of the same secret's share: flat over 64 cells; an unshared limb would sit in one."""
    rng = np.random.default_rng(5)
    shares = np.concatenate([split(bytes(32), 2, 2, rng.bytes)[:1] for _ in range(7282)]).ravel()
    cells = np.bincount((shares.astype(np.uint64) * 64 // PRIME).astype(int), minlength=64)
    expected = len(shares) / 64
    assert ((cells - expected) ** 2 / expected).sum() < 63 + 5 * np.sqrt(2 * 63)


def test_a_word_that_is_no_field_element_is_drawn_again():
    calls = []

    def source(size):
        calls.append(size)
        first = b"\xff\xff\xff\x7f" if len(calls) == 1 else b"\x02\x00\x00\x00"
        return first + b"\x07\x00\x00\x00" * (size // 4 - 1)

    shares = split(bytes(32), 2, 2, source)
    assert len(calls) == 2
    assert shares[0].tolist() == [2] + [7] * (LIMBS - 1)
    assert shares[1].tolist() == [4] + [14] * (LIMBS - 1)


def test_the_highest_bit_of_a_word_is_not_used():
    shares = split(bytes(32), 2, 1 + 1, lambda size: b"\x01\x00\x00\x80" * (size // 4))
    assert (shares[0] == 1).all()


@pytest.mark.parametrize(
    ("secret", "threshold", "count"), [(bytes(31), 1, 1), (bytes(33), 1, 1), (bytes(32), 0, 1), (bytes(32), 3, 2)]
)
def test_sizes_that_cannot_be_are_refused(entropy, secret, threshold, count):
    with pytest.raises(ValueError, match="1 <= t <= count"):
        split(secret, threshold, count, entropy("refused"))


def test_a_wrong_share_is_noticed_or_gives_another_secret_and_never_this_one(entropy):
    shares = split(secret := b"\xff" * 32, 3, 5, entropy("wrong"))
    noticed = 0
    for change in range(1, 40):
        wrong = shares[:3].astype(np.uint64)
        wrong[0, change % LIMBS] = (wrong[0, change % LIMBS] + change) % PRIME
        try:
            assert combine([1, 2, 3], wrong.astype(np.uint32)) != secret
        except ValueError:
            noticed += 1
    assert noticed > 0


@pytest.mark.parametrize("positions", [[], [1, 1], [1], [1, 2, 3]])
def test_positions_must_be_distinct_and_fit_the_shares(entropy, positions):
    shares = split(bytes(32), 2, 2, entropy("positions"))
    with pytest.raises(ValueError, match="distinct"):
        combine(positions, shares)
