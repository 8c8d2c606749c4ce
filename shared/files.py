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


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """``content`` at ``path``, whole or not at all, on disk on return; missing folders are made.

    Args:
        path, content: what goes where.
        mode: of the file, less the umask; 0o600 for a secret.

    Raises:
        OSError: the disk is full or read-only; what stood at ``path`` is untouched then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number keeps two writers of one file, a cache entry say, out of each other's draft.
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
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
    write_atomically(path, bytes_of_arrays(arrays))


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
    return arrays_of_bytes(content, str(path))


def bytes_of_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as the bytes of an ``.npz``, not compressed.

    Raises:
        ValueError: as :func:`write_arrays`.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def arrays_of_bytes(content: bytes, place: str) -> dict[str, NDArray[Any]]:
    """What ``bytes_of_arrays`` made, never unpickling and never larger than its bytes.

    Args:
        content: from anywhere.
        place: where they come from, for the message.

    Raises:
        DataError: not such bytes; or compressed, for a small archive could then fill the memory.
    """
    if not content.startswith(b"PK"):
        raise DataError(f"{place}: not a readable .npz file")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.zip.infolist()):
                raise DataError(f"{place}: compressed arrays are not taken")
            return {name: archive[name] for name in archive.files}
    except _BROKEN_ARCHIVE as error:
        raise DataError(f"{place}: not a readable .npz file ({error})") from error
