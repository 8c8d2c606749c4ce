"""Everything that an audit reads, and nothing that it judges: ledgers, what the run prints, the attack's result, keys.

A path that is nothing, or that no audit can open, is one sentence to the auditor. What stands in the files is somebody
else's: whatever is wrong there becomes a finding, so that the rest is still looked at.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.audit.evidence import ClientLog, Evidence, Printed, ServerLog
from shared.audit.fields import LONGEST_TEXT, OddError, digest
from shared.audit.findings import Finding, Place
from shared.audit.logs import LARGEST, MOST_VALUES, Book, Room, Tell, check_file, client_log, read_book, server_log
from shared.errors import DataError, LedgerError

SERVER: Final = "server"  # the server's name among keys
LARGEST_JSON: Final = 16 << 20  # bytes of summary.json, attack.json or a keys file
LINE: Final = frozenset({"seq", "prev", "event", "hash"})


@dataclass(frozen=True)
class _Found:
    """A file to read: where, how findings name it, and whether it is surely a client's ledger."""

    path: Path
    file: str
    sure: bool


def read_evidence(
    path: Path,
    *,
    client_ledgers: Path | None = None,
    keys: Path | None = None,
    empirical: bool = True,
    tell: Tell = lambda _sentence: None,
) -> Evidence:
    """Read a run or one ledger.

    Args:
        path: a run's folder, or a server's or client's ledger (its first line says which).
        client_ledgers: a folder of ``*.jsonl``, or of folders of them; the run's own are read besides.
        keys: TOML or JSON: ``server = "<hex>"`` and a table ``clients`` of name = "<hex>".
        empirical: whether ``attack.json`` is looked at.
        tell: told about once a second how far it is.

    Raises:
        LedgerError: nothing to read at ``path``, or a file that no audit opens (too large, a pipe).
        DataError: ``client_ledgers`` or ``keys`` is nothing of the kind.
    """
    known = {} if keys is None else read_keys(keys)
    run, ledger = (path, path / "ledger.jsonl") if path.is_dir() else (None, path)
    given = [] if client_ledgers is None else _given(client_ledgers)
    check_file(ledger)
    room = Room()
    book = read_book(ledger, "ledger.jsonl" if run else str(path), room, tell)
    findings: list[Finding] = []
    server: ServerLog | None = None
    books: list[Book] = []
    if _is_servers(book, ledger):
        server, findings = server_log(book)
    else:
        books.append(book)
    books += _books([*(_own(run) if run else ()), *given], room, tell, findings)
    clients: list[ClientLog] = []
    for one in _each_once(books):
        if one.opened is not None and one.opened.server:
            findings.append(_refused(7, "file-refused", one.file, "a server's ledger, where a client's is expected"))
            continue
        log, odd = client_log(one)
        clients.append(log)
        findings += odd
    printed = _json_of(run, "summary.json", 1, "summary-unreadable", findings)
    attack = _json_of(run, "attack.json", 9, "attack-unreadable", findings) if empirical else None
    return Evidence(
        server=server,
        clients=tuple(clients),
        keys=known,
        printed=None if printed is None else Printed("summary.json", printed),
        attack=attack,
        attack_file="attack.json" if run else "",
        empirical=empirical,
        reading=tuple(findings),
    )


def read_keys(path: Path) -> dict[str, str]:
    """The auditor's own list of keys: "server" or a client's name -> Ed25519 public key, hex.

    Raises:
        DataError: names the file and the entry that is none.
    """
    raw = _keys_content(path)
    clients = raw.get("clients", {})
    if set(raw) - {SERVER, "clients"} or not isinstance(clients, dict) or SERVER in clients:
        raise DataError(f'{path}: expected server = "<hex>" and a table clients of name = "<hex>", nothing else')
    named = {**({SERVER: raw[SERVER]} if SERVER in raw else {}), **clients}
    for name in named:
        try:
            digest(named, name)
        except OddError as error:
            raise DataError(f"{path}: the key of {name[:40]!r} must be 64 lower-case hexadecimal digits") from error
    return named


def _keys_content(path: Path) -> dict[str, Any]:
    try:
        check_file(path, LARGEST_JSON)
        text = path.read_bytes().decode()
        raw = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except LedgerError as error:
        raise DataError(str(error)) from error
    except (OSError, RecursionError, ValueError) as error:
        raise DataError(f"{path}: neither TOML nor JSON ({str(error)[:LONGEST_TEXT]})") from error
    return raw if isinstance(raw, dict) else {"": raw}


def _is_servers(book: Book, path: Path) -> bool:
    """By its first line; where that cannot be read, by what it seems to be."""
    if book.opened is not None:
        return book.opened.server
    try:
        with path.open("rb") as handle:
            return b'"type":"opened"' not in handle.read(4096)
    except OSError:
        return True


def _own(run: Path) -> Iterator[_Found]:
    """The clients' ledgers in a run's folder: one of the whole process, or one a worker."""
    single = run / "clients.jsonl"
    if single.exists() or single.is_symlink():
        yield _Found(single, "clients.jsonl", sure=True)
    for path in sorted((run / "home" / "clients").glob("*/ledger.jsonl")):
        yield _Found(path, path.relative_to(run).as_posix(), sure=True)


def _given(folder: Path) -> list[_Found]:
    """Every ``*.jsonl`` in a folder and in its folders."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --client-ledgers takes a folder of *.jsonl")
    paths = sorted([*folder.glob("*.jsonl"), *folder.glob("*/*.jsonl")])
    if not paths:
        raise DataError(f"{folder}: no *.jsonl in it or in its folders; --client-ledgers takes clients' ledgers")
    return [_Found(path, str(path), sure=False) for path in paths]


def _books(files: Sequence[_Found], room: Room, tell: Tell, findings: list[Finding]) -> list[Book]:
    """Clients' ledgers; a file that is refused becomes a finding, one that is no ledger is passed over, and said."""
    books = []
    for number, found in enumerate(files, 1):
        try:
            check_file(found.path, LARGEST)
            if not found.sure and not _is_clients(found.path):
                tell(f"{found.file}: no client's ledger, passed over")
                continue
        except (LedgerError, OSError) as error:
            findings.append(_refused(7, "file-refused", found.file, str(error)))
            continue
        books.append(read_book(found.path, found.file, room, _counted(tell, number, len(files))))
    return books


def _counted(tell: Tell, number: int, of: int) -> Callable[[str], None]:
    return tell if of == 1 else lambda sentence: tell(f"[{number:,} of {of:,}] {sentence}")


def _is_clients(path: Path) -> bool:
    """Whether a file may be a client's ledger: False only for what is whole and something else."""
    with path.open("rb") as handle:
        raw = handle.readline(1 << 16)
    try:
        first = json.loads(raw)
    except (ValueError, RecursionError):
        return True
    if not isinstance(first, dict) or LINE.isdisjoint(first):
        return False
    event = first.get("event")
    return not (isinstance(event, dict) and event.get("type") == "plan")


def _each_once(books: Sequence[Book]) -> Iterator[Book]:
    """Copies of one ledger count once; two *different* ledgers under one key are for a check to find."""
    seen: set[tuple[str, int, str | None]] = set()
    for book in books:
        name = book.tip, book.lines, book.broken
        if book.lines == 0 or name not in seen:
            seen.add(name)
            yield book


def _json_of(run: Path | None, name: str, clause: int, check: str, findings: list[Finding]) -> Mapping[str, Any] | None:
    """A JSON object in the run's folder; None = there is none, or one that cannot be read, which is a finding."""
    path = None if run is None else run / name
    if path is None or not (path.exists() or path.is_symlink()):
        return None
    try:
        return _object(path)
    except (LedgerError, OSError, RecursionError, ValueError) as error:
        findings.append(_refused(clause, check, name, str(error)))
        return None


def _object(path: Path) -> dict[str, Any]:
    """One object of JSON, not larger in memory than an audit can take."""
    check_file(path, LARGEST_JSON)
    raw = path.read_bytes()
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MOST_VALUES:
        raise LedgerError(f"{path}: more than {MOST_VALUES:,} values")
    content = json.loads(raw)
    if not isinstance(content, dict):
        raise LedgerError(f"{path}: not a JSON object")
    return content


def _refused(clause: int, check: str, file: str, why: str) -> Finding:
    return Finding(clause, check, "fail", {"file": file, "why": why[:LONGEST_TEXT]}, (Place(file),))
