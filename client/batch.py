"""What a training step sees of each user: a fresh random split of the history, padded to public sizes.

Every visit splits the user's own visible history at random into context (what the encoder reads) and targets (what it
should find), so that nothing held out is ever touched. Negatives are uniform over the catalogue and may exclude
*visible* positives only: excluding a held-out item would tell the model where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.history import BEHAVIOUR_WIDTH, NOT_INTERESTED, Stacked, behaviour_features
from shared.recall.item_rules import Mask

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
_HALF: Final = np.uint64(32)


@dataclass(frozen=True)
class BatchShape:
    """Public sizes; the same for every history, so that time and memory say nothing about it."""

    context: int
    targets: int
    negatives: int


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        item: (users, context + targets + negatives) int64 item indices; 0 where a place is empty.
        behaviour: (users, context, BEHAVIOUR_WIDTH) float32; zero rows are empty places.
        target: (users, targets) float32, 1 where there is a target.
        rating: (users, targets) float32 in 0..1, 1 where there is no rating.
        negative: (users, negatives) float32, 1 where the item is a true negative.
    """

    item: NDArray[np.int64]
    behaviour: NDArray[np.float32]
    target: NDArray[np.float32]
    rating: NDArray[np.float32]
    negative: NDArray[np.float32]

    def rows(self, part: slice) -> Batch:
        """Some of its users."""
        return Batch(self.item[part], self.behaviour[part], self.target[part], self.rating[part], self.negative[part])


def draw(
    seen: Stacked,
    keys: Sequence[int],
    barred: Sequence[Mask],
    items: int,
    shape: BatchShape,
    *,
    visit: int = 0,
    rows: int | None = None,
) -> Batch:
    """Split every history at random and draw its negatives, all users at once.

    Args:
        seen: the histories of fewer than 2^20 users, held-out rows left out; empty ones give empty rows.
        keys: one 64-bit word per user, all its chance: a draw depends on nobody else, whatever the batch.
        barred: one per user, (items,) what is neither target nor negative; it stays context.
        items: size of the catalogue, below 2^32.
        shape: public sizes.
        visit: number of the local step; each draws anew.
        rows: size of the batch, the last rows empty; None = one row a history.
    """
    users = len(seen.length)
    key = np.fromiter(keys, np.uint64, users)
    batch = _empty(users if rows is None else rows, shape)
    liked = seen.rows.kind != NOT_INTERESTED
    wanted = liked & ~barred_of(barred, seen.user, seen.rows.item)

    # What was wanted goes first, then what is barred, then what was turned down; within these, chance decides.
    rank = _ranks(seen, np.where(wanted, 0, np.where(liked, 1, 2)), words(key[seen.user], 2 * visit, seen.place))
    positives = np.bincount(seen.user[wanted], minlength=users)
    # At most half of the history becomes targets: a context that is too thin teaches the encoder to ignore it.
    targets = np.minimum(np.minimum(shape.targets, np.maximum(1, positives // 2)), positives)[seen.user]
    target = np.flatnonzero(rank < targets)
    where = (seen.user[target], rank[target])
    batch.item[where[0], shape.context + where[1]] = seen.rows.item[target]
    batch.target[where] = 1.0
    batch.rating[where] = np.nan_to_num(seen.rows.rating[target], nan=1.0)

    read = (rank >= targets) & (rank < targets + shape.context)
    # Which rows are read is left to chance, but they stay in order of time: the oldest first.
    before: NDArray[np.int64] = np.cumsum(read) - read
    place: NDArray[np.int64] = before - np.repeat(before[seen.first], seen.length[seen.length > 0])
    where = (seen.user[read], place[read])
    batch.item[where] = seen.rows.item[read]
    batch.behaviour[where] = behaviour_features(seen)[read]

    drawn = words(key[:, None], 2 * visit + 1, np.arange(shape.negatives))
    # A word's upper half times the number of items: off from uniform by less than items / 2^32.
    negative = ((drawn >> _HALF) * np.uint64(items) >> _HALF).astype(np.int64)
    user = np.arange(users)[:, None]
    own = np.sort(seen.user[liked] * items + seen.rows.item[liked])
    left_out = barred_of(barred, user, negative) | _among(user * items + negative, own)
    filled = seen.length > 0
    batch.item[:users, shape.context + shape.targets :][filled] = negative[filled]
    batch.negative[:users][filled] = ~left_out[filled]
    return batch


def together(batches: Sequence[Batch]) -> Batch:
    """Several batches of the same users as one: the rows of a user one after another."""
    columns = zip(*(vars(batch).values() for batch in batches), strict=True)
    return Batch(*(np.stack(parts, 1).reshape(-1, *parts[0].shape[1:]) for parts in columns))


def words(key: NDArray[np.uint64], stream: int, number: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Word ``number`` of a stream under a key, arrays of one shape after broadcasting.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 16) with a counter for a state, so that no word waits for
    the one before. Not for secrets: splits and negatives are what it draws, and no privacy rests on these.
    """
    begin = _mixed(key + np.uint64((stream + 1) * int(_GOLDEN) % 2**64))
    return _mixed(begin + (number.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def barred_of(barred: Sequence[Mask], user: NDArray[np.int64], item: NDArray[np.integer]) -> Mask:
    """Whether each item is barred for its user; masks that are one object are looked at once.

    Args:
        barred: one per user, (items,).
        user, item: arrays of one shape after broadcasting.
    """
    shared = {id(mask): mask for mask in barred}
    out = np.zeros(item.shape, np.bool_)
    for mask in shared.values():
        if len(shared) == 1:
            out[...] = mask[item]
        else:
            mine = np.fromiter((one is mask for one in barred), np.bool_, len(barred))
            out |= mask[item] & mine[user]
    return out


def _empty(users: int, shape: BatchShape) -> Batch:
    return Batch(
        item=np.zeros((users, shape.context + shape.targets + shape.negatives), np.int64),
        behaviour=np.zeros((users, shape.context, BEHAVIOUR_WIDTH), np.float32),
        target=np.zeros((users, shape.targets), np.float32),
        rating=np.ones((users, shape.targets), np.float32),
        negative=np.zeros((users, shape.negatives), np.float32),
    )


def _ranks(seen: Stacked, group: NDArray[np.int64], word: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) each row's place among its user's, by group and then by its word."""
    # One number that holds all: 2^20 users, 26 bits of chance, and the place so that no two are the same.
    user, place = seen.user.astype(np.uint64), seen.place.astype(np.uint64) & np.uint64(0xFFFF)
    whole = (
        (user << np.uint64(44))
        | (group.astype(np.uint64) << np.uint64(42))
        | (word >> np.uint64(22) & ~np.uint64(0xFFFF))
        | place
    )
    rank = np.empty(len(whole), np.int64)
    rank[np.argsort(whole)] = seen.place
    return rank


def _among(values: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which values are in the sorted ``known``."""
    if not len(known):
        return np.zeros(values.shape, np.bool_)
    here: NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return here


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
