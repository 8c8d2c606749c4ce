"""The ledger: append-only, hash-chained JSON lines; round heads signed with Ed25519 (``shared/privacy/chain.py``).

Types of event: ``plan`` (the first line of a server's ledger: kind, plan, public key) or ``opened`` (of a client's:
public key alone; its plans follow, one a run), ``intent`` (before anything is drawn or sent), ``result``, ``decline``,
``decision``, ``order``, ``head`` (closes a round: its number and the chain so far, signed). Many lines, one sync. What
stands after the last head is chained, not signed. The signed head is also handed out, as a receipt.

A seeded simulation that was killed replays its rounds: a line that is appended again with the same bytes is recognised
and charged once. Without a seed nothing is recognised: a retried round is a new intent and a new charge.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Literal, overload

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import LedgerError
from shared.files import sync_folder
from shared.privacy.chain import (
    GENESIS,
    Event,
    Line,
    Receipt,
    cut_torn_line,
    public_hex,
    raw_lines,
    read_ledger,
    seal_line,
    sign_head,
    verify_receipt,
)

__all__ = [
    "GENESIS",
    "Event",
    "Ledger",
    "Line",
    "Receipt",
    "create_ledger",
    "open_ledger",
    "public_hex",
    "read_ledger",
    "verify_receipt",
]

_HASH: Final = 32  # bytes


@dataclass
class Ledger:
    """An open ledger: the only writer of its file, which stays locked until :meth:`close`.

    Not frozen: it stands for a file, and is the one thing in the privacy core that has a state.

    Attributes:
        path, signer, handle: the file, its key, and the handle that holds the lock.
        hashes: of the lines that stand, replayed lines included; 32 bytes each.
        expected: lines after those that are to be written again, byte for byte.
    """

    path: Path
    signer: Ed25519PrivateKey
    handle: BinaryIO
    hashes: bytearray = field(default_factory=bytearray)
    expected: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Where the expected lines begin."""
        self.start = self.count

    @property
    def count(self) -> int:
        """Lines that stand."""
        return len(self.hashes) // _HASH

    @property
    def tip(self) -> str:
        """Hash of the last line that stands."""
        return self.hash_at(self.count)

    def hash_at(self, number: int) -> str:
        """Hash of line ``number``, 1-based; of number 0: what the first line continues."""
        return self.hashes[(number - 1) * _HASH : number * _HASH].hex() if number else GENESIS

    def holds(self, seq: int, tip: str) -> bool:
        """Whether a receipt ``seq, tip`` is this ledger's: that line stands and continues those lines.

        False = the ledger is behind its own receipt, or another one's. ``(0, "")`` stands for no receipt.
        """
        if seq == 0:
            return not tip
        return 0 < seq <= self.count and tip == self.hash_at(seq - 1)

    @overload
    def append(self, events: Iterable[Event]) -> None: ...

    @overload
    def append(self, events: Iterable[Event], *, head: int) -> Receipt: ...

    def append(self, events: Iterable[Event], *, head: int | None = None) -> Receipt | None:
        """Write the events, then sync once; on return they are on disk. All of them or, on an error, none.

        Args:
            events: what happened.
            head: the round to close with a signed line over the whole chain; None = no head.

        Returns:
            The signed head, as others may keep it; None without one.

        Raises:
            LedgerError: a replayed round differs from what was written before; an event that is no JSON with a type.
            OSError: the disk refuses; the ledger is closed then, and opening it again cuts off what is torn.
            RuntimeError: the ledger is closed.
        """
        if self.handle.closed:
            raise RuntimeError(f"{self.path}: append after close")
        fresh, hashes, tip, receipt = bytearray(), bytearray(), self.tip, None
        for event in events:
            tip = self._add(event, tip, fresh, hashes)
        if head is not None:
            receipt = sign_head(self.signer, self.count + len(hashes) // _HASH + 1, tip, head)
            self._add({"type": "head", "round": head, "signature": receipt.signature}, tip, fresh, hashes)
        if fresh:
            self._write(fresh)
        self.hashes += hashes
        return receipt

    def _add(self, event: Event, tip: str, fresh: bytearray, hashes: bytearray) -> str:
        """Seal one more line behind those in ``hashes``; into ``fresh`` unless it stands already. Its hash."""
        number = self.count + len(hashes) // _HASH + 1
        raw, digest = seal_line(number, tip, event, f"{self.path}:{number}")
        if not self._known(raw, number):
            fresh += raw
        hashes += bytes.fromhex(digest)
        return digest

    def _known(self, raw: bytes, number: int) -> bool:
        """Whether the line stands in the file already, to be replayed."""
        place = number - 1 - self.start
        if place >= len(self.expected):
            return False
        if self.expected[place] != raw:
            raise LedgerError(
                f"{self.path}:{number}: the replayed round differs from what was written before the interruption; "
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


def create_ledger(path: Path, signer: Ed25519PrivateKey, first: Event) -> Ledger:
    """A new ledger whose first line is ``first`` plus the signer's public key; of type ``plan`` unless it says another.

    Raises:
        LedgerError: the file exists.
        OSError: the disk refuses; no file is left then.
    """
    try:
        handle = _locked(path, "xb")
    except FileExistsError as error:
        raise LedgerError(f"{path}: a ledger exists already; a ledger is never overwritten") from error
    ledger = Ledger(path, signer, handle)
    try:
        ledger.append([{"type": "plan", **first, "key": public_hex(signer)}])
        sync_folder(path.parent)
    except BaseException:
        ledger.close()
        path.unlink(missing_ok=True)  # nothing was promised on its word
        raise
    return ledger


def open_ledger(
    path: Path,
    signer: Ed25519PrivateKey,
    *,
    replay_from: int | None = None,
    visit: Callable[[Line], None] = lambda _line: None,
) -> Ledger:
    """Open an existing ledger to go on writing.

    A last line without its newline was never synced, so nothing was drawn or sent on its word: it is cut off.

    Args:
        path: the ledger.
        signer: must be the key that the first line names.
        replay_from: number of lines at the last checkpoint; lines after it are expected to be written again, byte for
            byte (a seeded simulation). None = whatever is there stands, and what follows is new.
        visit: sees every line that stands, in order, so that whoever needs them reads the file once.

    Raises:
        LedgerError: the ledger is missing, empty, locked by another process, broken, of another key, or shorter than
            the checkpoint; what was visited by then must be forgotten.
    """
    if not path.exists():
        raise LedgerError(f"{path}: no ledger here")
    handle = _locked(path, "ab")
    try:
        return _opened(path, signer, handle, replay_from, visit)
    except BaseException:
        handle.close()
        raise


def _opened(
    path: Path,
    signer: Ed25519PrivateKey,
    handle: BinaryIO,
    replay_from: int | None,
    visit: Callable[[Line], None],
) -> Ledger:
    cut_torn_line(path)
    hashes, count = bytearray(), 0
    for line in read_ledger(path, key=signer.public_key()):
        count = line.number
        if replay_from is None or count <= replay_from:
            visit(line)
            hashes += bytes.fromhex(line.hash)
    if count == 0:
        raise LedgerError(f"{path}: empty, so nothing was ever released on its word: delete it to begin anew")
    if replay_from is None:
        return Ledger(path, signer, handle, hashes)
    if not 0 <= replay_from <= count:
        raise LedgerError(f"{path}: holds {count} lines, the checkpoint was made at {replay_from}: lines were lost")
    return Ledger(path, signer, handle, hashes, list(raw_lines(path))[replay_from:])


def _locked(path: Path, mode: Literal["ab", "xb"]) -> BinaryIO:
    handle = path.open(mode)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise LedgerError(f"{path}: in use by another process; two writers would spend one budget twice") from error
    return handle
