"""The operator's catalogue: what a server recommends, every version that it ever was, and the changes between them.

    catalogue/current.json       version, what cannot be had at the moment, and every edition so far
    catalogue/<version>.npz      whole: the newest edition, and the first of each basis
    catalogue/changes/0007.npz   from edition 6 to edition 7
    catalogue/basis-1.npz        the directions that new items are read with; encoder-1/: an adapted text encoder

An edition follows from the one before by a change, so any of them can be made again from the first of its basis, and a
device that was away for long gets all it missed as one change. A new basis begins with a whole catalogue: vectors of
two bases must never meet, so a model goes on being served with the last edition of the basis that it was trained in
(:func:`served`). An order of the operator (``server/stock_orders.py``) is one atomic write of ``current.json`` after
everything that it names; who writes and who reads take turns.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Final

from server.house import House
from shared.catalogue import Catalogue, catalogue_bytes, load_catalogue, save_catalogue
from shared.catalogue_change import CatalogueChange, apply_change, change_bytes, change_of, composed
from shared.errors import DataError
from shared.files import write_atomically

MOST_UNAVAILABLE: Final = 10_000  # as many as a publication names
_FORMAT: Final = "fedrecall-stock-1"


@dataclass(frozen=True)
class Edition:
    """One version of the catalogue, and how it came about.

    Attributes:
        number: 1 for the first, then one more each.
        version: of the catalogue; a later edition may have the same as an earlier one.
        basis: number of the basis that it was built with.
        when: ISO 8601.
        items: how many there are.
        added, removed: how many came and went; one that changed counts as both.
    """

    number: int
    version: str
    basis: int
    when: str
    items: int
    added: int
    removed: int


@dataclass(frozen=True)
class Stock:
    """What ``current.json`` says.

    Attributes:
        editions: oldest first, the last is current.
        unavailable: raw ids, sorted, of items that cannot be had at the moment.
    """

    editions: tuple[Edition, ...]
    unavailable: tuple[str, ...]

    @property
    def number(self) -> int:
        """Of the current edition."""
        return self.editions[-1].number

    @property
    def version(self) -> str:
        """Of the current catalogue."""
        return self.editions[-1].version


def stock_of(house: House) -> Stock:
    """The catalogue's editions.

    Raises:
        DataError: there is none yet, or the file is damaged.
    """
    path = house.catalogue / "current.json"
    try:
        said = json.loads(path.read_bytes())
        if said["format"] != _FORMAT:
            raise DataError(f"{path}: format {said['format']!r}; this version reads {_FORMAT}")
        return Stock(tuple(Edition(**one) for one in said["editions"]), tuple(said["unavailable"]))
    except FileNotFoundError as error:
        raise DataError(
            f"{house.folder}: no catalogue yet; make one: fedrecall-server catalogue import {house.folder} items.csv"
        ) from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def catalogue_of_stock(house: House, version: str = "") -> Catalogue:
    """A whole catalogue.

    Args:
        house: the server.
        version: of any edition; "" = the current one.

    Raises:
        DataError: no such edition, or damaged files.
    """
    with held(house, fcntl.LOCK_SH):
        return catalogue_at(house, stock_of(house), version)


def catalogue_at(house: House, stock: Stock, version: str = "") -> Catalogue:
    """As :func:`catalogue_of_stock`, by who holds the stock."""
    edition = _edition(stock, version or stock.version)
    path = whole_path(house, edition.version)
    if path.exists():
        return load_catalogue(path)
    first = next(one for one in stock.editions if one.basis == edition.basis)
    return apply_change(load_catalogue(whole_path(house, first.version)), _change(house, first, edition))


def served(stock: Stock, trained: str) -> str:
    """Version to serve a model with: the newest edition whose vectors mean what they meant when it was trained.

    Args:
        stock: the editions.
        trained: version of the catalogue that the model was trained with; "" = there is no model yet.

    Raises:
        DataError: no such edition.
    """
    if not trained:
        return stock.version
    basis = _edition(stock, trained).basis
    return next(one.version for one in reversed(stock.editions) if one.basis == basis)


def change_for(house: House, base: str, version: str) -> tuple[str, bytes]:
    """What brings a device to a version, as a publication says it.

    Args:
        house: the server.
        base: version that the device has; "" or unknown = none.
        version: of an edition; see :func:`served`.

    Returns:
        (base, bytes): base "" with a whole catalogue; base and a change; or base and nothing, if it is that version.

    Raises:
        DataError: no such version.
    """
    if base == version:
        return base, b""
    with held(house, fcntl.LOCK_SH):
        stock = stock_of(house)
        target = _edition(stock, version)
        earlier = [one for one in stock.editions if one.version == base and one.number < target.number]
        if not earlier or earlier[-1].basis != target.basis or _came(stock, earlier[-1], target) >= target.items:
            return "", catalogue_bytes(catalogue_at(house, stock, version))
        return base, change_bytes(_change(house, earlier[-1], target))


@contextmanager
def held(house: House, how: int) -> Iterator[None]:
    """The stock for one writer (``fcntl.LOCK_EX``) or any number of readers (``fcntl.LOCK_SH``) at a time.

    Raises:
        DataError: there is no catalogue to read.
    """
    if how == fcntl.LOCK_EX:
        house.catalogue.mkdir(parents=True, exist_ok=True)
    elif not house.catalogue.exists():
        stock_of(house)  # says so
    with (house.catalogue / "lock").open("a") as lock:
        fcntl.flock(lock, how)
        yield


def keep(
    house: House,
    stock: Stock,
    catalogue: Catalogue,
    available: Mapping[str, bool],
    change: CatalogueChange | None = None,
) -> Stock:
    """Make a stock current; the caller holds it for writing.

    Args:
        house: the server.
        stock: with the new edition, if there is one.
        catalogue: of the last edition.
        available: id -> can be had, for items of which that was said now.
        change: from the edition before; None where a basis begins, or there is no new edition.

    Returns:
        As it was written: with what cannot be had.

    Raises:
        DataError: too many items cannot be had.
    """
    there = set(catalogue.ids)
    can = dict.fromkeys(stock.unavailable, False) | dict(available)
    unavailable = tuple(sorted(name for name, yes in can.items() if not yes and name in there))
    if len(unavailable) > MOST_UNAVAILABLE:
        raise DataError(
            f"{len(unavailable):,} items cannot be had; at most {MOST_UNAVAILABLE:,} may be named so, remove the others"
        )
    stock = Stock(stock.editions, unavailable)
    if change is not None:
        write_atomically(_change_path(house, stock.number), change_bytes(change))
    if not whole_path(house, stock.version).exists():
        save_catalogue(catalogue, whole_path(house, stock.version))
    said = {"format": _FORMAT, "editions": [asdict(one) for one in stock.editions], "unavailable": unavailable}
    write_atomically(house.catalogue / "current.json", json.dumps(said, indent=1).encode())
    _tidy(house, stock)
    return stock


def whole_path(house: House, version: str) -> Path:
    """Where a whole catalogue lies, if it does."""
    return house.catalogue / f"{version}.npz"


def basis_path(house: House, basis: int) -> Path:
    """Where a basis lies."""
    return house.catalogue / f"basis-{basis}.npz"


def encoder_path(house: House, basis: int) -> Path:
    """Where the text encoder lies that was adapted for a basis, if one was."""
    return house.catalogue / f"encoder-{basis}"


def _change_path(house: House, number: int) -> Path:
    return house.catalogue / "changes" / f"{number:04}.npz"


def _change(house: House, old: Edition, new: Edition) -> CatalogueChange:
    """All that happened after one edition, up to a later one of the same basis."""
    paths = [_change_path(house, number) for number in range(old.number + 1, new.number + 1)]
    return reduce(composed, (_read_change(path) for path in paths))


def _read_change(path: Path) -> CatalogueChange:
    try:
        return change_of(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the folder from a backup") from error


def _edition(stock: Stock, version: str) -> Edition:
    found = [one for one in stock.editions if one.version == version]
    if not found:
        raise DataError(f"catalogue: no edition has version {version[:12]}…; there are {len(stock.editions)} editions")
    return found[-1]


def _came(stock: Stock, old: Edition, new: Edition) -> int:
    """Items that were added on the way: at most so many are sent."""
    return sum(one.added for one in stock.editions if old.number < one.number <= new.number)


def _tidy(house: House, stock: Stock) -> None:
    """Whole catalogues that follow from others go."""
    first = {one.basis: one.version for one in reversed(stock.editions)}
    needed = {whole_path(house, version) for version in (*first.values(), stock.version)}
    for path in house.catalogue.glob("?" * 64 + ".npz"):
        if path not in needed:
            path.unlink()
