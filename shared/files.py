"""Files written whole or not at all, and arrays read without ever unpickling."""

from __future__ import annotations

import io
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError

# What zipfile and numpy raise on hostile bytes: a header is parsed before its checksum is known.
_BROKEN_ARCHIVE: Final = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_atomically(path: Path, content: bytes) -> None:
    """``content`` at ``path``, whole or not at all, on disk on return; missing folders are made.

    Raises:
        OSError: the disk is full or read-only; what stood at ``path`` is untouched then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number keeps two writers of one file, a cache entry say, out of each other's draft.
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """What was made, renamed or removed in a folder is so on disk on return.

    Raises:
        OSError: the disk refuses.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Named arrays as ``.npz``, atomically.

    Raises:
        ValueError: an array of objects, which could only be pickled.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of an ``.npz``, never unpickling.

    Raises:
        DataError: the file is missing, not an ``.npz``, cut short, or asks for pickle.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.startswith(b"PK"):
        raise DataError(f"{path}: not a readable .npz file")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _BROKEN_ARCHIVE as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
