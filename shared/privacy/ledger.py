"""The ledger: append-only, hash-chained JSON lines; round heads signed with Ed25519.

One line, its keys sorted, no spaces, nothing else: a line has one spelling, and every other is refused::

    {"event":{"type":"intent",...},"hash":"<sha256 of seq, prev, event>","prev":"<hash of line 6>","seq":7}

Types of event: ``plan`` (the first line: kind, plan, public key), ``intent`` (before anything is drawn or sent),
``result``, ``decline``, ``decision``, ``head`` (closes a round: its number and the chain so far, signed). Many lines,
one sync. What stands after the last head is chained, not signed.

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
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

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
    """Read and verify a ledger line by line: chain, order, spelling, and the signature of every head.

    A line is yielded before the lines after it are read: whoever needs the whole chain verified exhausts the iterator.

    Args:
        path: the ledger.
        key: the signer; None = the key that the first line names.

    Raises:
        LedgerError: names the file, the line and what is wrong there (edited, reordered, dropped, truncated, forged).
    """
    previous, signer = GENESIS, key
    for number, raw in enumerate(_raw_lines(path), 1):
        place = f"{path}:{number}"
        line = _parse(raw, place)
        if line["seq"] != number:
            got = str(line["seq"])[:20]
            raise LedgerError(f"{place}: sequence number {got}, expected {number}: lines dropped or reordered")
        if line["prev"] != previous:
            raise LedgerError(f"{place}: does not continue the line before: lines edited, dropped or reordered")
        expected, digest = _seal(number, previous, line["event"], place)
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


@dataclass
class Ledger:
    """An open ledger: the only writer of its file, which stays locked until :meth:`close`.

    Not frozen: it stands for a file, and is the one thing in the privacy core that has a state.

    Attributes:
        path, signer, handle: the file, its key, and the handle that holds the lock.
        count: lines that stand, replayed lines included.
        tip: hash of the last of them.
        expected: lines after ``count`` that are to be written again, byte for byte.
    """

    path: Path
    signer: Ed25519PrivateKey
    handle: BinaryIO
    count: int
    tip: str
    expected: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Where the expected lines begin."""
        self.start = self.count

    def append(self, events: Iterable[Event], *, head: int | None = None) -> None:
        """Write the events, then sync once; on return they are on disk. All of them or, on an error, none.

        Args:
            events: what happened.
            head: the round to close with a signed line over the whole chain; None = no head.

        Raises:
            LedgerError: a replayed round differs from what was written before; an event that is no JSON with a type.
            OSError: the disk refuses; the ledger is closed then, and opening it again cuts off what is torn.
            RuntimeError: the ledger is closed.
        """
        if self.handle.closed:
            raise RuntimeError(f"{self.path}: append after close")
        count, tip, fresh = self.count, self.tip, bytearray()
        for event in chain(events, () if head is None else (None,)):
            body = self._head(tip, head) if event is None else event
            raw, tip = _seal(count + 1, tip, body, f"{self.path}:{count + 1}")
            if not self._known(raw, count):
                fresh += raw
            count += 1
        if fresh:
            self._write(fresh)
        self.count, self.tip = count, tip

    def _head(self, tip: str, head: int | None) -> Event:
        return {"type": "head", "round": head, "signature": self.signer.sign(_signed(tip, head)).hex()}

    def _known(self, raw: bytes, count: int) -> bool:
        """Whether the line stands in the file already, to be replayed."""
        place = count - self.start
        if place >= len(self.expected):
            return False
        if self.expected[place] != raw:
            raise LedgerError(
                f"{self.path}:{count + 1}: the replayed round differs from what was written before the interruption; "
                "was the seed, the configuration or the code changed?"
            )
        return True

    def _write(self, fresh: bytes | bytearray) -> None:
        rest = memoryview(fresh)
        try:
            while rest:
                rest = rest[os.write(self.handle.fileno(), rest) :]
            os.fsync(self.handle.fileno())
        except BaseException:
            self.close()  # half a line may stand there: nothing may be chained to it
            raise

    def close(self) -> None:
        """Release the file and its lock; closing twice is fine."""
        if not self.handle.closed:
            self.handle.close()


def create_ledger(path: Path, signer: Ed25519PrivateKey, genesis: Event) -> Ledger:
    """A new ledger whose first line is ``genesis`` plus the signer's public key.

    Raises:
        LedgerError: the file exists.
        OSError: the disk refuses; no file is left then.
    """
    try:
        handle = _locked(path, "xb")
    except FileExistsError as error:
        raise LedgerError(f"{path}: a ledger exists already; a ledger is never overwritten") from error
    ledger = Ledger(path, signer, handle, 0, GENESIS)
    try:
        ledger.append([{**genesis, "type": "plan", "key": public_hex(signer)}])
        _sync_folder(path.parent)
    except BaseException:
        ledger.close()
        path.unlink(missing_ok=True)  # nothing was promised on its word
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
        LedgerError: the ledger is missing, empty, locked by another process, broken, of another key, or shorter than
            the checkpoint.
    """
    if not path.exists():
        raise LedgerError(f"{path}: no ledger here")
    handle = _locked(path, "ab")
    try:
        return _opened(path, signer, handle, replay_from)
    except BaseException:
        handle.close()
        raise


def public_hex(signer: Ed25519PrivateKey) -> str:
    """The raw public key in hex, as ledgers name it."""
    return signer.public_key().public_bytes_raw().hex()


def _opened(path: Path, signer: Ed25519PrivateKey, handle: BinaryIO, replay_from: int | None) -> Ledger:
    _cut_torn_line(path)
    tips = [GENESIS, *(line.hash for line in read_ledger(path, key=signer.public_key()))]
    count = len(tips) - 1
    if count == 0:
        raise LedgerError(f"{path}: empty, so nothing was ever released on its word: delete it to begin anew")
    if replay_from is None:
        return Ledger(path, signer, handle, count, tips[count])
    if not 0 <= replay_from <= count:
        raise LedgerError(f"{path}: holds {count} lines, the checkpoint was made at {replay_from}: lines were lost")
    rest = list(_raw_lines(path))[replay_from:]
    return Ledger(path, signer, handle, replay_from, tips[replay_from], rest)


def _locked(path: Path, mode: Literal["ab", "xb"]) -> BinaryIO:
    handle = path.open(mode)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise LedgerError(f"{path}: in use by another process; two writers would spend one budget twice") from error
    return handle


def _sync_folder(folder: Path) -> None:
    """Without this a new file may be gone after a power cut, and its budget with it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as handle:
        start = max(0, handle.seek(0, os.SEEK_END) - LINE_LIMIT)
        handle.seek(start)
        end = handle.read()
        newline = end.rfind(b"\n")
        if newline + 1 < len(end) and (newline >= 0 or start == 0):
            handle.truncate(start + newline + 1)


def _raw_lines(path: Path) -> Iterator[bytes]:
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
        raise LedgerError(f"{place}: the first line must be the plan and name the signer's key") from error
    if event["type"] != "plan":
        raise LedgerError(f"{place}: the first line must be the plan, not {event['type'][:20]!r}")
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


def _seal(seq: int, previous: str, event: Event, place: str) -> tuple[bytes, str]:
    """A line's bytes, newline included, and its hash."""
    if not isinstance(event.get("type"), str):
        raise LedgerError(f"{place}: an event names its type")
    try:
        body = json.dumps(dict(event), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise LedgerError(f"{place}: the event cannot be written as JSON: {error}") from error
    digest = hashlib.sha256(b'[%d,"%s",%s]' % (seq, previous.encode(), body)).hexdigest()
    raw = b'{"event":%s,"hash":"%s","prev":"%s","seq":%d}\n' % (body, digest.encode(), previous.encode(), seq)
    if len(raw) > LINE_LIMIT:
        raise LedgerError(f"{place}: a line of {len(raw)} bytes, more than the {LINE_LIMIT} that can be read back")
    return raw, digest
