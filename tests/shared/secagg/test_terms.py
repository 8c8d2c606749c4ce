"""The public numbers of a session, each bound worked out a second time: in fractions, and by playing the adversary."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shared.secagg import terms as module
from shared.secagg.terms import LARGEST_ROSTER, RECOVERY, SECRECY, Terms, terms_for

SECRET, RECOVERED = Fraction(2) ** int(SECRECY), Fraction(2) ** int(RECOVERY)
ROUNDING = 1 + Fraction(1, 10**6)
SIZES = [
    (20, 18, 2), (30, 27, 2), (50, 45, 4), (50, 30, 0), (100, 90, 9), (100, 60, 6), (100, 100, 10), (120, 61, 0),
    (200, 180, 18), (200, 110, 10), (300, 210, 60), (60, 54, 21), (100, 90, 27), (100, 80, 40),
]  # fmt: skip
PRESET = (943, 849, 84)
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def tail(population, marked, draws, at_least):
    """P[at least so many of the draws are marked], exactly."""
    ways = sum(math.comb(marked, x) * math.comb(population - marked, draws - x) for x in range(at_least, draws + 1))
    return Fraction(ways, math.comb(population, draws))


def log2(number):
    return math.log2(number) if number else -math.inf


def splits(n, colluders, dropped, k, t):
    """log2 of the union bound of docs/secure-aggregation.md on a cut among the honest survivors, from exact counts."""
    total, picks, honest = 0.0, log2(math.comb(n - 1, k)), n - colluders
    for s in range(1, honest // 2 + 1):
        gone = min(dropped, honest - 2 * s)
        rest = honest - s - gone
        near = range(max(t - 1, 0), k + 1)
        alone = log2(sum(math.comb(s - 1 + colluders, x) * math.comb(honest - s, k - x) for x in near))
        avoiding = log2(sum(math.comb(s - 1 + colluders, x) * math.comb(gone, k - x) for x in near))
        by_size = s * (alone - picks)
        by_cut = log2(math.comb(honest - s, gone)) + s * (avoiding - picks)
        by_cut += rest * (log2(math.comb(n - 1 - s, k)) - picks)
        total += 2.0 ** (log2(math.comb(honest, s)) + min(by_size, by_cut))
    return log2(total)


def dropped_of(terms):
    return terms.members - terms.quorum


# --- the promise, worked out exactly


@sizes
def test_no_honest_client_has_threshold_colluding_holders(size):
    terms = terms_for(*size)
    chance = size[0] * tail(size[0] - 1, size[2], terms.neighbours, terms.threshold)
    assert chance <= SECRET * ROUNDING


@sizes
def test_the_honest_survivors_stay_in_one_piece(size):
    terms = terms_for(*size)
    if terms.neighbours < terms.members - 1:
        chance = splits(size[0], size[2], dropped_of(terms), terms.neighbours, terms.threshold)
        assert chance <= SECRECY + 1e-6


@sizes
def test_everybody_can_be_unmasked_when_as_many_drop_out_as_tolerated(size):
    """A survivor holds a share of its own, so one pick fewer must be alive; one that dropped out does not."""
    terms, n = terms_for(*size), size[0]
    k, t, dropped = terms.neighbours, terms.threshold, dropped_of(terms)
    stuck = (n - dropped) * tail(n - 1, dropped, k, k - t + 2)
    if dropped:
        stuck += dropped * tail(n - 1, dropped - 1, k, k - t + 1)
    assert stuck <= RECOVERED * ROUNDING


@pytest.mark.parametrize("size", [(100, 90, 9), (100, 60, 6), (200, 180, 18)], ids=str)
def test_they_are_the_cheapest_that_keep_it(size):
    """With one neighbour fewer there is no threshold that keeps all three bounds."""
    terms, n, colluders = terms_for(*size), size[0], size[2]
    k, dropped = terms.neighbours - 1, dropped_of(terms)
    for t in range(1, k + 2):
        secret = n * tail(n - 1, colluders, k, t) <= SECRET and splits(n, colluders, dropped, k, t) <= SECRECY
        stuck = (n - dropped) * tail(n - 1, dropped, k, k - t + 2) + dropped * tail(n - 1, dropped - 1, k, k - t + 1)
        assert not (secret and stuck <= RECOVERED)


def test_the_terms_of_the_preset_keep_it_too():
    terms = terms_for(*PRESET)
    assert (terms.neighbours, terms.threshold, terms.quorum) == (36, 23, 849)
    assert 943 * tail(942, 84, 36, 23) <= SECRET
    assert splits(943, 84, 94, 36, 23) <= SECRECY + 1e-6


@pytest.mark.parametrize(("n", "marked", "draws"), [(9, 3, 4), (50, 10, 12), (50, 0, 3), (50, 49, 49)])
def test_hypergeometric_tails_are_those_of_scipy(n, marked, draws):
    log = module._log_factorials(n)
    ours = module._tail(module._hypergeometric(log, n, marked, draws))
    theirs = stats.hypergeom(n, marked, draws).sf([x - 1 for x in range(draws + 1)])
    assert [2**value for value in ours] == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=40)
@given(st.data())
def test_the_bound_on_splits_is_the_one_from_exact_counts(data):
    n = data.draw(st.integers(4, 40))
    colluders = data.draw(st.integers(0, n // 3))
    dropped = data.draw(st.integers(0, (n - colluders - 1) // 2))
    k = data.draw(st.integers(1, n - 2))
    t = data.draw(st.integers(1, k + 1))
    ours = module._splits(module._log_factorials(n), n, colluders, dropped, k, t)
    assert max(ours, -900) == pytest.approx(max(splits(n, colluders, dropped, k, t), -900), abs=1e-6)


# --- the bound against an adversary that tries everything, where there is little enough to try


def graph_of(rng, n, k):
    """Everybody's picks, as bit sets."""
    everybody = range(n)
    return [sum(1 << pick for pick in rng.sample([x for x in everybody if x != i], k)) for i in everybody]


def neighbours_in(picks, honest):
    """Who shares a mask with whom."""
    around = {i: picks[i] for i in honest}
    for i, j in itertools.permutations(honest, 2):
        around[j] |= (picks[i] >> j & 1) << i
    return around


def cut(around, alive):
    """Whether the members of a bit set fall into pieces without a mask between them."""
    seen = edge = alive & -alive
    while edge:
        member = edge.bit_length() - 1
        edge &= ~(1 << member)
        found = around[member] & alive & ~seen
        seen, edge = seen | found, edge | found
    return seen != alive


def breakable(picks, colluders, dropped, t):
    """Whether some choice of dropped clients, made with the graph in hand, cuts those that clients would sign."""
    n = len(picks)
    honest, helpers = range(colluders, n), (1 << colluders) - 1
    around = neighbours_in(picks, honest)
    for size in range(dropped + 1):
        for gone in itertools.combinations(honest, size):
            alive = sum(1 << i for i in honest if i not in gone)
            held = all(((alive | helpers) & picks[i]).bit_count() + 1 >= t for i in honest if alive >> i & 1)
            if held and cut(around, alive):
                return True
    return False


@pytest.mark.parametrize(
    ("n", "colluders", "dropped", "k", "t"),
    [(9, 0, 2, 2, 2), (10, 1, 2, 3, 2), (9, 2, 1, 3, 2), (9, 3, 2, 4, 3), (8, 0, 0, 1, 1), (10, 4, 1, 4, 2)],
)
def test_the_best_adversary_breaks_no_more_sessions_than_the_bound_says(n, colluders, dropped, k, t):
    rng, trials = random.Random(f"{n} {k} {t}"), 600
    broken = sum(breakable(graph_of(rng, n, k), colluders, dropped, t) for _ in range(trials))
    bound = 2 ** module._splits(module._log_factorials(n), n, colluders, dropped, k, t)
    assert broken > 0  # or the test could not fail
    assert bound < 1
    assert stats.binomtest(broken, trials, bound, alternative="greater").pvalue > 1e-4


def test_a_cut_with_fewer_dropped_than_allowed_is_counted():
    """Two holders each, no spare: nobody may drop, and the adversary still finds graphs that fall apart."""
    rng = random.Random(3)
    assert any(breakable(graph_of(rng, 6, 3), 1, 2, 3) for _ in range(5000))
    assert module._splits(module._log_factorials(6), 6, 1, 2, 3, 3) > -12


# --- larger sessions, against an adversary with good ideas


def surrounded(picks, colluders, dropped, start):
    """Growing sets, cheapest neighbour first, with the dropped clients that cut each off, while there are enough."""
    around = neighbours_in(picks, range(colluders, len(picks)))
    helpers, inside, known = (1 << colluders) - 1, {start}, around[start] & ~(1 << start)
    while len(inside) <= len(around) // 3:
        wall = [i for i in around if known >> i & 1 and i not in inside]
        if len(wall) <= dropped:
            yield inside.copy(), wall
        if not wall:
            return
        cheapest = min(wall, key=lambda i: (around[i] & ~known & ~helpers).bit_count())
        inside.add(cheapest)
        known |= around[cheapest]


@pytest.mark.parametrize("size", [(100, 60, 6), (150, 80, 0)], ids=str)
def test_surrounding_clients_with_dropouts_never_leaves_their_sum_recoverable(size):
    """A wall of dropouts around a set is affordable; but then somebody inside has too few holders, and all see it."""
    terms, walls = terms_for(*size), 0
    picks = graph_of(random.Random(size[0]), terms.members, terms.neighbours)
    for start in range(size[2], terms.members, 5):
        for inside, wall in surrounded(picks, size[2], dropped_of(terms), start):
            walls += 1
            alive = ~sum(1 << i for i in wall)
            assert any((picks[i] & alive).bit_count() + 1 < terms.threshold for i in inside)
    assert walls > 0


# --- what holds for certain


def test_any_two_quorums_share_an_honest_client():
    for members in range(1, 61):
        for colluders in sorted({0, 1, members // 3, members - 1} - {members}):
            for smallest in {colluders + 1, members - members // 4} - set(range(colluders + 1)):
                terms = terms_for(members, smallest, colluders)
                assert 2 * terms.quorum - members > colluders
                assert terms.quorum == smallest or 2 * (terms.quorum - 1) - members <= colluders  # and no larger


@settings(max_examples=60)
@given(st.data())
def test_terms_are_such_that_a_session_makes_sense(data):
    members = data.draw(st.integers(1, 250))
    smallest = data.draw(st.integers(1, members))
    colluders = data.draw(st.integers(0, smallest - 1))
    terms = terms_for(members, smallest, colluders)
    assert (terms.members, terms.smallest) == (members, smallest)
    assert smallest <= terms.quorum <= members
    assert 0 <= terms.neighbours < members
    assert 1 <= terms.threshold <= terms.neighbours + 1
    if terms.neighbours == members - 1:  # everybody deals to everybody: certainties
        assert terms.threshold <= terms.quorum
        assert members == 1 or colluders < terms.threshold


@pytest.mark.parametrize("members", [40, 100])
@pytest.mark.parametrize("share", [0.7, 0.9])
def test_more_colluders_never_need_fewer_neighbours(members, share):
    smallest = round(share * members)
    needed = [terms_for(members, smallest, colluders) for colluders in range(0, 2 * smallest - members, 4)]
    assert {terms.quorum for terms in needed} == {smallest}
    assert [terms.neighbours for terms in needed] == sorted(terms.neighbours for terms in needed)


@pytest.mark.parametrize(("members", "colluders"), [(40, 0), (100, 5)])
def test_more_tolerated_dropouts_never_need_fewer_neighbours(members, colluders):
    needed = [terms_for(members, smallest, colluders).neighbours for smallest in range(members, colluders, -3)]
    assert needed == sorted(needed)


def test_neighbours_grow_like_a_logarithm():
    needed = [terms_for(n, n - n // 10, n // 10).neighbours for n in (100, 1000, 10_000, 100_000)]
    assert needed == sorted(needed)
    assert needed[-1] < 3 * needed[0]


def test_one_client_alone_is_a_session_of_its_own():
    assert terms_for(1, 1, 0) == Terms(1, 1, 0, 1, 1)


@pytest.mark.parametrize(
    ("members", "smallest", "colluders"),
    [(0, 0, 0), (5, 0, 0), (5, 6, 0), (5, 5, 5), (5, 3, 3), (5, 5, -1), (-1, -1, -2), (LARGEST_ROSTER + 1, 5, 0)],
)
def test_sessions_that_cannot_be_are_refused(members, smallest, colluders):
    with pytest.raises(ValueError, match="must rise from colluders to members"):
        terms_for(members, smallest, colluders)


def test_the_largest_roster_has_terms():
    assert terms_for(LARGEST_ROSTER, 90_000, 9_000).neighbours < 60
