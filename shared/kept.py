"""Arrays that take long to make, kept between processes under a hash of everything that they are made from.

Code counts among what they are made from: whoever changes it, or updates a library, gets arrays made anew. Only public
data is kept: a person's own behaviour is copied nowhere.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.files import read_arrays, write_arrays

Arrays = dict[str, NDArray[Any]]


def key_of(parts: Iterable[bytes]) -> str:
    """SHA-256 as hex over parts, each behind its length: ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def code_of(*modules: str) -> list[bytes]:
    """The sources of modules, by name, and the version of numpy: parts of a key."""
    return [np.__version__.encode(), *(inspect.getsource(import_module(name)).encode() for name in modules)]


def kept(
    path: Path, make: Callable[[], Arrays], fits: Callable[[Arrays], bool], *, largest: float = math.inf
) -> Arrays:
    """What ``make`` gives, from ``path`` if it was made before.

    Args:
        path: an ``.npz`` whose name is a key; its checksums tell a damaged file, which is made anew.
        make: takes long.
        fits: whether arrays that were read are what the caller can use.
        largest: bytes; more is made anew each time rather than held twice while it is written.

    Returns:
        The same arrays either way, bit for bit. A folder that cannot be written costs time, and nothing else.
    """
    try:
        found = read_arrays(path)
        if fits(found):
            return found
    except DataError:
        pass  # not there, or cut short by a full disk
    made = make()
    if sum(rows.nbytes for rows in made.values()) <= largest:
        with suppress(OSError):  # as said above
            write_arrays(path, made)
    return made
