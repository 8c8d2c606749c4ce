"""The bar: what comes out is the plain sum of the survivors' vectors, bit for bit, or a sentence that says why not."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.secagg.terms import terms_for
from simulations.secure_sum import PHASES, secure_sum

LARGEST = 2**31 - 1  # a sum that is larger comes back wrapped around
GONE_BEFORE_UPLOAD = ("join", "deal", "upload")


def stream(seed):
    calls = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}:{next(calls)}".encode()).digest(size)


def vectors_of(count, length=7, seed=0):
    rows = np.random.default_rng(seed).integers(-(2**20), 2**20, (count, length))
    return {f"client {number}": row for number, row in enumerate(rows)}


def plain(vectors, names):
    return sum(
        (vectors[name].astype(np.int64) for name in names), np.zeros(len(next(iter(vectors.values()))), np.int64)
    )


def left(vectors, drop, *phases):
    gone = set().union(*(drop.get(phase, ()) for phase in phases))
    return tuple(name for name in vectors if name not in gone)


@st.composite
def sessions(draw):
    """Vectors, smallest, colluders, and who vanishes when; many more may vanish than are tolerated."""
    count = draw(st.integers(1, 11))
    smallest = draw(st.integers(1, count))
    colluders = draw(st.integers(0, smallest - 1))
    bound = LARGEST // count
    values = st.integers(-bound, bound) | st.sampled_from([-bound, bound, 0, 1, -1])
    length = draw(st.integers(1, 5))
    vectors = {
        f"client {n}": np.array(draw(st.lists(values, min_size=length, max_size=length)), np.int64)
        for n in range(count)
    }
    reluctant = draw(st.sets(st.sampled_from(sorted(vectors)), max_size=count - 1))
    when = draw(st.lists(st.sampled_from(PHASES), min_size=len(reluctant), max_size=len(reluctant)))
    drop = {phase: {name for name, at in zip(sorted(reluctant), when, strict=True) if at == phase} for phase in PHASES}
    return vectors, smallest, colluders, drop


@settings(max_examples=250, deadline=None)
@given(sessions())
def test_the_sum_is_that_of_the_survivors_bit_for_bit_or_there_is_none(drawn):
    vectors, smallest, colluders, drop = drawn
    joined = left(vectors, drop, "join")
    survivors = left(vectors, drop, *GONE_BEFORE_UPLOAD)
    signers = left(vectors, drop, *GONE_BEFORE_UPLOAD, "agree")
    try:
        out = secure_sum(vectors, smallest, colluders, stream(str(drawn)), drop)
    except ProtocolError:
        # Only because fewer than a quorum stayed to the end; a last step with fewer of them may still succeed.
        quorum = terms_for(len(joined), smallest, colluders).quorum if len(joined) >= smallest else len(vectors) + 1
        assert len(left(vectors, drop, *PHASES)) < quorum
        return
    assert out.survivors == survivors
    assert (out.total == plain(vectors, survivors)).all()
    assert len(signers) >= terms_for(len(joined), smallest, colluders).quorum >= smallest


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 14), st.data())
def test_nothing_is_aborted_while_no_more_drop_out_than_are_tolerated(count, data):
    """In any phase, all together: as many as leave a quorum."""
    smallest = data.draw(st.integers(1, count))
    colluders = data.draw(st.integers(0, smallest - 1))
    terms = terms_for(count, smallest, colluders)
    vectors = vectors_of(count)
    gone = data.draw(st.sets(st.sampled_from(sorted(vectors)), max_size=count - terms.quorum))
    # Whoever does not join is not on the roster, and does not count against it: fewer members have other terms.
    when = {name: data.draw(st.sampled_from(PHASES[1:])) for name in sorted(gone)}
    drop = {phase: {name for name in gone if when[name] == phase} for phase in PHASES}
    out = secure_sum(vectors, smallest, colluders, stream(f"{count} {sorted(when.items())}"), drop)
    assert (out.total == plain(vectors, left(vectors, drop, *GONE_BEFORE_UPLOAD))).all()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("count", "smallest", "colluders"), [(10, 8, 1), (40, 32, 2)])
def test_as_many_as_tolerated_may_drop_out_in_any_one_phase(phase, count, smallest, colluders):
    vectors = vectors_of(count)
    drop = {phase: list(vectors)[: count - smallest]}
    out = secure_sum(vectors, smallest, colluders, stream(phase), drop)
    expected = left(vectors, drop, *GONE_BEFORE_UPLOAD)
    assert out.survivors == expected
    assert (out.total == plain(vectors, expected)).all()


@pytest.mark.parametrize(
    ("phase", "sentence"),
    [
        ("join", "too few joined: 7 members, 8 at least"),
        ("deal", "7 of 10 clients dealt, at least 8 must have"),
        ("upload", "7 of 10 clients uploaded, at least 8 must have"),
        ("agree", "7 of 10 clients signed, at least 8 must have"),
        ("reveal", "right shares of a secret of 'client"),
    ],
)
def test_one_more_ends_the_session_and_the_sentence_says_at_which_step(phase, sentence):
    vectors = vectors_of(10)
    gone = list(vectors)[: 3 if phase != "reveal" else 6]
    with pytest.raises(ProtocolError, match=sentence):
        secure_sum(vectors, 8, 1, stream(phase), {phase: gone})


def test_the_largest_sums_come_out_right():
    bound = LARGEST // 8
    for sign in (1, -1):
        vectors = {f"client {n}": np.full(3, sign * bound) for n in range(8)}
        assert (secure_sum(vectors, 6, 1, stream("largest")).total == 8 * sign * bound).all()


def test_one_step_further_wraps_around():
    """Why the plan refuses sums that would not fit: the modulus cannot tell them apart."""
    vectors = {"a": np.array([LARGEST]), "b": np.array([1])}
    assert secure_sum(vectors, 2, 0, stream("wrap")).total.tolist() == [-(2**31)]


def test_one_client_alone_gets_its_own_vector_back():
    assert (secure_sum(one := vectors_of(1), 1, 0, stream("alone")).total == one["client 0"]).all()


def test_two_sessions_of_the_same_vectors_give_the_same_sum_by_other_bytes():
    vectors = vectors_of(6)
    one, other = (secure_sum(vectors, 5, 1) for _ in range(2))
    assert (one.total == other.total).all()
    assert one.bytes_up == other.bytes_up


def test_neither_vectors_nor_the_order_of_clients_change_the_size_of_any_message():
    zeros = {name: np.zeros(7, np.int64) for name in vectors_of(6)}
    loud, quiet = secure_sum(vectors_of(6), 5, 1, stream("size")), secure_sum(zeros, 5, 1, stream("size"))
    assert (loud.bytes_up, loud.bytes_down) == (quiet.bytes_up, quiet.bytes_down)


def test_vectors_are_left_as_they_were():
    vectors = vectors_of(6)
    before = {name: row.copy() for name, row in vectors.items()}
    secure_sum(vectors, 5, 1, stream("left"))
    assert all((vectors[name] == before[name]).all() for name in vectors)


def test_the_cost_is_counted_on_both_sides():
    out = secure_sum(vectors_of(10, 100), 8, 1, stream("cost"))
    assert out.seconds_client > 0
    assert out.seconds_server > 0
    # per client: advert, deals, masked words, attestation, signature; and of reveals a share for each share held
    up = 10 * (224 + (4 * 6 + 64 + 88 * 6 + 64 * 7) + 400 + 64 + 64) + 40 * 10 * 7
    down = 10 * 2240 + 10 * (2 + 10 * (4 * 6 + 64)) + 88 * 60 + 10 * 2 + 10 * (2 + 640)
    assert (out.bytes_up, out.bytes_down) == (up, down)
