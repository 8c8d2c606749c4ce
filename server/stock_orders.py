"""What an operator does to the catalogue: import, add, remove, say what can be had, fit new directions.

Each order makes one edition (``server/stock.py``), or none where nothing differs. Items that come get vectors by the
basis of the catalogue (``server/basis.py``); no other row moves.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.basis import Basis, load_basis, save_basis, unknown_words, vectors_of_new
from server.features import Progress, adapted_encoder, build_with_basis, text_vectors
from server.house import House
from server.items import Item, read_items
from server.stock import Edition, Stock, basis_path, catalogue_at, encoder_path, held, keep, stock_of
from shared.catalogue import Catalogue
from shared.catalogue_change import change_between, joined, part_of
from shared.errors import DataError
from shared.text_encoder import NO_MODEL, encoder_identity


@dataclass(frozen=True)
class Outcome:
    """What an order did, for the operator.

    Attributes:
        edition: the current one afterwards.
        added, changed, removed: items.
        unavailable: how many cannot be had now.
        unknown_words: share of the words of items that came which the basis does not know.
        unknown_categories: categories that it does not know.
    """

    edition: Edition
    added: int
    changed: int
    removed: int
    unavailable: int
    unknown_words: float
    unknown_categories: tuple[str, ...]


def import_items(
    house: House, path: Path, *, now: datetime, whole: bool = False, progress: Progress | None = None
) -> Outcome:
    """Take items from a CSV file (``server/items.py``): new ones are added, those that differ are changed.

    The first import builds the catalogue and fits its basis.

    Args:
        house: the server.
        path: the file.
        now: what the clock says.
        whole: the file is all there is: items that it does not name are removed.
        progress: called with (items read by the text encoder, items).

    Raises:
        DataError: the file is broken.
        FetchError: the text encoder cannot be loaded.
    """
    items, available = read_items(path)
    with held(house, fcntl.LOCK_EX):
        if not (house.catalogue / "current.json").exists():
            return _founded(house, Stock((), ()), items, available, now, progress)
        stock = stock_of(house)
        old = catalogue_at(house, stock)
        known = dict(zip(old.ids, zip(old.titles, old.texts, old.categories, strict=True), strict=True))
        differ = [item for item in items if known.get(item.id) != (item.title, item.text, item.categories)]
        missing = set(old.ids) - {item.id for item in items} if whole else set()
        return _changed(house, stock, old, differ, missing, available, now, progress)


def add(house: House, items: Sequence[Item], *, now: datetime, progress: Progress | None = None) -> Outcome:
    """Add items.

    Raises:
        DataError: one is there already, or there is no catalogue yet.
        FetchError: as :func:`import_items`.
    """
    with held(house, fcntl.LOCK_EX):
        stock = stock_of(house)
        old = catalogue_at(house, stock)
        there = sorted({item.id for item in items} & set(old.ids))
        if there:
            raise DataError(f"item {there[0]!r} is in the catalogue already; change it by an import of a file")
        return _changed(house, stock, old, items, set(), {}, now, progress)


def remove(house: House, ids: Collection[str], *, now: datetime) -> Outcome:
    """Remove items.

    Raises:
        DataError: one is not there, or none would be left.
    """
    with held(house, fcntl.LOCK_EX):
        stock = stock_of(house)
        old = catalogue_at(house, stock)
        _are_there(ids, old)
        return _changed(house, stock, old, [], set(ids), {}, now, None)


def set_available(house: House, ids: Collection[str], *, available: bool) -> Outcome:
    """Say which items can be had; the catalogue stays what it is.

    Raises:
        DataError: one is not there, or too many cannot be had.
    """
    with held(house, fcntl.LOCK_EX):
        stock = stock_of(house)
        old = catalogue_at(house, stock)
        _are_there(ids, old)
        stock = keep(house, stock, old, dict.fromkeys(ids, available))
        return Outcome(stock.editions[-1], 0, 0, 0, len(stock.unavailable), 0.0, ())


def rebuild(house: House, *, now: datetime, progress: Progress | None = None) -> Outcome:
    """Fit a new basis to the items that there are: the next run trains with it, the present model keeps the old one.

    Raises:
        DataError: there is no catalogue yet.
        FetchError: as :func:`import_items`.
    """
    with held(house, fcntl.LOCK_EX):
        stock = stock_of(house)
        old = catalogue_at(house, stock)
        rows = zip(old.ids, old.titles, old.texts, old.categories, strict=True)
        return _founded(house, stock, [Item(*row) for row in rows], {}, now, progress)


def _founded(
    house: House,
    stock: Stock,
    items: Sequence[Item],
    available: Mapping[str, bool],
    now: datetime,
    progress: Progress | None,
) -> Outcome:
    """A catalogue on a new basis."""
    number = 1 + max((one.basis for one in stock.editions), default=0)
    config = house.config()
    settings, device = config.model, config.device
    model, adaptation = settings.text_encoder, settings.adaptation
    texts = [item.text for item in items]
    if adaptation == "contrastive" and model != NO_MODEL:
        # Kept, for it has to read the items that come later.
        adapted_encoder(texts, model, encoder_path(house, number), device=device, tell=progress)
        model, adaptation = str(encoder_path(house, number)), "none"
    catalogue, basis = build_with_basis(
        [item.id for item in items],
        [item.title for item in items],
        texts,
        [item.categories for item in items],
        model=model,
        adaptation=adaptation,
        vectors=settings.vectors,
        device=device,
        progress=progress,
    )
    save_basis(basis, basis_path(house, number))
    edition = Edition(
        number=1 + len(stock.editions),
        version=catalogue.version(),
        basis=number,
        when=now.isoformat(timespec="seconds"),
        items=len(items),
        added=len(items),
        removed=0,
    )
    stock = keep(house, replace(stock, editions=(*stock.editions, edition)), catalogue, available)
    return Outcome(edition, len(items), 0, 0, len(stock.unavailable), 0.0, ())


def _changed(
    house: House,
    stock: Stock,
    old: Catalogue,
    items: Sequence[Item],
    missing: Collection[str],
    available: Mapping[str, bool],
    now: datetime,
    progress: Progress | None,
) -> Outcome:
    """The next edition: without the missing items; ``items`` are new, or take the place of those of the same id."""
    last = stock.editions[-1]
    basis = load_basis(basis_path(house, last.basis))
    changed = {item.id for item in items} & set(old.ids)
    gone = changed | set(missing)
    stay = np.array([at for at, name in enumerate(old.ids) if name not in gone], np.int64)
    new, change = joined(part_of(old, stay), _read(house, basis, last.basis, items, progress)), None
    if not len(new):
        raise DataError("catalogue: no item would be left; a server needs at least one")
    if items or gone:
        change = change_between(old, new)
        edition = Edition(
            number=last.number + 1,
            version=change.version,
            basis=last.basis,
            when=now.isoformat(timespec="seconds"),
            items=len(new),
            added=len(items),
            removed=len(gone),
        )
        stock = replace(stock, editions=(*stock.editions, edition))
    stock = keep(house, stock, new, available, change)
    known = set(basis.categories.names)
    return Outcome(
        edition=stock.editions[-1],
        added=len(items) - len(changed),
        changed=len(changed),
        removed=len(missing),
        unavailable=len(stock.unavailable),
        unknown_words=unknown_words(basis.words, [item.text for item in items]),
        unknown_categories=tuple(sorted({name for item in items for name in item.categories if name not in known})),
    )


def _read(house: House, basis: Basis, number: int, items: Sequence[Item], progress: Progress | None) -> Catalogue:
    """New items with their vectors."""
    texts = [item.text for item in items]
    read = None if basis.encoder == NO_MODEL else _text_vectors(house, basis, number, texts, progress)
    categories = [item.categories for item in items]
    return Catalogue(
        ids=tuple(item.id for item in items),
        titles=tuple(item.title for item in items),
        texts=tuple(texts),
        categories=tuple(categories),
        groups=vectors_of_new(basis, texts, categories, read),
    )


def _text_vectors(
    house: House, basis: Basis, number: int, texts: Sequence[str], progress: Progress | None
) -> NDArray[np.float32]:
    if not texts:
        return np.zeros((0, len(basis.compact[0].mean)), np.float32)  # a removal waits for no model
    own = encoder_path(house, number)
    model = str(own) if own.exists() else house.config().model.text_encoder
    if encoder_identity(model) != basis.encoder:
        raise DataError(
            f"model.text_encoder {model!r}: the catalogue was built with another one; set it back, or build the "
            f"catalogue anew: fedrecall-server catalogue rebuild {house.folder}"
        )
    return text_vectors(texts, model, device=house.config().device, progress=progress)


def _are_there(ids: Collection[str], catalogue: Catalogue) -> None:
    unknown = sorted(set(ids) - set(catalogue.ids))
    if unknown:
        raise DataError(f"item {unknown[0]!r} is not in the catalogue of {len(catalogue):,} items")
