from __future__ import annotations

import hashlib
import hmac
import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.secagg.keys import Agreement, digest, open_box, public_of, seal_box, sign, signed, usable

# RFC 7748, section 6.1
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
BOTH = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

SESSION, OTHER = b"s" * 32, b"t" * 32


def hkdf(secret, info):
    """RFC 5869 with no salt and one block of output, from its definition."""
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


# --- agreement


def test_public_keys_are_those_of_rfc_7748():
    assert public_of(ALICE) == ALICE_PUBLIC
    assert public_of(BOB) == BOB_PUBLIC


def test_a_shared_key_is_hkdf_of_the_shared_secret_of_rfc_7748_for_its_purpose_and_session():
    info = b"fedrecall secagg 1 mask:" + SESSION + b"one" + b"two"
    assert Agreement(ALICE, SESSION).key(BOB_PUBLIC, "mask", b"one", b"two") == hkdf(BOTH, info)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_both_sides_agree(one, other):
    there = Agreement(one, SESSION).key(public_of(other), "mask")
    assert there == Agreement(other, SESSION).key(public_of(one), "mask")


def test_purposes_sessions_contexts_and_peers_have_keys_of_their_own():
    peers = (BOB_PUBLIC, ALICE_PUBLIC)
    found = {
        Agreement(ALICE, session).key(peer, purpose, *context)
        for session, peer, purpose, context in itertools.product(
            (SESSION, OTHER), peers, ("mask", "box"), ((), (b"\0\0\0\0", b"\0\0\0\1"), (b"\0\0\0\1", b"\0\0\0\0"))
        )
    }
    assert len(found) == 2 * 2 * 2 * 3


def test_a_key_with_which_every_agreement_is_the_same_is_refused(low_order_key):
    assert not usable(low_order_key)
    with pytest.raises(ProtocolError, match="every agreement is the same"):
        Agreement(ALICE, SESSION).key(low_order_key, "mask")


@given(st.binary(min_size=32, max_size=32))
def test_keys_of_private_keys_are_usable(private):
    assert usable(public_of(private))


def test_the_highest_bit_of_a_public_key_is_a_second_spelling():
    """So a roster can hold one key twice: why masks name their members (test_attacks.py)."""
    copy = BOB_PUBLIC[:31] + bytes([BOB_PUBLIC[31] ^ 0x80])
    assert Agreement(ALICE, SESSION).key(copy, "mask") == Agreement(ALICE, SESSION).key(BOB_PUBLIC, "mask")


# --- signatures


def identity(seed):
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())


def public(key):
    return key.public_key().public_bytes_raw()


def test_a_signature_is_good_for_its_key_purpose_session_and_content_alone():
    key = identity(b"one")
    made = sign(key, "picks", SESSION, b"a" * 32, b"b" * 4)
    assert signed(public(key), made, "picks", SESSION, b"a" * 32, b"b" * 4)
    for purpose, session, parts in [
        ("keys", SESSION, (b"a" * 32, b"b" * 4)),
        ("picks", OTHER, (b"a" * 32, b"b" * 4)),
        ("picks", SESSION, (b"a" * 32, b"c" * 4)),
        ("picks", SESSION, (b"a" * 32,)),
    ]:
        assert not signed(public(key), made, purpose, session, *parts)
    assert not signed(public(identity(b"two")), made, "picks", SESSION, b"a" * 32, b"b" * 4)


@given(st.integers(0, 511))
def test_a_signature_with_one_bit_changed_is_none(bit):
    key = identity(b"one")
    made = bytearray(sign(key, "keys", SESSION, b"x"))
    made[bit // 8] ^= 1 << bit % 8
    assert not signed(public(key), bytes(made), "keys", SESSION, b"x")


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), b"\xff" * 32, ALICE_PUBLIC], ids=len)
@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)], ids=len)
def test_what_is_no_key_or_no_signature_verifies_nothing(key, signature):
    assert not signed(key, signature, "keys", SESSION, b"x")


# --- boxes


@given(st.binary(max_size=100), st.binary(min_size=32, max_size=32))
def test_a_box_opens_under_its_key(content, key):
    assert open_box(key, seal_box(key, content)) == content


@given(st.integers(0, 8 * (72 + 16) - 1))
def test_a_box_with_one_bit_changed_does_not_open(bit):
    key, box = bytes(range(32)), bytearray(seal_box(bytes(range(32)), bytes(72)))
    box[bit // 8] ^= 1 << bit % 8
    assert open_box(key, bytes(box)) is None


@pytest.mark.parametrize("box", [b"", bytes(15), bytes(16), bytes(88)], ids=len)
def test_garbage_does_not_open(box):
    assert open_box(bytes(32), box) is None


def test_a_box_does_not_open_under_another_key():
    assert open_box(b"\1" * 32, seal_box(bytes(32), b"content")) is None


def test_a_digest_is_sha_256_of_the_parts_in_order():
    assert digest(b"a", b"b") == hashlib.sha256(b"ab").digest()
    assert digest(b"b", b"a") != digest(b"a", b"b")
