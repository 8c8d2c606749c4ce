"""One user's behaviour, as the encoder reads it, and that of several users at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

KINDS: Final = ("view", "purchase", "rating", "dwell", "not_interested")
NOT_INTERESTED: Final = KINDS.index("not_interested")
DAY: Final = 86_400.0


@dataclass(frozen=True)
class History:
    """What one user did, one row per item, oldest first.

    Attributes:
        item: (n,) int32, dense index into the catalogue.
        kind: (n,) int8, index into ``KINDS``.
        count: (n,) float32, how often.
        dwell: (n,) float32 in 0..1, normalised dwell time, 0 where unknown.
        rating: (n,) float32 in 0..1, NaN where there is none.
        time: (n,) float64, unix seconds of the first event.
        held_out: (n,) bool, validation positives: hidden from training, asked for by measurements.
    """

    item: NDArray[np.int32]
    kind: NDArray[np.int8]
    count: NDArray[np.float32]
    dwell: NDArray[np.float32]
    rating: NDArray[np.float32]
    time: NDArray[np.float64]
    held_out: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class Stacked:
    """The rows of several users one after another, without what is hidden.

    Attributes:
        rows: of all users.
        user: (n,) int64, whose each row is; ascending.
        place: (n,) int64, the row's number among its user's.
        length: (users,) int64, rows of each user.
    """

    rows: History
    user: NDArray[np.int64]
    place: NDArray[np.int64]
    length: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.int64]:
        """(some users,) where the rows of each user begin who has any."""
        return np.flatnonzero(self.place == 0)


def stacked(histories: Sequence[History], *, visible: str = "train") -> Stacked:
    """Histories as one.

    Args:
        histories: one per user.
        visible: "train" hides held-out rows, "all" shows everything (for serving and for the final test).
    """
    columns = {field.name: [getattr(history, field.name) for history in histories] for field in fields(History)}
    rows = {name: np.concatenate([_NOBODY[name], *column]) for name, column in columns.items()}
    user = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    if visible == "all":
        rows["held_out"] = np.zeros(len(user), np.bool_)
    elif rows["held_out"].any():
        kept = ~rows["held_out"]
        rows, user = {name: column[kept] for name, column in rows.items()}, user[kept]
    length = np.bincount(user, minlength=len(histories))
    place = np.arange(len(user)) - np.repeat(np.cumsum(length) - length, length)
    return Stacked(History(**rows), user, place, length)


def behaviour_features(seen: Stacked) -> NDArray[np.float32]:
    """What the encoder sees of each row besides the item itself.

    Returns:
        (n, 9) float32: one-hot kind (5), log-scaled count, normalised dwell, rating (0.5 where there is none), recency
        in 0..1 (1 = the user's newest event; halves after about a month). Recency is relative to the user's own newest
        event, so that nothing depends on a clock; and what is hidden tells nothing of the others.
    """
    rows, n = seen.rows, len(seen.user)
    out = np.zeros((n, BEHAVIOUR_WIDTH), np.float32)
    if n == 0:
        return out
    out[np.arange(n), rows.kind] = 1.0
    out[:, 5] = np.log1p(rows.count) / np.log(2.0) - 1.0
    out[:, 6] = rows.dwell
    out[:, 7] = np.where(np.isnan(rows.rating), 0.5, rows.rating)
    newest = np.repeat(np.maximum.reduceat(rows.time, seen.first), seen.length[seen.length > 0])
    out[:, 8] = 1.0 / (1.0 + (newest - rows.time) / DAY / 30.0)
    return out


BEHAVIOUR_WIDTH: Final = len(KINDS) + 4
_NOBODY: Final[dict[str, NDArray[Any]]] = {
    "item": np.zeros(0, np.int32),
    "kind": np.zeros(0, np.int8),
    "count": np.zeros(0, np.float32),
    "dwell": np.zeros(0, np.float32),
    "rating": np.zeros(0, np.float32),
    "time": np.zeros(0, np.float64),
    "held_out": np.zeros(0, np.bool_),
}
