"""Sealed bytes: what the vault writes, and what is told of many pages by one number.

AES-256-GCM under a random 96-bit nonce (NIST SP 800-38D, section 8.2.2: up to 2^32 seals a key), with the place of a
sealed text as associated data, so that none can stand in another's place. A page that is put back to what it said
before would still open; the sum of :func:`mark` over all pages, sealed beside them, shows it. That sum is the
MSet-Add-Hash of D. Clarke et al., "Incremental multiset hash functions", ASIACRYPT 2003: a page changes, and one term
of it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
from typing import Any, Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from client.behaviour import Events

KEY: Final = 32  # bytes
NONCE: Final = 12
TAG: Final = 16
MODULUS: Final = 1 << 256
_LENGTHS: Final = struct.Struct("<II")  # of the ids' JSON, in bytes; of the columns, in events
_COLUMNS: Final = (("item", "<i4"), ("kind", "<i1"), ("time", "<f8"), ("dwell", "<f8"), ("rating", "<f8"))
_BLOCK: Final = 2048  # bytes; a page's size tells no more than this of what it holds


class Unreadable(Exception):  # noqa: N818 - a reason that the caller puts into words, where the file is known
    """Sealed bytes that were not sealed under this key for this place, or not whole."""


def seal(key: bytes, place: str, plain: bytes) -> bytes:
    """Nonce, ciphertext and tag.

    Args:
        key: 32 bytes.
        place: where it will stand.
        plain: what is sealed.
    """
    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, place.encode())


def unseal(key: bytes, place: str, sealed: bytes) -> bytes:
    """What :func:`seal` was given.

    Raises:
        Unreadable: another key, another place, or changed.
    """
    try:
        return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], place.encode())
    except (InvalidTag, TypeError, ValueError) as error:
        raise Unreadable(place) from error


def mark(key: bytes, number: int, sealed: bytes) -> int:
    """A page's term in the sum over all pages.

    Args:
        key: of the pages.
        number: of the page.
        sealed: the page; nonce and tag stand for the rest of it.
    """
    term = b"page mark" + number.to_bytes(8, "big") + sealed[:NONCE] + sealed[-TAG:]
    return int.from_bytes(hmac.digest(key, term, hashlib.sha256), "big")


def packed(events: Events) -> bytes:
    """Events as bytes, filled up with zeros to whole blocks."""
    used, item = np.unique(events.item, return_inverse=True)
    ids = json.dumps([events.ids[one] for one in used], ensure_ascii=False, separators=(",", ":")).encode()
    columns: dict[str, NDArray[Any]] = {name: getattr(events, name) for name, _ in _COLUMNS} | {"item": item}
    content = _LENGTHS.pack(len(ids), len(events)) + ids
    content += b"".join(columns[name].astype(kind).tobytes() for name, kind in _COLUMNS)
    return content + bytes(-len(content) % _BLOCK)


def unpacked(content: bytes) -> Events:
    """What :func:`packed` was given. It was sealed by this code, so nothing in it is doubted."""
    length, rows = _LENGTHS.unpack_from(content)
    place = _LENGTHS.size + length
    columns: dict[str, NDArray[Any]] = {}
    for name, kind in _COLUMNS:
        columns[name] = np.frombuffer(content, kind, rows, place)
        place += columns[name].nbytes
    return Events(tuple(json.loads(content[_LENGTHS.size : _LENGTHS.size + length])), **columns)
