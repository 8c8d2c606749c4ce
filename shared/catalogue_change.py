"""What differs between two versions of a catalogue: small, so that a device need not fetch the whole.

A later version is the earlier one without the removed items, in its order, followed by the added ones. An item whose
words or vectors changed is removed and added. Every later catalogue can be written so, in whatever order it stands:
what has moved counts as removed and added as well. Both versions are named, and the result is compared with the second:
a change that is applied to another catalogue, or that was damaged, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.catalogue import Catalogue, arrays_of_items, as_bytes, items_of_arrays, strings_of
from shared.errors import DataError
from shared.files import arrays_of_bytes, bytes_of_arrays

T = TypeVar("T")
_FORMAT: Final = "fedrecall-catalogue-change-1"
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class CatalogueChange:
    """From one version to another.

    Attributes:
        base: version that it applies to.
        version: what comes of it.
        removed: raw ids that are gone, or changed, or moved.
        added: the items that come after those that stayed; groups as the base has them.
    """

    base: str
    version: str
    removed: tuple[str, ...]
    added: Catalogue


def change_between(old: Catalogue, new: Catalogue) -> CatalogueChange:
    """The smallest change of this form; applied to the old catalogue it gives the new one, order included.

    Raises:
        DataError: the groups differ in name or width: the catalogues were built with other directions.
    """
    _same_groups(old, new)
    kept = _kept(old, new)
    stay = set(new.ids[:kept])
    removed = tuple(name for name in old.ids if name not in stay)
    return CatalogueChange(old.version(), new.version(), removed, part_of(new, np.arange(kept, len(new))))


def composed(first: CatalogueChange, second: CatalogueChange) -> CatalogueChange:
    """Both, one after the other, as one; needs neither catalogue.

    Raises:
        DataError: the second does not begin where the first ends.
    """
    if first.version != second.base:
        raise DataError(
            f"catalogue change: one ends at version {first.version[:12]}…, the next begins at {second.base[:12]}…"
        )
    gone, came = set(second.removed), set(first.added.ids)
    stay = np.array([at for at, name in enumerate(first.added.ids) if name not in gone], np.int64)
    # What the first added and the second removed was never in the base, or is removed from it already.
    removed = first.removed + tuple(name for name in second.removed if name not in came)
    return CatalogueChange(first.base, second.version, removed, joined(part_of(first.added, stay), second.added))


def apply_change(catalogue: Catalogue, change: CatalogueChange) -> Catalogue:
    """The later version.

    Raises:
        DataError: the change is for another version, names an item that is not there, or does not give what it says.
    """
    version = catalogue.version()
    if version != change.base:
        raise DataError(
            f"catalogue change: it is for version {change.base[:12]}…, the catalogue here is {version[:12]}…; fetch "
            "the whole catalogue"
        )
    gone = set(change.removed)
    kept = np.array([at for at, name in enumerate(catalogue.ids) if name not in gone], np.int64)
    if len(kept) + len(change.removed) != len(catalogue):
        raise DataError("catalogue change: it removes an item twice, or one that the catalogue does not have")
    after = joined(part_of(catalogue, kept), change.added)
    if after.version() != change.version:
        raise DataError(f"catalogue change: what comes of it is not version {change.version[:12]}…, as it says")
    return after


def change_bytes(change: CatalogueChange) -> bytes:
    """For a file and the wire: arrays without pickle."""
    said = {"base": change.base, "version": change.version, "removed": change.removed}
    text = json.dumps(said, ensure_ascii=True, separators=(",", ":"))
    format_ = {"format": as_bytes(_FORMAT.encode()), "said": as_bytes(text.encode())}
    return bytes_of_arrays(arrays_of_items(change.added) | format_)


def change_of(content: bytes, place: str) -> CatalogueChange:
    """What ``change_bytes`` made.

    Args:
        content: from anywhere.
        place: where it comes from, for the message.

    Raises:
        DataError: whatever is wrong with the bytes, and nothing else.
    """
    arrays: Mapping[str, NDArray[np.generic]] = arrays_of_bytes(content, place)
    try:
        if bytes(arrays["format"]) != _FORMAT.encode():
            raise DataError(f"{place}: format {bytes(arrays['format'])[:40]!r}; this version reads {_FORMAT}")
        said = json.loads(bytes(arrays["said"]))
        removed = strings_of(said["removed"])
        return CatalogueChange(_version(said["base"]), _version(said["version"]), removed, items_of_arrays(arrays))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{place}: not a change of a catalogue ({error})") from error


def part_of(catalogue: Catalogue, rows: NDArray[np.int64]) -> Catalogue:
    """The items in some rows, in the order of these."""
    groups = {name: vectors[rows] for name, vectors in catalogue.groups.items()}
    words = (_taken(catalogue.titles, rows), _taken(catalogue.texts, rows), _taken(catalogue.categories, rows))
    return Catalogue(_taken(catalogue.ids, rows), *words, groups)


def joined(one: Catalogue, other: Catalogue) -> Catalogue:
    """Both, one after the other.

    Raises:
        DataError: groups of other names or widths, or an item in both.
    """
    _same_groups(one, other)
    return Catalogue(
        one.ids + other.ids,
        one.titles + other.titles,
        one.texts + other.texts,
        one.categories + other.categories,
        {name: np.concatenate([vectors, other.groups[name]]) for name, vectors in one.groups.items()},
    )


def _taken(values: Sequence[T], rows: NDArray[np.int64]) -> tuple[T, ...]:
    return tuple(values[row] for row in rows.tolist())


def _kept(old: Catalogue, new: Catalogue) -> int:
    """How many items the new catalogue begins with that are the same in the old one, and in the same order."""
    place = {name: row for row, name in enumerate(old.ids)}
    last, rows = -1, []
    for name in new.ids:
        row = place.get(name, -1)
        if row <= last:
            break
        rows.append(row)
        last = row
    before, after = part_of(old, np.array(rows, np.int64)), part_of(new, np.arange(len(rows)))
    words = [list(zip(part.titles, part.texts, part.categories, strict=True)) for part in (before, after)]
    same = np.array([one == other for one, other in zip(*words, strict=True)], bool)
    for name, vectors in before.groups.items():
        # As bits: -0.0 equals 0.0, but a catalogue's version tells them apart.
        same &= (vectors.view(np.uint32) == after.groups[name].view(np.uint32)).all(axis=1)
    return int(np.argmin(same)) if not same.all() else len(rows)


def _same_groups(one: Catalogue, other: Catalogue) -> None:
    widths, theirs = ({name: rows.shape[1] for name, rows in c.groups.items()} for c in (one, other))
    if widths != theirs:
        raise DataError(
            f"catalogues with vectors of widths {widths} and {theirs}: they were built with other directions; fetch "
            "the whole catalogue"
        )


def _version(value: object) -> str:
    if type(value) is not str or len(value) != 64 or not set(value) <= _HEX:
        raise ValueError(f"version {value!r} is not 64 hex digits")
    return value
