"""Whether a file still holds pieces of what should be gone from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

STRIDE: Final = 256  # bytes; any remnant of at least STRIDE + 7 holds a whole probe
_WORD: Final = 8  # bytes of a probe: among 2^25 bytes, one of 2^17 probes is met by chance once in 2^22 searches
_CHUNK: Final = 1 << 22
_FILTER: Final = (1 << 24) - 1

Words = NDArray[np.uint64]


def probes(texts: Iterable[bytes]) -> Words:
    """Eight bytes from every 256 of each ciphertext, from its start on.

    Returns:
        (n,) little-endian words, sorted.
    """
    pieces = [_windows(text)[::STRIDE] for text in texts if len(text) >= _WORD]
    return np.unique(np.concatenate([_words(piece) for piece in pieces])) if pieces else np.zeros(0, np.uint64)


def found_in(content: bytes, sought: Words) -> int:
    """How often a probe stands in ``content``, at whatever offset."""
    if not len(sought):
        return 0
    there = np.zeros(_FILTER + 1, np.bool_)
    there[(sought & _FILTER).astype(np.intp)] = True
    found = 0
    for start in range(0, len(content), _CHUNK):
        chunk = content[start : start + _CHUNK + _WORD - 1]
        for offset in range(min(_WORD, len(chunk) - _WORD + 1)):
            words = np.frombuffer(chunk, "<u8", (len(chunk) - offset) // _WORD, offset)
            likely = words[there[(words & _FILTER).astype(np.intp)]]
            at = np.minimum(np.searchsorted(sought, likely), len(sought) - 1)
            found += int((sought[at] == likely).sum())
    return found


def database_files(path: Path) -> tuple[Path, ...]:
    """What SQLite keeps beside a database in WAL mode, as far as it is there now."""
    return tuple(one for one in (path, _beside(path, "-wal"), _beside(path, "-shm")) if one.exists())


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _windows(text: bytes) -> NDArray[np.uint8]:
    return np.lib.stride_tricks.sliding_window_view(np.frombuffer(text, np.uint8), _WORD)


def _words(windows: NDArray[np.uint8]) -> Words:
    return np.ascontiguousarray(windows).view("<u8").ravel()
