"""The file of a vault: its two tables, its head, its pages, and SQLite's errors in this project's words."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from client.behaviour import Events, joined
from client.sealing import KEY, MODULUS, Unreadable, mark, packed, seal, unpacked, unseal
from client.traces import database_files
from shared.errors import DataError
from shared.files import sync_folder

PAGE: Final = 256  # events; all pages but the last are full, and the last is sealed anew with every event
PATIENCE: Final = 10.0  # seconds to wait for another process
_FORMAT: Final = 1
_TABLES: Final = """
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), key BLOB NOT NULL, sealed BLOB NOT NULL);
CREATE TABLE pages (number INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
"""
_DISK: Final = {  # what SQLite says -> what the system would
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}


class WrongKeyError(DataError):
    """A vault that another key opens."""


class BusyError(DataError):
    """A vault that another process has been at for too long; it may be free again soon."""


@dataclass(frozen=True)
class Head:
    """What is sealed under the vault key.

    Attributes:
        writes: rises with every write.
        events, pages: how many there are.
        last: number of the newest page; none is used twice, but by the same page with more events.
        total: sum of the pages' marks.
        key: of the pages.
        secret: of held-out items and pseudonyms; outlives every key, but not a forgetting of everything.
        untidy: something was deleted and the file was not rewritten since.
    """

    writes: int
    events: int
    pages: int
    last: int
    total: int
    key: bytes
    secret: bytes
    untidy: bool


def create(path: Path, key: bytes) -> None:
    """An empty vault at ``path``, whole or not at all; when another process is quicker, its own stands.

    Raises:
        DataError: something of a lost vault is there still.
        OSError: the disk refuses.
    """
    if database_files(path):
        raise DataError(f"{path}: is missing, but its log is there; restore both, or remove the log")
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with in_words(path), closing(_connection(draft)) as connection:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.executescript(f"BEGIN;{_TABLES}PRAGMA user_version = {_FORMAT};")
            put_head(connection, Head(0, 0, 0, 0, 0, os.urandom(KEY), os.urandom(KEY), untidy=False), key)
            connection.execute("COMMIT")
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def connected(path: Path) -> sqlite3.Connection:
    """A connection to a vault that is there: what is committed is on disk, what is deleted is overwritten.

    Raises:
        DataError: not a vault.
        OSError: the disk refuses.
    """
    with in_words(path):
        connection = _connection(path)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            for pragma in ("synchronous = FULL", "secure_delete = ON", "temp_store = MEMORY", "journal_size_limit = 0"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            connection.close()
            raise
    if version != _FORMAT:
        connection.close()
        raise DataError(f"{path}: not a vault of format {_FORMAT}, or cut short; restore a backup")
    return connection


def key_name(key: bytes) -> bytes:
    """Eight bytes that tell keys apart and nothing about them."""
    return hmac.digest(key, b"fedrecall vault key", hashlib.sha256)[:8]


def read_head(connection: sqlite3.Connection, path: Path, key: bytes) -> Head:
    """The head, opened.

    Raises:
        WrongKeyError: it was sealed under another key.
        DataError: it is damaged.
    """
    name, sealed = connection.execute("SELECT key, sealed FROM head").fetchone() or (key_name(key), b"")
    if name != key_name(key):
        raise WrongKeyError(f"{path}: this key does not open it: another vault's, or changed since")
    try:
        said = json.loads(unseal(key, "head", sealed))
    except Unreadable as error:
        raise DataError(f"{path}: the head is damaged; restore a backup") from error
    return Head(**said | {name: bytes.fromhex(said[name]) for name in ("key", "secret")})


def put_head(connection: sqlite3.Connection, head: Head, key: bytes) -> None:
    """The head, sealed under a vault key."""
    said = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(head).items()}
    sealed = seal(key, "head", json.dumps(said).encode())
    connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (key_name(key), sealed))


def ciphertexts(connection: sqlite3.Connection) -> list[bytes]:
    """Everything that is sealed."""
    return [row[0] for row in connection.execute("SELECT sealed FROM head UNION ALL SELECT sealed FROM pages")]


def read_events(connection: sqlite3.Connection, path: Path, head: Head) -> Events:
    """Of all pages, each as it was last written, none missing.

    Raises:
        DataError: a page was changed, exchanged, taken away, added, or put back to an earlier state.
    """
    pages = connection.execute("SELECT number, sealed FROM pages ORDER BY number").fetchall()
    parts = [_opened(path, head, number, sealed) for number, sealed in pages]
    total = sum(mark(head.key, number, sealed) for number, sealed in pages) % MODULUS
    if len(pages) != head.pages or total != head.total:
        raise DataError(f"{path}: pages were taken away or put back to an earlier state; restore a backup")
    return joined(parts)


def add_events(connection: sqlite3.Connection, path: Path, head: Head, new: Events) -> Head:
    """Pages with more events: the last one filled up, then new ones.

    Returns:
        The head that belongs to them.

    Raises:
        DataError: the last page is missing or damaged.
    """
    if not head.events % PAGE:
        return _inserted(connection, head, new)
    row = connection.execute("SELECT sealed FROM pages WHERE number = ?", (head.last,)).fetchone()
    if row is None:
        raise DataError(f"{path}: page {head.last} is missing; restore a backup")
    begun = _opened(path, head, head.last, row[0])
    if len(begun) != head.events % PAGE:
        raise DataError(f"{path}: page {head.last} was put back to an earlier state; restore a backup")
    connection.execute("DELETE FROM pages WHERE number = ?", (head.last,))
    without = replace(
        head,
        events=head.events - len(begun),
        pages=head.pages - 1,
        last=head.last - 1,
        total=(head.total - mark(head.key, head.last, row[0])) % MODULUS,
    )
    return _inserted(connection, without, joined([begun, new]))


def replace_events(connection: sqlite3.Connection, head: Head, events: Events) -> Head:
    """These events instead of all that there are.

    Returns:
        The head that belongs to them.
    """
    connection.execute("DELETE FROM pages")
    return _inserted(connection, replace(head, events=0, pages=0, total=0, untidy=True), events)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """SQLite's errors as this project's.

    Raises:
        OSError: the disk refused.
        BusyError: another process is at it.
        DataError: the file is damaged.
        RuntimeError: the vault was closed before.
    """
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise RuntimeError(f"{path}: {error}") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _DISK:
            raise OSError(_DISK[code], str(error), str(path)) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise BusyError(f"{path}: another process has been writing for more than {PATIENCE:g} s") from error
        raise DataError(f"{path}: not a vault, or damaged ({error}); restore a backup") from error
    except UnicodeDecodeError as error:  # of SQLite's own message, which quotes what is damaged
        raise DataError(f"{path}: not a vault, or damaged; restore a backup") from error


def _connection(path: Path) -> sqlite3.Connection:
    """To a file that is there; SQLite makes none."""
    address = path.absolute().as_uri() + "?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def _opened(path: Path, head: Head, number: int, sealed: bytes) -> Events:
    try:
        return unpacked(unseal(head.key, f"page {number}", sealed))
    except Unreadable as error:
        raise DataError(f"{path}: page {number} is damaged or exchanged; restore a backup") from error


def _inserted(connection: sqlite3.Connection, head: Head, events: Events) -> Head:
    rows = [
        (number, seal(head.key, f"page {number}", packed(events[start : start + PAGE])))
        for number, start in enumerate(range(0, len(events), PAGE), head.last + 1)
    ]
    connection.executemany("INSERT INTO pages VALUES (?, ?)", rows)
    return replace(
        head,
        events=head.events + len(events),
        pages=head.pages + len(rows),
        last=head.last + len(rows),
        total=(head.total + sum(mark(head.key, number, sealed) for number, sealed in rows)) % MODULUS,
    )
