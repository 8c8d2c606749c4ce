"""Keys of a session: signatures by registered keys, agreement between pairs, boxes that only one holder opens.

Every client has a fresh pair of X25519 keys a session: one for masks, which its holders can recover if it drops out,
and one for boxes, which nobody ever recovers. Both are signed by its registered Ed25519 key. Every derived key and
every signature names its purpose and its session.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import ProtocolError

KEY: Final = 32  # bytes of every key, public or private
SIGNATURE: Final = 64
TAG: Final = 16
_NAME: Final = b"fedrecall secagg 1 "
_NONCE: Final = bytes(12)  # a box key seals one box


def sign(key: Ed25519PrivateKey, purpose: str, session: bytes, *parts: bytes) -> bytes:
    """A signature that is good for one purpose in one session."""
    return key.sign(_message(purpose, session, parts))


def signed(public: bytes, signature: bytes, purpose: str, session: bytes, *parts: bytes) -> bool:
    """Whether a signature is that of a public key."""
    return _verified(public, signature, _message(purpose, session, parts))


def public_of(private: bytes) -> bytes:
    """The public half of an X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def usable(public: bytes) -> bool:
    """Whether agreements with an X25519 key are secret. Every private key finds out the same, so any will do."""
    try:
        X25519PrivateKey.from_private_bytes(bytes(KEY)).exchange(_x25519(public))
    except ValueError:
        return False
    return True


class Agreement:
    """One client's X25519 key in one session; a class because it holds the parsed private key for many peers."""

    def __init__(self, private: bytes, session: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(private)
        self._session = session

    def key(self, peer: bytes, purpose: str, *context: bytes) -> bytes:
        """The 32-byte key shared with a peer for one purpose (HKDF-SHA256, RFC 5869).

        Raises:
            ProtocolError: the peer's public key is one of those that make every agreement the same.
        """
        try:
            secret = self._private.exchange(_x25519(peer))
        except ValueError as error:
            raise ProtocolError("secagg: a public key with which every agreement is the same") from error
        info = _message(purpose, self._session, context)
        return HKDF(hashes.SHA256(), KEY, None, info).derive(secret)


def seal_box(key: bytes, content: bytes) -> bytes:
    """AES-256-GCM under a key that is used once."""
    return AESGCM(key).encrypt(_NONCE, content, None)


def open_box(key: bytes, box: bytes) -> bytes | None:
    """The content, or None when the box was not sealed under this key."""
    try:
        return AESGCM(key).decrypt(_NONCE, box, None)
    except InvalidTag:
        return None


def digest(*parts: bytes) -> bytes:
    """SHA-256 over parts of which each but the last has a fixed length."""
    return hashlib.sha256(b"".join(parts)).digest()


def _message(purpose: str, session: bytes, parts: tuple[bytes, ...]) -> bytes:
    """Unambiguous, because all parts of a purpose have a fixed length."""
    return _NAME + purpose.encode() + b":" + session + b"".join(parts)


@lru_cache(maxsize=8192)
def _verified(public: bytes, signature: bytes, message: bytes) -> bool:
    """Cached: a process that serves many clients checks a signature once, not once for each of them."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=8192)
def _x25519(public: bytes) -> X25519PublicKey:
    """Cached as above."""
    return X25519PublicKey.from_public_bytes(public)
