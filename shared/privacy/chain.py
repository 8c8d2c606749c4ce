"""One line of a ledger, and the chain of them: how a line is spelled, hashed, signed, read back and verified.

One line, its keys sorted, no spaces, nothing else: a line has one spelling, and every other is refused::

    {"event":{"type":"intent",...},"hash":"<sha256 of seq, prev, event>","prev":"<hash of line 6>","seq":7}

Pure but for reading the file; ``shared/privacy/ledger.py`` writes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import LedgerError

GENESIS: Final = "0" * 64
LINE_LIMIT: Final = 1 << 24  # bytes: a line names at most a cohort; anything longer is hostile
_SPELLING: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
FIRST: Final = ("plan", "opened")  # a server's ledger begins with its plan; a client's before it knows any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One verified line: its number (1-based) and its event."""

    number: int
    event: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class Receipt:
    """A signed round head as it leaves the ledger: proof to others of how far the ledger had come.

    Attributes:
        key: the signer's Ed25519 public key, hex.
        seq: number of the head's line.
        tip: hash of the line before it, and so of all lines before.
        round: what the head closed.
        signature: Ed25519 over tip and round, hex.
    """

    key: str
    seq: int
    tip: str
    round: int
    signature: str


def sign_head(signer: Ed25519PrivateKey, seq: int, tip: str, head: int) -> Receipt:
    """The head of a chain whose last line has hash ``tip``, to stand at line ``seq``."""
    return Receipt(public_hex(signer), seq, tip, head, signer.sign(_signed(tip, head)).hex())


def verify_receipt(receipt: Receipt) -> bool:
    """Whether the receipt's key signed its tip and round. Nobody but the key's owner can make another one true."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(receipt.key))
        key.verify(bytes.fromhex(receipt.signature), _signed(receipt.tip, receipt.round))
    except (InvalidSignature, ValueError):
        return False
    return True


def public_hex(signer: Ed25519PrivateKey) -> str:
    """The raw public key in hex, as ledgers name it."""
    return signer.public_key().public_bytes_raw().hex()


def seal_line(seq: int, previous: str, event: Event, place: str) -> tuple[bytes, str]:
    """A line's bytes, newline included, and its hash.

    Raises:
        LedgerError: the event has no type, is no JSON, or is longer than a line may be; names ``place``.
    """
    if not isinstance(event.get("type"), str):
        raise LedgerError(f"{place}: an event names its type")
    try:
        body = _SPELLING.encode(dict(event)).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise LedgerError(f"{place}: the event cannot be written as JSON: {error}") from error
    digest = hashlib.sha256(b'[%d,"%s",%s]' % (seq, previous.encode(), body)).hexdigest()
    raw = b'{"event":%s,"hash":"%s","prev":"%s","seq":%d}\n' % (body, digest.encode(), previous.encode(), seq)
    if len(raw) > LINE_LIMIT:
        raise LedgerError(f"{place}: a line of {len(raw)} bytes, more than the {LINE_LIMIT} that can be read back")
    return raw, digest


def read_ledger(path: Path, *, key: Ed25519PublicKey | None = None) -> Iterator[Line]:
    """Read and verify a ledger line by line: chain, order, spelling, and the signature of every head.

    A line is yielded before the lines after it are read: whoever needs the whole chain verified exhausts the iterator.

    Args:
        path: the ledger.
        key: the signer; None = the key that the first line names.

    Raises:
        LedgerError: names the file, the line and what is wrong there (edited, reordered, dropped, truncated, forged).
    """
    previous, signer = GENESIS, key
    for number, raw in enumerate(raw_lines(path), 1):
        place = f"{path}:{number}"
        line = _parse(raw, place)
        if line["seq"] != number:
            got = str(line["seq"])[:20]
            raise LedgerError(f"{place}: sequence number {got}, expected {number}: lines dropped or reordered")
        if line["prev"] != previous:
            raise LedgerError(f"{place}: does not continue the line before: lines edited, dropped or reordered")
        expected, digest = seal_line(number, previous, line["event"], place)
        if line["hash"] != digest:
            raise LedgerError(f"{place}: the line was edited after it was written")
        if raw != expected:
            raise LedgerError(f"{place}: another spelling than a ledger writes: repeated keys, spaces or other numbers")
        event = line["event"]
        if number == 1:
            signer = _signer(event, place, key)
        if signer is not None and event["type"] == "head":
            _verify_head(event, previous, signer, place)
        previous = digest
        yield Line(number, event, digest)


def raw_lines(path: Path) -> Iterator[bytes]:
    """The bytes of each line, newline included, none of them verified.

    Raises:
        LedgerError: the file cannot be read, or a line is cut off or longer than any ledger line.
    """
    try:
        handle = path.open("rb")
    except OSError as error:
        raise LedgerError(f"{path}: no readable ledger here ({error.strerror})") from error
    number = 0
    with handle:
        while raw := handle.readline(LINE_LIMIT):
            number += 1
            if not raw.endswith(b"\n"):
                what = "is longer than any ledger line" if len(raw) == LINE_LIMIT else "is cut off"
                raise LedgerError(f"{path}:{number}: the line {what}")
            yield raw


def cut_torn_line(path: Path) -> None:
    """Cut off a last line without its newline: it was never synced, so nothing was drawn or sent on its word."""
    with path.open("rb+") as handle:
        start = max(0, handle.seek(0, os.SEEK_END) - LINE_LIMIT)
        handle.seek(start)
        end = handle.read()
        newline = end.rfind(b"\n")
        if newline + 1 < len(end) and (newline >= 0 or start == 0):
            handle.truncate(start + newline + 1)


def _parse(raw: bytes, place: str) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{place}: not a JSON line") from error
    if (
        not isinstance(line, dict)
        or set(line) != {"seq", "prev", "event", "hash"}
        or not isinstance(line["event"], dict)
    ):
        raise LedgerError(f"{place}: a ledger line has exactly seq, prev, event and hash")
    return line


def _signer(event: Event, place: str, key: Ed25519PublicKey | None) -> Ed25519PublicKey:
    """The key of the first line, which must be ``key`` if one is given."""
    try:
        named = Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(event["key"])))
    except (KeyError, ValueError) as error:
        raise LedgerError(f"{place}: the first line must name the signer's key") from error
    if event["type"] not in FIRST:
        raise LedgerError(f"{place}: the first line must be one of {', '.join(FIRST)}, not {event['type'][:20]!r}")
    if key is not None and key.public_bytes_raw() != named.public_bytes_raw():
        raise LedgerError(f"{place}: the ledger belongs to another key")
    return named


def _verify_head(event: Event, previous: str, key: Ed25519PublicKey, place: str) -> None:
    try:
        key.verify(bytes.fromhex(str(event["signature"])), _signed(previous, event["round"]))
    except (InvalidSignature, ValueError, KeyError) as error:
        raise LedgerError(f"{place}: the round head's signature does not fit the chain and the key") from error


def _signed(tip: str, head: object) -> bytes:
    """What a head signs: the chain so far and the round that it closes."""
    return f"{tip}:{head}".encode()
