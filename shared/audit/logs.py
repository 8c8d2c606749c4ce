"""One ledger's file to one log, in bounded memory, whatever is in the file.

``shared/privacy/chain.py`` verifies each line; what was read before a line that does not verify is kept. A hostile file
can make an audit fail, never crash, and never take more memory than :data:`HELD` and one line of
:data:`MOST_VALUES` values.
"""

from __future__ import annotations

import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from shared.audit.evidence import Charge, ClientLog, Head, Payment, Pin, Refusal, Sealed, ServerLog, Sum
from shared.audit.findings import Finding, Outcome, Place, Value
from shared.audit.records import (
    ClientRecord,
    Kept,
    Odd,
    Opened,
    ServerRecord,
    client_record,
    opened,
    plan_of,
    server_record,
)
from shared.errors import LedgerError
from shared.privacy.chain import GENESIS, Line, Receipt, raw_lines, read_ledger
from shared.privacy.plan import Kind

LARGEST: Final = 512 << 20  # bytes of one file: a million rounds of a client, 10,000 rounds of a server
HELD: Final = 400 << 20  # bytes that all records of an audit may take
MOST_VALUES: Final = 1_000_000  # in one line: in memory a value takes a hundred times what a bracket takes in a file
MOST_ODD: Final = 20  # kinds of odd entries of one ledger that are told apart
SHOWN: Final = 5  # line numbers of a finding
PACE: Final = 1.0  # seconds between two words of progress
_RECORD: Final = 200  # bytes: an object, its numbers, its place in a list
_INTENT: Final = 400  # what a replay of decisions is told of a charge
_TEXT: Final = 120  # a text, its place in a table
_RECEIPT: Final = 600
_EVERY: Final = 512  # lines between two looks at the clock

Tell = Callable[[str], None]
T = TypeVar("T")


@dataclass
class Room:
    """Memory left to the records of an audit. Not frozen: it is spent as lines are read."""

    left: int = HELD
    known: set[str] = field(default_factory=set)

    def take(self, record: object, place: str) -> None:
        """Charge a record, a dataclass with slots.

        Raises:
            LedgerError: no room is left.
        """
        names: tuple[str, ...] = getattr(type(record), "__slots__", ())
        self.left -= _RECORD + _INTENT * isinstance(record, Charge)
        for name in names:
            self.left -= self._cost(getattr(record, name))
        if self.left < 0:
            raise LedgerError(
                f"{place}: this and what was read before take more than {HELD >> 20} MiB of memory: audit fewer ledgers"
            )

    def _cost(self, value: object) -> int:
        if type(value) is str:
            return self._text(value)
        if isinstance(value, Receipt):
            return _RECEIPT
        if type(value) is tuple:  # of names, or of receipts with theirs
            return 8 * len(value) + sum(map(self._cost, value))
        return weight(value) if isinstance(value, dict) else 0

    def _text(self, value: str) -> int:
        if value in self.known:
            return 0
        self.known.add(value)
        return _TEXT + len(value)


@dataclass
class Book:
    """What was read of one file so far. Not frozen: lines are added to it.

    Attributes:
        opened: the first line; None = it could not be read.
        records: by type.
        lines, tip: how many were read, and the hash of the last.
        broken: as in :class:`shared.audit.evidence.ServerLog`.
    """

    file: str
    opened: Opened | None = None
    records: dict[type, list[Any]] = field(default_factory=dict)
    lines: int = 0
    tip: str = GENESIS
    broken: str | None = None

    def of(self, kind: type[T]) -> tuple[T, ...]:
        """All records of a type, in order."""
        return tuple(self.records.get(kind, ()))

    def add(self, record: object) -> None:
        """Keep a record."""
        self.records.setdefault(type(record), []).append(record)


def weight(value: object) -> int:
    """Bytes that a value of JSON takes in memory; iterative, since it may be deep."""
    total = 0
    rest: list[object] = [value]
    while rest:
        one = rest.pop()
        total += sys.getsizeof(one)
        if isinstance(one, dict):
            rest += one.keys()
            rest += one.values()
        elif isinstance(one, list):
            rest += one
    return total


def check_file(path: Path, largest: int = LARGEST) -> int:
    """Bytes of a plain file that an audit may open.

    Raises:
        LedgerError: nothing there, something that is no file (opening a pipe would wait for ever), or too large.
    """
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise LedgerError(f"{path}: no readable file here ({why})") from error
    if not stat.S_ISREG(state.st_mode):
        raise LedgerError(f"{path}: not a plain file, so it is not opened")
    if state.st_size > largest:
        raise LedgerError(f"{path}: {state.st_size:,} bytes, more than the {largest:,} that an audit reads of one file")
    return state.st_size


def read_book(path: Path, file: str, room: Room, tell: Tell) -> Book:
    """Read a ledger as far as it verifies.

    Args:
        path: a plain file (:func:`check_file`).
        file: how findings name it.
        room: memory left.
        tell: told about once a second how far it is.
    """
    book = Book(file)
    try:
        for line in _watched(path, file, tell):
            record = _read(book, line)
            if isinstance(record, Opened):
                book.opened = record
            else:
                book.add(record)
            room.take(record, f"{path}:{line.number}")
            book.lines, book.tip = line.number, line.hash
        book.broken = None if book.lines else "the file is empty"
    except LedgerError as error:
        book.broken = _without_place(str(error), path)
    except (ArithmeticError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError) as error:
        book.broken = f"the line cannot be read: {type(error).__name__}"
    return book


def _read(book: Book, line: Line) -> Opened | ServerRecord | ClientRecord:
    if line.number == 1:
        return opened(line)
    servers = book.opened is None or book.opened.server
    return server_record(line, book.tip) if servers else client_record(line, book.tip)


def server_log(book: Book) -> tuple[ServerLog, list[Finding]]:
    """A server's ledger, and what is odd in it."""
    first: Mapping[str, Any] = book.opened.event if book.opened else {}
    plan, why = plan_of(first.get("plan"))
    odd = odd_findings(book)
    if book.opened and plan is None:
        odd.append(Finding(1, "plan-unreadable", "fail", {"file": book.file, "why": why}, (Place(book.file, (1,)),)))
    kept, charges = book.of(Kept), book.of(Charge)
    told = [(one.line, one.event) for one in kept if one.event["type"] != "end"]
    log = ServerLog(
        file=book.file,
        key=book.opened.key if book.opened else None,
        kind=_kind(first.get("kind")),
        run=_short(first.get("run")),
        plan=plan,
        named=_mapping(first.get("plan")),
        catalogue=_short(first.get("catalogue")),
        config=_short(first.get("config")),
        charges=charges,
        sums=book.of(Sum),
        heads=book.of(Head),
        events=tuple(sorted([*told, *((one.line, _intent(one)) for one in charges)], key=lambda pair: pair[0])),
        ends=tuple((one.line, one.event) for one in kept if one.event["type"] == "end"),
        lines=book.lines,
        broken=book.broken,
    )
    return log, odd


def client_log(book: Book) -> tuple[ClientLog, list[Finding]]:
    """A client's ledger, and what is odd in it."""
    odd, pins = odd_findings(book), book.of(Pin)
    bad = [pin for pin in pins if pin.plan is None]
    if bad:
        places = (Place(book.file, tuple(pin.line for pin in bad[:SHOWN])),)
        values = {"file": book.file, "why": plan_of(bad[0].named)[1]}
        odd.append(Finding(1, "plan-unreadable", "fail", values, places))
    log = ClientLog(
        file=book.file,
        key=book.opened.key if book.opened else None,
        pins=pins,
        payments=book.of(Payment),
        results=book.of(Sealed),
        refusals=book.of(Refusal),
        heads=book.of(Head),
        lines=book.lines,
        broken=book.broken,
    )
    return log, odd


def odd_findings(book: Book) -> list[Finding]:
    """One finding for each kind of odd entry, however many there are."""
    found: dict[tuple[str, str, str], list[int]] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for one in book.of(Odd):
        name: tuple[str, str, str] = one.check, one.type, one.field
        if name not in found and len(found) >= MOST_ODD:
            name = one.check, "...", ""  # a hostile file may make up a type for every line
        counts[name] += 1
        lines = found.setdefault(name, [])
        if len(lines) < SHOWN:
            lines.append(one.line)
    made = []
    for (check, kind, field_), lines in found.items():
        outcome: Outcome = "cannot tell" if check == "entry-unknown" else "fail"
        values: dict[str, Value] = {"type": kind, "count": counts[check, kind, field_]}
        values |= {"field": field_} if check == "entry-malformed" else {}
        made.append(Finding(7, check, outcome, values, (Place(book.file, tuple(lines)),)))
    return made


def _watched(path: Path, file: str, tell: Tell) -> Iterator[Line]:
    """Verified lines, none of which is parsed before its values are counted."""
    last, read, size = time.monotonic(), 0, max(1, path.stat().st_size)
    for bytes_, line in zip(_screened(path), read_ledger(path), strict=False):
        read += bytes_
        if line.number % _EVERY == 0 and time.monotonic() - last >= PACE:
            last = time.monotonic()
            tell(f"{file}: {line.number:,} lines verified, {100 * read // size} %")
        yield line


def _screened(path: Path) -> Iterator[int]:
    """Bytes of each line that is not made to fill memory.

    Raises:
        LedgerError: as :func:`shared.privacy.chain.raw_lines`; or a line of too many values.
    """
    for number, raw in enumerate(raw_lines(path), 1):
        if len(raw) > MOST_VALUES and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MOST_VALUES:
            raise LedgerError(f"{path}:{number}: a line of more than {MOST_VALUES:,} values")
        yield len(raw)


def _without_place(sentence: str, path: Path) -> str:
    """A sentence of the chain without ``path:number: ``, which a finding has beside it."""
    rest = sentence.removeprefix(str(path))
    return rest.lstrip(":0123456789 ") if rest != sentence else sentence


def _intent(charge: Charge) -> dict[str, Any]:
    """What a replay of decisions looks at in an intent."""
    return {"type": "intent", "round": charge.round, "attempt": charge.attempt, "release": charge.release}


def _kind(value: object) -> Kind | None:
    if value == "simulation":
        return "simulation"
    return "deployment" if value == "deployment" else None


def _short(value: object) -> str:
    return value[:256] if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
