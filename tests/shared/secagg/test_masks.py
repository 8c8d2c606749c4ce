from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shared.secagg import masks
from shared.secagg.masks import add_masks, from_words, to_words

keys = st.binary(min_size=32, max_size=32)
BELIEVED = 1e-4  # a seeded test either always passes or never: the level is no flakiness

# NIST SP 800-38A, F.5.5, CTR-AES256.Encrypt
NIST_KEY = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
NIST_COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
NIST_OUTPUT = (
    "0bdf7df1591716335e9a8b15c860c502"
    "5a6e699d536119065433863c8f657b94"
    "1bc12c9c01610d5d0d8bd6a3378eca62"
    "2956e1c8693536b1bee99c73a31576b6"
)


def stream(key, length):
    words = np.zeros(length, np.uint32)
    add_masks(words, [key], [])
    return words


def twin(key, length):
    """The definition: little-endian words of AES-256 of the counters 0, 1, 2, ... as big-endian blocks."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - counter mode, spelt out
    blocks = b"".join(block.update(counter.to_bytes(16, "big")) for counter in range(-(-length // 4)))
    return np.frombuffer(blocks, "<u4")[:length]


def test_the_stream_is_the_key_stream_of_nist_sp_800_38a(monkeypatch):
    monkeypatch.setattr(masks, "_COUNTER", modes.CTR(bytes.fromhex(NIST_COUNTER)))
    assert stream(bytes.fromhex(NIST_KEY), 16).astype("<u4").tobytes().hex() == NIST_OUTPUT


@given(keys, st.integers(0, 70))
def test_a_mask_is_aes_of_the_counter_from_zero(key, length):
    assert (stream(key, length) == twin(key, length)).all()


@given(st.lists(keys, max_size=4), st.lists(keys, max_size=4), st.integers(0, 33))
def test_masks_added_and_subtracted_cancel(plus, minus, length):
    before = np.arange(length, dtype=np.uint32) * np.uint32(0x9E3779B9)
    words = before.copy()
    add_masks(words, plus, minus)
    add_masks(words, minus, plus)
    assert (words == before).all()


@given(st.lists(keys, max_size=3), st.lists(keys, max_size=3))
def test_what_is_added_is_the_sum_of_the_streams_modulo_two_to_the_32(plus, minus):
    words = np.full(9, 2**32 - 1, np.uint32)
    add_masks(words, plus, minus)
    signed = sum((twin(key, 9).astype(object) for key in plus), -1 + np.zeros(9, object))
    signed = signed - sum((twin(key, 9).astype(object) for key in minus), np.zeros(9, object))
    assert words.tolist() == [int(value) % 2**32 for value in signed]


@settings(max_examples=60)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20))
def test_signed_integers_survive_the_trip_through_words(values):
    assert from_words(to_words(np.array(values, np.int64))).tolist() == values


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_any_integers_are_taken(kind):
    assert from_words(to_words(np.array([-3, 0, 7], kind))).tolist() == [-3, 0, 7]


def test_a_sum_wraps_around_and_back_as_long_as_the_true_one_fits():
    total = to_words(np.array([2**31 - 1])) + to_words(np.array([2**31 - 1])) + to_words(np.array([-(2**31)]))
    assert from_words(total).tolist() == [2**31 - 2]


def test_the_words_given_are_changed_in_place_and_the_vector_is_not():
    vector = np.arange(5)
    words = to_words(vector)
    add_masks(words, [bytes(32)], [])
    assert vector.tolist() == [0, 1, 2, 3, 4]
    assert words.tolist() != [0, 1, 2, 3, 4]


# --- what a server sees of one client


def masked(cohort, seed, vector):
    session = cohort(4, 3, 1, seed)
    session.vectors = np.broadcast_to(vector, (4, len(vector)))
    session.run("mask")
    return session


def chi_square(words):
    cells = np.bincount(np.frombuffer(words.astype("<u4").tobytes(), np.uint8), minlength=256)
    return stats.chisquare(cells).pvalue


@pytest.mark.parametrize("value", [0, 1, -(2**20)])
def test_a_masked_vector_looks_uniform_whatever_it_is(cohort, value):
    session = masked(cohort, f"uniform {value}", np.full(20_000, value))
    for words in session.words.values():
        assert chi_square(words) > BELIEVED


def test_the_test_of_uniformity_rejects_a_vector_under_half_of_a_mask(cohort):
    session = masked(cohort, "half", np.zeros(20_000, np.int64))
    assert chi_square(session.words[0] & 0x7FFFFFFF) < BELIEVED


def test_two_sessions_and_two_clients_of_one_vector_share_no_words(cohort):
    vector = np.zeros(2_000, np.int64)
    seen = [masked(cohort, seed, vector).words for seed in ("first", "second")]
    rows = np.array([words for session in seen for words in session.values()])
    assert len(rows) == 8
    for one in range(8):
        for other in range(one):
            assert (rows[one] == rows[other]).sum() <= 1  # each word meets by chance once in 2^32
