"""A device's one object: behaviour, model and catalogue in, lists and reasons out; nothing of it needs a network.

Thread-safe: one lock around everything, as one person asks one thing at a time. A class, because it holds files open
and what was read from them. Other processes may write to the folder meanwhile: every request first looks whether they
did (:meth:`Device.refresh`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from client.adapting import Adapted, AdaptingTerms, personal_of, unadapted
from client.answers import Answer, Explained, Source, Standing, Wish
from client.behaviour import Behaviour, Events, events_of, history_of
from client.forgetting import Receipt, forget
from client.home import Home
from client.learning import ADAPTED, REPLAYED, adapted_bytes, adapted_of, learned, relearned
from client.mapped import NOBODY, MappedShelf
from client.reasons import explained
from client.recommending import check_request
from client.serving import NO_ITEMS, Person, answered
from client.shelving import CURRENT, NOTHING, open_shelf, read_current
from client.store import Event, with_event
from client.trends import NOTHING_TRENDS, read_trending
from client.vault import Summary, Vault, open_vault
from shared.errors import DataError
from shared.history import History

_NO_CATALOGUE: Final = "No catalogue has come from the server yet, so there is nothing to show."
_Stamp = tuple[int, int] | None


class Device:
    """See the module; made by :func:`open_device`."""

    def __init__(self, home: Home, key: bytes, vault: Vault, *, learn: bool, clock: Callable[[], float]) -> None:
        """Use :func:`open_device`."""
        self._home, self._key, self.vault, self._learn, self._clock = home, key, vault, learn, clock
        self._lock = threading.RLock()
        self._rng = np.random.default_rng()
        self._terms = AdaptingTerms()
        self._shelf: MappedShelf | None = None
        self._current, self._trends = NOTHING, NOTHING_TRENDS
        self._stamps: tuple[_Stamp, _Stamp] = (None, None)
        self._written = vault.changed()
        self._trouble, self._newest = "", -math.inf
        self._sources: dict[str, Source] = {}
        self._trending = self._unavailable = NO_ITEMS
        self._read_behaviour()
        self.refresh()

    def record(self, events: Sequence[Behaviour]) -> int:
        """Events, durable on return; the next list knows them.

        Returns:
            How many were stored.

        Raises:
            DataError, OSError: of the vault; nothing is stored then.
        """
        with self._lock:
            self.refresh()
            stored = self.vault.record(events)
            if self._shelf is None:
                return stored
            if len(events) > REPLAYED:
                self._learn_anew()
                return stored
            late = [self._take(self._shelf, one) for one in events]
            if any(late):
                self._history = _history(self.vault.events(), self._shelf, self.vault.secret())
            self._keep()
            return stored

    def recommend(self, wish: Wish | None = None) -> Answer:
        """A list.

        Raises:
            ConfigError: a value of the wish out of bounds.
            DataError: it names an item or a category that the catalogue does not have.
        """
        wish = wish or Wish()
        with self._lock:
            self.refresh()
            if self._shelf is None:
                check_request(wish.k, wish.diversity)
                return Answer((), "", None, None, _NO_CATALOGUE)
            answer = answered(self._shelf, self._person(self._shelf), wish, self._rng)
            self._sources = {offer.id: offer.source for offer in answer.offers}
            return answer

    def explain(self, item: str) -> Explained:
        """Why an item is, or would be, on the list.

        Raises:
            DataError: the catalogue does not have it.
        """
        with self._lock:
            self.refresh()
            if self._shelf is None:
                raise DataError(f"item {item!r:.80}: {_NO_CATALOGUE}")
            return explained(self._shelf, self._person(self._shelf), item, self._sources.get(item))

    def forget(self, items: Collection[str] | None = None, before: float | None = None) -> Receipt:
        """Forget items, what is older than ``before``, or (neither given) everything; what was learned goes, too.

        Raises:
            DataError, OSError: see :func:`client.forgetting.forget`.
        """
        with self._lock:
            receipt = forget(self._home, self._key, items, before, now=self._clock())
            self._learn_anew()
            return receipt

    def purge(self, ttl_days: int) -> int:
        """Drop events older than so many days, and what was learned from them.

        Returns:
            How many went.
        """
        with self._lock:
            before = self.vault.epoch()
            try:
                return self.vault.purge(self._clock(), ttl_days)
            finally:  # a disk that refuses while the file is tidied keeps no event alive
                if self.vault.epoch() != before:
                    self._learn_anew()

    def stored(self) -> Summary:
        """What is stored."""
        with self._lock:
            return self.vault.summary()

    def status(self) -> Standing:
        """How the device stands."""
        with self._lock:
            self.refresh()
            shelf = self._shelf
            model = None if shelf is None else shelf.model
            return Standing(
                events=self.vault.count(),
                items=0 if shelf is None else len(shelf),
                catalogue="" if shelf is None else shelf.catalogue,
                run="" if model is None else model.run,
                model_round=None if model is None else model.round,
                policy_version=None if model is None else model.policy.version,
                publication=self._current.number,
                trending=len(self._trending),
                unavailable=len(self._unavailable),
                adapted=self._state.events,
                index="" if model is None else "every row" if model.graph is None else "graph",
                trouble=self._trouble,
            )

    def refresh(self) -> None:
        """Take in what other processes wrote; three looks at the disk where nothing was."""
        with self._lock:
            stamps = (_stamp(self._home.shelf / CURRENT), _stamp(self._home.trending))
            if stamps != self._stamps:
                self._read_published()
                self._stamps = stamps
            written = self.vault.changed()
            if written != self._written:
                self._written = written
                self._read_behaviour()

    def rehearse(self) -> None:
        """Take in what was published, and do once for nothing what the next list and the next event would wait for."""
        with self._lock:
            self.refresh()
            if self._shelf is not None:
                answered(self._shelf, self._person(self._shelf), Wish(), self._rng)
                learned(self._shelf, self._history, self._state, Event(0, "view", 0.0), self._terms, self._rng)

    def close(self) -> None:
        """Let the vault go."""
        with self._lock:
            self.vault.close()

    def _read_published(self) -> None:
        """The shelf, what is trending, what cannot be had; of what is broken nothing is taken."""
        try:
            current, trends = read_current(self._home), read_trending(self._home)
            shelf = self._shelf
            if shelf is None or shelf.name != current.shelf:
                shelf = open_shelf(self._home)
        except DataError as error:
            self._trouble = str(error)
            return
        other = shelf is not self._shelf
        self._shelf, self._current, self._trends, self._trouble = shelf, current, trends, ""
        self._trending = NO_ITEMS if shelf is None else shelf.found(trends.items)
        self._unavailable = NO_ITEMS if shelf is None else np.unique(shelf.found(current.unavailable))
        if other:
            self._read_behaviour()

    def _read_behaviour(self) -> None:
        """History and personal part, for the shelf that is served."""
        self._history, self._state, self._newest = _history(events_of(()), None, b""), unadapted(0), -math.inf
        self._epoch = self.vault.epoch()  # before the events: what is forgotten meanwhile voids what they teach
        shelf = self._shelf
        if shelf is None:
            return
        events = self.vault.events()
        self._newest = float(events.time[-1]) if len(events) else -math.inf
        self._history = _history(events, shelf, self.vault.secret())
        if self._learn and shelf.model is not None:
            kept = self._kept(shelf.model.run, shelf.model.spec.rank)
            self._state = self._learned_from(shelf, events) if kept is None else kept

    def _learn_anew(self) -> None:
        """After much has changed: what was learned before is dropped."""
        self._home.adapted.unlink(missing_ok=True)
        self._sources = {}
        self._written = self.vault.changed()  # before it is read: what another process writes meanwhile is read again
        self._read_behaviour()
        self._keep()

    def _learned_from(self, shelf: MappedShelf, events: Events) -> Adapted:
        known = events.taken(np.array([shelf.find(one) != NOBODY for one in events.ids], np.bool_)[events.item])
        newest = [event for one in known[-REPLAYED:] if (event := _event(shelf, one))]
        past = _history(known[:-REPLAYED], shelf, self.vault.secret())
        return relearned(shelf, past, newest, self._terms, self._rng)

    def _take(self, shelf: MappedShelf, one: Behaviour) -> bool:
        """One event into the history, and a step of learning from it.

        Returns:
            Whether it may come after what it came before: a history is in the order of time, so it is read again then.
        """
        late, self._newest = one.time < self._newest, max(self._newest, one.time)
        event = _event(shelf, one)
        if event is None:
            return False
        late = late and event.item in self._history.item
        if self._learn and shelf.model is not None:
            self._state = learned(shelf, self._history, self._state, event, self._terms, self._rng)
        self._history = with_event(self._history, event)
        return late

    def _keep(self) -> None:
        """Write what was learned; without waiting for the disk, as it can be learned again from the events.

        Not where another process made the vault forget since: the next :meth:`refresh` learns anew then.
        """
        if self._learn and self._shelf is not None and self._shelf.model is not None:
            draft = self._home.adapted.with_suffix(".new")
            with suppress(OSError, DataError):
                sealed = self.vault.seal(ADAPTED, adapted_bytes(self._state, self._shelf.model.run), self._epoch)
                draft.write_bytes(sealed)
                draft.replace(self._home.adapted)

    def _kept(self, run: str, rank: int) -> Adapted | None:
        """What was learned before; None where it was not, or cannot be read, or is of another model."""
        with suppress(OSError, DataError):
            return adapted_of(self.vault.unseal(ADAPTED, self._home.adapted.read_bytes()), run, rank)
        return None

    def _person(self, shelf: MappedShelf) -> Person:
        personal = None
        if shelf.model is not None and self._state.events:
            personal = personal_of(self._state, shelf.model.scale)
        return Person(self._history, personal, self._trending, self._unavailable)


def open_device(home: Home, key: bytes, *, learn: bool = True, clock: Callable[[], float] = time.time) -> Device:
    """Open a device's folder.

    Args:
        home: the folder.
        key: of the vault, as ``client/vault_key.py`` gives it.
        learn: whether a personal part learns from each event.
        clock: unix seconds.

    Raises:
        DataError: the vault is damaged, or another key opens it; where there is none, an empty one is made.
    """
    return Device(home, key, open_vault(home.vault, key), learn=learn, clock=clock)


def _event(shelf: MappedShelf, one: Behaviour) -> Event | None:
    """An event by the shelf's index; None where the catalogue does not have its item."""
    item = shelf.find(one.item)
    return None if item == NOBODY else Event(item, one.kind, one.time, one.dwell, one.rating)


def _history(events: Events, shelf: MappedShelf | None, secret: bytes) -> History:
    """The history of the items that a shelf has, by its indices."""
    places = {} if shelf is None else {name: shelf.find(name) for name in events.ids}
    known = [name for name, place in places.items() if place != NOBODY]
    history = history_of(events, known, secret)
    return replace(history, item=np.array([places[name] for name in known], np.int32)[history.item])


def _stamp(path: Path) -> _Stamp:
    """When a file was replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino
