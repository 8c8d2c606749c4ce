"""Behaviour of more people than memory should hold: Arrow IPC on disk, one row a user, mapped and read when asked for.

Each column is a list a user (https://arrow.apache.org/docs/format/Columnar.html): the columns of ``History``, oldest
first, and ``part``: 0 train, 1 validation, 2 test. Opening costs the same whatever the number of users, and a user's
rows are read from the pages of the file that hold them; the operating system may drop those again at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.files import sync_folder
from shared.history import NOT_INTERESTED, History
from simulations.datasets.dataset import COLUMNS

TRAIN, VALID, TEST = 0, 1, 2
PAGES_OF: Final = 256  # users read before their pages are let go: a process is not to hold the file by and by
_TYPES: Final[Mapping[str, type]] = {**COLUMNS, "part": np.int8}
Rows = Mapping[str, NDArray[Any]]  # column -> (rows,)


class Archive:
    """An open archive; a class because it holds a map of a file.

    Attributes:
        users: how many.
        size: bytes of the file.
    """

    def __init__(self, path: Path) -> None:
        """Map a file that :func:`write_archive` wrote.

        Raises:
            DataError: there is none, or it is something else.
        """
        import pyarrow as pa  # noqa: PLC0415 - heavy import

        try:
            with path.open("rb") as file:
                self._map = mmap(file.fileno(), 0, access=ACCESS_READ)
            reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._map)))
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            self._parts = [{name: _lists(batch.column(name)) for name in _TYPES} for batch in batches]
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not a readable archive ({error}); delete it to have it made again") from error
        self.users, self.size = sum(batch.num_rows for batch in batches), path.stat().st_size
        self._each, self._read = batches[0].num_rows if batches else 1, 0

    def rows(self, user: int) -> Rows:
        """All rows of one user, as views of the file."""
        self._read += 1
        if self._read % PAGES_OF == 0:
            self._map.madvise(MADV_DONTNEED)  # pages that are needed again come back from the system's cache
        part, place = self._parts[user // self._each], user % self._each
        return {name: values[offsets[place] : offsets[place + 1]] for name, (offsets, values) in part.items()}

    def history(self, user: int) -> History:
        """What the user's client holds: train and validation rows."""
        rows = self.rows(user)
        kept = rows["part"] != TEST
        columns = {name: values[kept] for name, values in rows.items()}
        held_out = columns.pop("part") == VALID
        return History(**columns, held_out=held_out)

    def test(self, user: int) -> NDArray[np.int32]:
        """Items of the user's final test."""
        rows = self.rows(user)
        wanted: NDArray[np.int32] = rows["item"][(rows["part"] == TEST) & (rows["kind"] != NOT_INTERESTED)]
        return wanted


def write_archive(path: Path, parts: Iterator[tuple[NDArray[np.int64], Rows]]) -> None:
    """Write users part by part, whole or not at all, on disk on return; memory holds one part.

    Args:
        path: the file, in a folder that is there; one process at a time writes it. What was left of a process that was
            killed is written over.
        parts: ``(offsets, rows)``: where each user's rows begin, and where the last one's end; every part but the last
            of the same number of users.

    Raises:
        OSError: the disk refuses.
    """
    import pyarrow as pa  # noqa: PLC0415 - heavy import

    schema = pa.schema([(name, pa.list_(pa.from_numpy_dtype(kind))) for name, kind in _TYPES.items()])
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                for offsets, rows in parts:
                    ends = pa.array(offsets.astype(np.int32))
                    columns = [pa.array(rows[name].astype(kind)) for name, kind in _TYPES.items()]
                    lists = [pa.ListArray.from_arrays(ends, column) for column in columns]
                    writer.write_batch(pa.record_batch(lists, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def _lists(column: Any) -> tuple[NDArray[np.int32], NDArray[Any]]:  # noqa: ANN401 - pyarrow is untyped
    """Offsets and values of a list column, as views of the file."""
    return column.offsets.to_numpy(zero_copy_only=True), column.values.to_numpy(zero_copy_only=True)
