"""The parts of a message that was pulled: in memory while they are few, else in a file that has no name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import SEEK_END
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Final
from weakref import finalize

IN_MEMORY: Final = 1 << 22  # bytes; the agent stays small however large a message is


class Parts(Mapping[str, bytes]):
    """Parts by id, read when they are asked for. A class, because it holds a file."""

    def __init__(self, folder: Path | None = None) -> None:
        """None yet; a file would lie in ``folder``, None = where this system keeps such files."""
        where = None if folder is None else str(folder)
        self._file = SpooledTemporaryFile(IN_MEMORY, dir=where)  # noqa: SIM115 - as long as this lives
        finalize(self, self._file.close)
        self._places: dict[str, tuple[int, int]] = {}

    def add(self, name: str, content: bytes) -> None:
        """One more.

        Raises:
            OSError: the disk refuses.
        """
        self._places[name] = self._file.seek(0, SEEK_END), len(content)
        self._file.write(content)

    def close(self) -> None:
        """Let the file go; nothing can be read after it."""
        self._file.close()

    def __getitem__(self, name: str) -> bytes:
        """One part's bytes."""
        begin, length = self._places[name]
        self._file.seek(begin)
        return self._file.read(length)

    def __iter__(self) -> Iterator[str]:
        """Ids, in the order in which they came."""
        return iter(self._places)

    def __len__(self) -> int:
        """How many."""
        return len(self._places)
