from __future__ import annotations

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from shared.errors import DataError
from shared.keys import own_key

SEEDED = Ed25519PrivateKey.from_private_bytes(bytes(32))


def test_a_key_is_made_once_and_found_again(tmp_path):
    first = own_key(tmp_path / "key.pem")
    assert own_key(tmp_path / "key.pem").private_bytes_raw() == first.private_bytes_raw()
    assert own_key(tmp_path / "other.pem").private_bytes_raw() != first.private_bytes_raw()


def test_only_its_owner_can_read_it(tmp_path):
    own_key(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_a_seeded_key_is_written_where_there_is_none_and_never_over_another(tmp_path):
    assert own_key(tmp_path / "a.pem", SEEDED).private_bytes_raw() == bytes(32)
    drawn = own_key(tmp_path / "b.pem")
    assert own_key(tmp_path / "b.pem", SEEDED).private_bytes_raw() == drawn.private_bytes_raw()


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_named(tmp_path, content):
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(DataError, match=r"key.pem: not an unencrypted PEM private key"):
        own_key(tmp_path / "key.pem")


def test_an_encrypted_key_and_another_kind_are_refused(tmp_path):
    locked = SEEDED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.pem").write_bytes(locked)
    with pytest.raises(DataError, match="unencrypted"):
        own_key(tmp_path / "locked.pem")
    curve = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "curve.pem").write_bytes(curve)
    with pytest.raises(DataError, match="expected an Ed25519 key, found another kind"):
        own_key(tmp_path / "curve.pem")


def test_a_folder_in_its_place_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        own_key(tmp_path)
