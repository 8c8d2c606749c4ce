"""Learning on the device from a mapped shelf: one step an event, against a sample of the catalogue.

What ``client/adapting.py`` does with a whole catalogue in memory, for a resident process that has none. State is kept
sealed beside the behaviour that it was learned from, and is void with it: what was forgotten must not live on in it, so
it is learned anew from what is left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np

from client.adapting import Adapted, AdaptingTerms, stepped, unadapted
from client.mapped import MappedShelf, rows_of
from client.serving import among, renumbered
from client.store import Event, with_event
from shared.history import KINDS, NOT_INTERESTED, History
from shared.recall.index import Indices

ADAPTED: Final = "adapted"  # what a personal part is sealed as
REPLAYED: Final = 20  # newest events that a personal part is learned anew from; as in ``fedrecall-sim adapt``


def learned(
    shelf: MappedShelf,
    history: History,
    state: Adapted,
    event: Event,
    terms: AdaptingTerms,
    rng: np.random.Generator,
) -> Adapted:
    """One step of the personal part, against a sample of the catalogue; the same state where there is nothing to learn.

    Args:
        shelf: with a model.
        history: before the event.
        state: before.
        event: what was done.
        terms: how to learn.
        rng: chance for the sample; no privacy rests on it.
    """
    model = shelf.model
    if model is None or among(np.array([event.item]), shelf.barred)[0]:
        return state
    others = _sample(len(shelf), terms.negatives, np.union1d(np.append(history.item, event.item), shelf.barred), rng)
    if len(others) == 0:
        return state
    item = np.concatenate([[event.item], others, history.item]).astype(np.int64)
    first = 1 + len(others)
    local = renumbered(history, first)
    wanted = event.kind != KINDS[NOT_INTERESTED]
    return stepped(rows_of(model, item), model.policy, local, state, np.arange(first), terms, wanted=wanted)


def _sample(items: int, count: int, taken: Indices, rng: np.random.Generator) -> Indices:
    """Up to ``count`` different items that are not taken."""
    if items - len(taken) <= 4 * count:  # few are left: no guessing
        free = np.setdiff1d(np.arange(items), taken, assume_unique=True)
        return np.asarray(rng.choice(free, min(count, len(free)), replace=False), np.int64)
    guessed = np.unique(rng.integers(items, size=2 * count * items // (items - len(taken))))
    free = np.setdiff1d(guessed, taken, assume_unique=True)
    return np.asarray(rng.permutation(free)[:count], np.int64)


def relearned(
    shelf: MappedShelf, past: History, events: Sequence[Event], terms: AdaptingTerms, rng: np.random.Generator
) -> Adapted:
    """The personal part, learned anew from the newest events.

    Args:
        shelf: with a model.
        past: the history before them.
        events: oldest first.
        terms: how to learn.
        rng: chance for samples.
    """
    state = unadapted(0 if shelf.model is None else shelf.model.spec.rank)
    for event in events:
        state = learned(shelf, past, state, event, terms, rng)
        past = with_event(past, event)
    return state


def adapted_bytes(state: Adapted, run: str) -> bytes:
    """A personal part as bytes, to be sealed.

    Args:
        state: what was learned.
        run: whose vectors it is an offset of.
    """
    squares, gains = state.squares
    said = {"z": state.z.tolist(), "squares": squares.tolist(), "gain": dict(state.gain), "gain squares": dict(gains)}
    return json.dumps(said | {"events": state.events, "run": run}).encode()


def adapted_of(content: bytes, run: str, rank: int) -> Adapted | None:
    """What :func:`adapted_bytes` was given; None where it was learned on the vectors of another run."""
    said = json.loads(content)
    if said["run"] != run or len(said["z"]) != rank:
        return None
    squares = np.array(said["squares"], np.float32), said["gain squares"]
    return Adapted(np.array(said["z"], np.float32), said["gain"], squares, said["events"])
