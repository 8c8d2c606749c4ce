"""The ledger: append-only, hash-chained JSON lines; round heads signed with Ed25519.

One line, its keys sorted, no spaces, nothing else: a line has one spelling, and every other is refused::

    {"event":{"type":"intent",...},"hash":"<sha256 of seq, prev, event>","prev":"<hash of line 6>","seq":7}

Types of event: ``plan`` (the first line: kind, plan, public key), ``intent`` (before anything is drawn or sent),
``result``, ``decline``, ``decision``, ``head`` (closes a round: its number and the chain so far, signed). Many lines, one
sync. What stands after the last head is chained, not signed.

A seeded simulation that was killed replays its rounds: a line that is appended again with the same bytes is recognised
and charged once. Without a seed nothing is recognised: a retried round is a new intent and a new charge.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import LedgerError

GENESIS: Final = "0" * 64
LINE_LIMIT: Final = 1 << 24  # bytes: a line names at most a cohort; anything longer is hostile

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One verified line: its number (1-based) and its event."""

    number: int
    event: dict[str, Any]
    hash: str


def read_ledger(path: Path, *, key: Ed25519PublicKey | None = None) -> Iterator[Line]:
    """Read and verify a ledger line by line: chain, order, and the signature of every head.

    Args:
        path: the ledger.
        key: the signer; None = the key that the first line names.

    Raises:
        LedgerError: names the file, the line and what is wrong there (edited, reordered, dropped, truncated, forged).
    """
    previous = GENESIS
    with path.open("rb") as handle:
        for number, raw in enumerate(_raw_lines(handle, path), 1):
            line = _parse(raw, path, number)
            if line["seq"] != number:
                raise LedgerError(
                    f"{path}:{number}: sequence number {line['seq']}, expected {number}: lines dropped or reordered"
                )
            if line["prev"] != previous:
                raise LedgerError(
                    f"{path}:{number}: does not continue the line before: lines edited, dropped or reordered"
                )
            if line["hash"] != _digest(number, previous, line["event"]):
                raise LedgerError(f"{path}:{number}: the line was edited after it was written")
            event = line["event"]
            if number == 1:
                key = key or _public_key(event, path)
            if event.get("type") == "head":
                _verify_head(event, previous, key, path, number)
            previous = line["hash"]
            yield Line(number, event, previous)


@dataclass
class Ledger:
    """An open ledger: the only writer of its file, which stays locked until :meth:`close`.

    Not frozen: it stands for a file, and is the one thing in the privacy core that has a state.
    """

    path: Path
    signer: Ed25519PrivateKey
    handle: BinaryIO
    count: int
    tip: str
    expected: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Lines that stand in the file already, replayed or not."""
        self.known = self.count + len(self.expected)

    def append(self, events: Iterable[Event], *, head: int | None = None) -> None:
        """Write the events, then sync once; on return they are on disk.

        Args:
            events: what happened.
            head: the round to close with a signed line over the whole chain; None = no head.

        Raises:
            LedgerError: a replayed round differs from what was written before.
            RuntimeError: the ledger is closed.
        """
        if self.handle.closed:
            raise RuntimeError(f"{self.path}: append after close")
        fresh = [raw for event in events for raw in self._link(event)]
        if head is not None:
            signature = self.signer.sign(self.tip.encode()).hex()
            fresh += self._link({"type": "head", "round": head, "signature": signature})
        if fresh:
            self.handle.write(b"".join(fresh))
            self.handle.flush()
            os.fsync(self.handle.fileno())

    def _link(self, event: Event) -> list[bytes]:
        """Chain one event: its line if it must be written, nothing if it stands there already."""
        seq, body = self.count + 1, dict(event)
        digest = _digest(seq, self.tip, body)
        raw = _canonical({"seq": seq, "prev": self.tip, "event": body, "hash": digest}) + b"\n"
        if self.expected and self.expected.pop(0) != raw:
            raise LedgerError(
                f"{self.path}:{seq}: the replayed round differs from what was written before the interruption; "
                "was the seed, the configuration or the code changed?"
            )
        known = self.count < self.known
        self.count, self.tip = seq, digest
        return [] if known else [raw]

    def close(self) -> None:
        """Release the file and its lock; closing twice is fine."""
        if not self.handle.closed:
            self.handle.close()


def create_ledger(path: Path, signer: Ed25519PrivateKey, genesis: Event) -> Ledger:
    """A new ledger whose first line is ``genesis`` plus the signer's public key.

    Raises:
        LedgerError: the file exists.
    """
    if path.exists():
        raise LedgerError(f"{path}: a ledger exists already; a ledger is never overwritten")
    handle = _locked(path)
    ledger = Ledger(path, signer, handle, 0, GENESIS)
    try:
        ledger.append([{**genesis, "type": "plan", "key": public_hex(signer)}])
    except BaseException:
        ledger.close()
        raise
    return ledger


def open_ledger(path: Path, signer: Ed25519PrivateKey, *, replay_from: int | None = None) -> Ledger:
    """Open an existing ledger to go on writing.

    A last line without its newline was never synced, so nothing was drawn or sent on its word: it is cut off.

    Args:
        path: the ledger.
        signer: must be the key that the first line names.
        replay_from: number of lines at the last checkpoint; lines after it are expected to be written again, byte for
            byte (a seeded simulation). None = whatever is there stands, and what follows is new.

    Raises:
        LedgerError: the ledger is locked by another process, broken, of another key, or shorter than the checkpoint.
    """
    if not path.exists():
        raise LedgerError(f"{path}: no ledger here")
    handle = _locked(path)
    try:
        _cut_torn_line(path)
        tip, count, at_checkpoint = GENESIS, 0, GENESIS
        for line in read_ledger(path):
            if line.number == 1 and line.event["key"] != public_hex(signer):
                raise LedgerError(f"{path}:1: the ledger belongs to another key")
            tip, count = line.hash, line.number
            if line.number == replay_from:
                at_checkpoint = tip
        if replay_from is None or replay_from == count:
            return Ledger(path, signer, handle, count, tip)
        if replay_from > count:
            raise LedgerError(f"{path}: holds {count} lines, the checkpoint was made at {replay_from}: lines were lost")
        with path.open("rb") as lines:
            rest = list(lines)[replay_from:]
        return Ledger(path, signer, handle, replay_from, at_checkpoint, rest)
    except BaseException:
        handle.close()
        raise


def public_hex(signer: Ed25519PrivateKey) -> str:
    """The raw public key in hex, as ledgers name it."""
    return signer.public_key().public_bytes_raw().hex()


def _locked(path: Path) -> BinaryIO:
    handle = path.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise LedgerError(f"{path}: in use by another process; two writers would spend one budget twice") from error
    return handle


def _cut_torn_line(path: Path) -> None:
    raw = path.read_bytes()
    if raw and not raw.endswith(b"\n"):
        os.truncate(path, raw.rfind(b"\n") + 1)


def _raw_lines(handle: BinaryIO, path: Path) -> Iterator[bytes]:
    number = 0
    while raw := handle.readline(LINE_LIMIT):
        number += 1
        if not raw.endswith(b"\n"):
            what = "is longer than any ledger line" if len(raw) == LINE_LIMIT else "is cut off"
            raise LedgerError(f"{path}:{number}: the line {what}")
        yield raw


def _parse(raw: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{path}:{number}: not a JSON line") from error
    if (
        not isinstance(line, dict)
        or set(line) != {"seq", "prev", "event", "hash"}
        or not isinstance(line["event"], dict)
    ):
        raise LedgerError(f"{path}:{number}: a ledger line has exactly seq, prev, event and hash")
    return line


def _verify_head(event: Event, previous: str, key: Ed25519PublicKey | None, path: Path, number: int) -> None:
    try:
        if key is None:
            raise ValueError("no key")
        key.verify(bytes.fromhex(str(event["signature"])), previous.encode())
    except (InvalidSignature, ValueError, KeyError) as error:
        raise LedgerError(f"{path}:{number}: the round head's signature does not fit the chain and the key") from error


def _public_key(event: Event, path: Path) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(event["key"])))
    except (KeyError, ValueError) as error:
        raise LedgerError(f"{path}:1: the first line must be the plan and name the signer's key") from error


def _canonical(value: object) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise LedgerError(f"a ledger event cannot be written as JSON: {error}") from error


def _digest(seq: int, previous: str, event: object) -> str:
    return hashlib.sha256(_canonical([seq, previous, event])).hexdigest()
