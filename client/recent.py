"""What a user came to lately: the contribution to a count of what is trending, before clipping and noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.measuring import visible_rows
from shared.history import DAY, History

AT_ONCE: Final = 64  # users: a row is as long as the catalogue
_EPOCH: Final = date(1970, 1, 1).toordinal()


def recent_items(history: History, today: date, window: int) -> NDArray[np.int32]:
    """The items that a user first came to within the window; each once.

    "Not interested" is no interest, and what is held out stays invisible to everything but measurements.

    Args:
        history: of one user; its times are those of each item's first event.
        today: by this side's clock, UTC. What lies after it is of a clock that was wrong, and does not count.
        window: days, today included.
    """
    end = (today.toordinal() - _EPOCH + 1) * DAY
    recent = (history.time >= end - window * DAY) & (history.time < end)
    return np.unique(history.item[visible_rows(history) & recent])


def recent_rows(histories: Sequence[History], items: int, today: date, window: int) -> Iterator[NDArray[np.float64]]:
    """Each user's recent items as a unit vector over the catalogue, in chunks of users.

    Yields:
        (users, items) float64.

    Formal guarantees:
        A row has norm 1, or 0 for a user without anything recent, whatever the history, window and clock: taking one
        user's history away changes the sum of rows by at most 1, the clip that noise is sized for. That bound is kept
        by the clip itself (``shared/privacy/clipping.py``), not by this function.
    """
    for start in range(0, len(histories), AT_ONCE):
        part = histories[start : start + AT_ONCE]
        rows = np.zeros((len(part), items))
        for row, history in zip(rows, part, strict=True):
            recent = recent_items(history, today, window)
            row[recent] = 1.0 / math.sqrt(max(len(recent), 1))
        yield rows
