"""What one Opacus sample is: a user's whole history, or a part of it that holds each event once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np

from client.batch import words
from shared.history import History
from shared.privacy.plan import Unit

BLOCKS: Final = 8  # samples per user under unit "interaction"; public, the same for everybody
_BLOCK, _KEY = 2**40, 2**40 + 1  # streams of words apart from those of any local step


def as_units(unit: Unit, histories: Sequence[History], keys: Sequence[int]) -> tuple[list[History], list[int]]:
    """The samples of local training, and the word that is each one's chance.

    user: the histories as they are. interaction: every event is put into one of ``BLOCKS`` disjoint blocks by a draw
    of its own, and a block is a sample: context and targets both come from it. So an event touches exactly one
    sample, in its own right and as somebody's context, and taking it away changes one clipped gradient into another:
    sensitivity twice the clip (``Mechanism.sensitivity``). A sample of one event each would leak through the contexts
    of all others.

    Formal guarantees: for unit "interaction", the multiset of samples differs in one element between histories that
    differ in one event, given the same draws.

    Edge cases: an empty history gives empty samples, as many as any other.
    """
    if unit == "user":
        return list(histories), list(keys)
    out: list[History] = []
    words_of: list[int] = []
    for history, key in zip(histories, keys, strict=True):
        own = np.array([key], np.uint64)
        # By the item, of which a history has one row: what is taken away moves no other event to another block.
        block = words(own, _BLOCK, history.item.astype(np.int64)) % np.uint64(BLOCKS)
        out += [_rows(history, block == number) for number in range(BLOCKS)]
        words_of += words(own, _KEY, np.arange(BLOCKS)).tolist()
    return out, words_of


def _rows(history: History, chosen: Any) -> History:  # noqa: ANN401 - any numpy index
    return replace(history, **{field.name: getattr(history, field.name)[chosen] for field in fields(History)})
