"""A party's own Ed25519 key: made on first use, readable by its owner only."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from shared.errors import DataError


def own_key(path: Path, fresh: Ed25519PrivateKey | None = None) -> Ed25519PrivateKey:
    """The key at ``path``; a new one is written there when there is none.

    Args:
        path: a PEM file, created with mode 600.
        fresh: what to write when there is none (a seeded simulation's key); None = a random key.

    Raises:
        DataError: the file holds something else, or cannot be read.
    """
    if path.exists():
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise DataError(f"{path}: not an unencrypted PEM private key") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise DataError(f"{path}: expected an Ed25519 key, found another kind")
        return key
    key = fresh or Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())  # a ledger that outlives its key can never be continued
    return key
