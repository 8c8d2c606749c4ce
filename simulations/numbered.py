"""Things that are many and numbered, made when they are asked for: a million clients cost nothing until they answer.

Clients of a simulation are named by their numbers, from 1; so are their nodes, and the users of generated data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from typing import Generic, TypeVar, overload

T = TypeVar("T")


def number_of(name: object, count: int) -> int | None:
    """The number, 1 to ``count``, that a name spells; None for every other name: a number has one spelling."""
    if not (isinstance(name, str) and name.isascii() and name.isdigit() and name[0] != "0"):
        return None
    if len(name) > len(str(count)):  # Python reads no number of thousands of digits
        return None
    number = int(name)
    return number if number <= count else None


class Numbered(Mapping[str, T], Generic[T]):
    """``"1"`` to ``str(count)`` -> what ``make(number)`` gives, anew each time. A class because mappings are."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __getitem__(self, name: str) -> T:
        """What stands under a name."""
        number = number_of(name, self._count)
        if number is None:
            raise KeyError(name)
        return self._make(number)

    def __contains__(self, name: object) -> bool:
        """Without making it."""
        return number_of(name, self._count) is not None

    def __iter__(self) -> Iterator[str]:
        """All names, in order."""
        return map(str, range(1, self._count + 1))

    def keys(self) -> _Names:
        """The names, of which any can be had by its place."""
        return _Names(self)

    def __len__(self) -> int:
        return self._count


class _Names(KeysView[str], Sequence[str]):
    """The names of a numbered mapping, also by place. A class because views are."""

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...

    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        """One, or those of a slice."""
        return names(len(self))[place]


class Lazily(Sequence[T], Generic[T]):
    """``make(0)`` to ``make(count - 1)``, each made when it is asked for. A class because sequences are."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[T, ...]: ...

    def __getitem__(self, place: int | slice) -> T | tuple[T, ...]:
        """One, or those of a slice."""
        places = range(self._count)[place]
        return self._make(places) if isinstance(places, int) else tuple(map(self._make, places))

    def __len__(self) -> int:
        return self._count


def names(count: int) -> Lazily[str]:
    """``"1"`` to ``str(count)``."""
    return Lazily(count, lambda place: str(place + 1))
