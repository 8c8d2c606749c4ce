"""Behaviour at rest on a device: SQLite whose every row is sealed, and which can prove that it forgot.

What stands in clear is how many pages there are, of 256 events each, and an 8-byte name of the key. There is no column
of items, not even of pseudonyms, and none of days: how often each pseudonym occurs gives away which item it is
(M. Naveed, S. Kamara, C. V. Wright, "Inference attacks on property-preserving encrypted databases", CCS 2015), and a
million events are opened in under a second, so that nothing needs an index.

Two keys: the vault key, which ``client/vault_key.py`` keeps, opens the head; the head holds the page key, which opens
the pages. To forget is to seal what stays under a fresh page key and to destroy the old one: on flash memory an
overwritten block may survive (M. Wei et al., "Reliably erasing data from flash-based solid state drives", FAST 2011),
but then nothing opens it without the head of that time. The head also counts the pages and sums them up, so that a
page that was taken away, exchanged or put back to an earlier state is noticed. A folder that is put back as a whole is
a restored backup, which only the process that has it open can notice.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import numpy as np

from client.behaviour import Behaviour, Events, chosen, events_of, history_of, oldest_first
from client.sealing import KEY, Unreadable, seal, unseal
from client.store import ClientStore
from client.traces import database_files, found_in, probes
from client.vault_account import Forgotten, Summary
from client.vault_file import (
    PATIENCE,
    BusyError,
    Head,
    WrongKeyError,
    add_events,
    ciphertexts,
    connected,
    create,
    in_words,
    key_name,
    put_head,
    read_events,
    read_head,
    replace_events,
)
from shared.catalogue import Catalogue
from shared.errors import DataError
from shared.history import DAY, KINDS

__all__ = [
    "Behaviour",
    "Events",
    "Forgotten",
    "Summary",
    "Vault",
    "WrongKeyError",
    "history_of",
    "open_vault",
    "opens",
    "store_of",
]

PERSON: Final = "person"  # the one user of a device; no name leaves it, so none is needed


class Vault:
    """An open vault; its methods may be called by any thread. A class, because it holds a connection."""

    def __init__(self, path: Path, key: bytes, connection: sqlite3.Connection) -> None:
        """Use :func:`open_vault`."""
        self.path = path
        self._key = key
        self._connection = connection
        self._lock = threading.RLock()
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._connection.close()

    def record(self, events: Iterable[Behaviour]) -> int:
        """Add events: all of them are on disk on return, or none.

        Returns:
            How many were added.

        Raises:
            BusyError: another process has been writing for more than ten seconds.
            DataError: the file is damaged.
            OSError: the disk is full or refuses; the vault is as it was.
        """
        new = events_of(events)
        if not len(new):
            return 0
        with self._transaction("IMMEDIATE"):
            head = self._head()
            self._save(add_events(self._connection, self.path, head, new), self._key)
        return len(new)

    def events(self) -> Events:
        """All events, oldest first.

        Raises:
            DataError: the file is damaged.
        """
        with self._transaction("DEFERRED"):
            return oldest_first(self._events(self._head()))

    def count(self) -> int:
        """How many events there are."""
        with self._transaction("DEFERRED"):
            return self._head().events

    def secret(self) -> bytes:
        """32 bytes of this vault alone, for keyed choices that shall be stable; another one once all is forgotten."""
        with self._transaction("DEFERRED"):
            return self._head().secret

    def summary(self) -> Summary:
        """What is stored, counted."""
        events = self.events()
        oldest, newest = (float(events.time[0]), float(events.time[-1])) if len(events) else (None, None)
        by_kind = np.bincount(events.kind, minlength=len(KINDS))
        size = sum(file.stat().st_size for file in database_files(self.path)[:2])
        return Summary(len(events), dict(zip(KINDS, by_kind.tolist(), strict=True)), oldest, newest, size)

    def changed(self) -> int:
        """A number that is another one once another process, or another open vault, wrote; own writes leave it."""
        with self._lock, in_words(self.path):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def epoch(self) -> bytes:
        """A name of the key that the events are under; another one once anything was forgotten by any process."""
        with self._transaction("DEFERRED"):
            return key_name(self._head().key)

    def seal(self, name: str, plain: bytes, epoch: bytes) -> bytes:
        """Seal something that was learned from the events; it can be opened until anything is forgotten.

        Args:
            name: what it is, to open it by.
            plain: the content.
            epoch: of :meth:`epoch`, from before the events were read that it was learned from.

        Raises:
            DataError: something was forgotten since, which the content may still know.
        """
        with self._transaction("DEFERRED"):
            head = self._head()
            if key_name(head.key) != epoch:
                raise DataError(f"{name}: learned before something was forgotten; make it anew")
            return seal(head.key, f"kept {name}", plain)

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Open what :meth:`seal` gave.

        Raises:
            DataError: it is damaged, of another name, or from before something was forgotten.
        """
        try:
            with self._transaction("DEFERRED"):
                return unseal(self._head().key, f"kept {name}", sealed)
        except Unreadable as error:
            raise DataError(f"{name}: damaged, or sealed before something was forgotten; make it anew") from error

    def purge(self, now: float, ttl_days: int) -> int:
        """Drop events that are older than their time to live, for good: what stays is sealed under a fresh page key.

        Args:
            now: unix seconds.
            ttl_days: days that an event may stay.

        Returns:
            How many went.
        """
        with self._transaction("IMMEDIATE"):
            head = self._head()
            events = self._events(head)
            old = events.time < now - ttl_days * DAY
            if not old.any():
                return 0
            fresh = replace(head, key=os.urandom(KEY))
            self._save(replace_events(self._connection, fresh, events.taken(~old)), self._key)
        self._tidy()
        return int(old.sum())

    def forget(self, items: Collection[str] | None = None, before: float | None = None) -> Forgotten:
        """Forget events for good, destroy the key that they were under, and look whether they are gone.

        What stays is sealed under a fresh key, and the file is rewritten. Killed half way, either nothing has happened
        or the next :func:`open_vault` rewrites the file; to call it again is always right.

        Args:
            items: of these items; None = of any.
            before: older than this, unix seconds; None = of any time. Neither = everything, the secret, too.

        Raises:
            DataError: damaged, or another process is reading all the while; or a piece was found: nothing is proved.
            OSError: the disk refuses; call again when it does not.
        """
        everything = items is None and before is None
        with self._transaction("IMMEDIATE"):
            head = self._head()
            events = self._events(head)
            doomed = chosen(events, items, before)
            old = ciphertexts(self._connection)
            fresh = replace(head, key=os.urandom(KEY), secret=os.urandom(KEY) if everything else head.secret)
            after = replace_events(self._connection, fresh, events.taken(~doomed))
            self._save(after, self._key)
            still = int(chosen(self._events(after), items, before).sum())
            if still:
                raise RuntimeError(f"{self.path}: {still} events would stay that were to be forgotten; nothing is done")
        self._tidy()
        sought = probes(old)
        contents = [file.read_bytes() for file in database_files(self.path)]
        found = sum(found_in(content, sought) for content in contents)
        if found:
            raise DataError(f"{self.path}: forgotten, but {found} pieces of old pages were not erased; forget again")
        searched = sum(map(len, contents))
        gone = int(doomed.sum())
        return Forgotten(gone, after.events, head.pages, after.pages, len(old), len(sought), searched, found)

    def rekey(self, key: bytes) -> None:
        """Put another vault key in place, and seal everything under a fresh page key.

        Args:
            key: the new vault key, 32 bytes; on disk already, or the vault is lost with it.
        """
        with self._lock:
            with self._transaction("IMMEDIATE"):
                head = self._head()
                fresh = replace(head, key=os.urandom(KEY))
                self._save(replace_events(self._connection, fresh, self._events(head)), key)
            self._key = key
        self._tidy()

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        """Whole or not at all."""
        with self._lock, in_words(self.path):
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _head(self) -> Head:
        head = read_head(self._connection, self.path, self._key)
        if head.writes < self._seen:
            raise DataError(f"{self.path}: put back to an earlier state while it was open")
        self._seen = head.writes
        return head

    def _events(self, head: Head) -> Events:
        return read_events(self._connection, self.path, head)

    def _save(self, head: Head, key: bytes) -> None:
        """The head, under a key."""
        put_head(self._connection, replace(head, writes=head.writes + 1), key)

    def _tidy(self) -> None:
        """Rewrite the file without what was deleted, and empty the log."""
        with self._lock, in_words(self.path):
            self._empty_log()
            self._connection.execute("VACUUM")
            with self._transaction("IMMEDIATE"):
                self._save(replace(self._head(), untidy=False), self._key)
            self._empty_log()

    def _empty_log(self) -> None:
        """SQLite waits for readers by itself, but not for another process that is emptying the log just now."""
        end = time.monotonic() + PATIENCE
        while self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > end:
                raise BusyError(f"{self.path}: another process has been reading for more than {PATIENCE:g} s; stop it")
            time.sleep(0.01)

    def tidied(self) -> Self:
        """Finish a forgetting that was killed half way; used by :func:`open_vault`."""
        with self._transaction("DEFERRED"):
            untidy = self._head().untidy
        if untidy:
            with suppress(DataError, OSError):  # a full disk, or another process that is at it: the next one does it
                self._tidy()
        return self


def open_vault(path: Path, key: bytes) -> Vault:
    """A vault, made when there is none yet.

    Args:
        path: the database.
        key: 32 bytes (``client/vault_key.py``).

    Raises:
        WrongKeyError: another key opens it.
        DataError: not a vault, cut short or damaged.
        OSError: the disk refuses.
    """
    if len(key) != KEY:
        raise DataError(f"{path}: a vault's key has {KEY} bytes, not {len(key)}")
    if not path.exists():
        create(path, key)
    vault = Vault(path, key, connected(path))
    try:
        return vault.tidied()
    except BaseException:
        vault.close()
        raise


def opens(path: Path, key: bytes) -> bool:
    """Whether a vault is there that this key opens."""
    if not path.exists():
        return False
    try:
        open_vault(path, key).close()
    except WrongKeyError:
        return False
    return True


def store_of(vault: Vault, catalogue: Catalogue, client: str = "device") -> ClientStore:
    """The vault as tasks and training read it: one user, items of this catalogue.

    Args:
        vault: open.
        catalogue: whose items are known.
        client: the client's name.
    """
    history = history_of(vault.events(), catalogue.ids, vault.secret())
    return ClientStore(client, (PERSON,), (history,))
