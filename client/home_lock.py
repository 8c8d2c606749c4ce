"""One agent a device."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from client.home import Home
from shared.errors import DataError

_LOCK: Final = "agent.lock"


@contextmanager
def alone(home: Home) -> Iterator[None]:
    """Be the only agent of a device.

    Raises:
        DataError: there is one.
    """
    with (home.folder / _LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{home.folder}: an agent runs here already") from error
        yield


def is_running(home: Home) -> bool:
    """Whether an agent runs on a device."""
    try:
        with alone(home):
            return False
    except DataError:
        return True
