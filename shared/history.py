"""One user's behaviour, as the encoder reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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


def behaviour_features(history: History) -> NDArray[np.float32]:
    """What the encoder sees of each row besides the item itself.

    Returns:
        (n, 9) float32: one-hot kind (5), log-scaled count, normalised dwell, rating (0.5 where there is none), recency
        in 0..1 (1 = the user's newest event; halves after about a month). Recency is relative to the user's own newest
        event, so that nothing depends on a clock; to the newest that is not held out, so that nothing tells of the
        others.
    """
    n = len(history)
    out = np.zeros((n, len(KINDS) + 4), np.float32)
    if n == 0:
        return out
    out[np.arange(n), history.kind] = 1.0
    out[:, 5] = np.log1p(history.count) / np.log(2.0) - 1.0
    out[:, 6] = history.dwell
    out[:, 7] = np.where(np.isnan(history.rating), 0.5, history.rating)
    newest = history.time.max(where=~history.held_out, initial=-np.inf)
    age = np.maximum(newest - history.time, 0.0) / DAY
    out[:, 8] = 1.0 / (1.0 + age / 30.0)
    return out


BEHAVIOUR_WIDTH: Final = len(KINDS) + 4
