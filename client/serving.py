"""A list for one person, from a shelf that is mapped into memory.

Two stages. Candidates are found by 64 bytes an item (``shared/recall/index.py``); then only their rows, and those of
the person's own items, are read, and what a measurement does with a whole catalogue (``client/recommending.py``) is
done with these few. Where all items are candidates the list is the same, so what is measured is what is served.

Where nothing of a person is known, or no model is there yet, a list is filled from the next source that has something:
what is trending, what is popular (both of private releases), what is newest in the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.answers import Answer, Offer, Source, Wish
from client.mapped import NOBODY, MappedModel, MappedShelf, ascending, floats_of, rows_of
from client.recommending import (
    PRICE,
    Personal,
    Shown,
    check_request,
    listed,
    parts_of,
    requested,
    summed,
    user_sides,
)
from shared.encoder.spec import Floats
from shared.errors import DataError
from shared.history import NOT_INTERESTED, History
from shared.policy.recall_policy import RecallPolicy
from shared.recall.index import LOOKED_THROUGH, Indices, best_rows, near_rows, query_of

CANDIDATES: Final = 600  # at least so many are scored exactly, and
SPARE: Final = 3  # so many times what is re-ranked: the index knows most of what a score is made of, not all
WIDE: Final = 5  # more than a fifth of the items, and the graph is asked; less, and every allowed row is looked at
TRIES: Final = 3  # of the graph, each twice as wide; where so little may be shown, every row is looked at instead
PLACES: Final = 20  # of a list without a policy
NO_ITEMS: Final = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Person:
    """What a list is made for, apart from the wish.

    Attributes:
        history: the person's own, for the shelf's catalogue.
        personal: what was learned on the device; None = nothing.
        trending: item indices, hottest first.
        unavailable: item indices that cannot be had, ascending.
    """

    history: History
    personal: Personal | None = None
    trending: Indices = field(default_factory=lambda: NO_ITEMS)
    unavailable: Indices = field(default_factory=lambda: NO_ITEMS)


@dataclass(frozen=True)
class Filter:
    """Which items a list may hold.

    Attributes:
        never: ascending.
        within: only these, ascending; None = all others.
    """

    never: Indices
    within: Indices | None

    def __call__(self, item: Indices) -> Indices:
        """Those of some items that may be shown, in their order."""
        kept = item[~among(item, self.never)]
        return kept if self.within is None else kept[among(kept, self.within)]


def answered(shelf: MappedShelf, person: Person, wish: Wish, rng: np.random.Generator) -> Answer:
    """The list that somebody wishes for.

    Args:
        shelf: what is served.
        person: whom it is for.
        wish: the request.
        rng: chance for exploration.

    Raises:
        ConfigError: a value of the wish out of bounds.
        DataError: it names an item or a category that the catalogue does not have.
    """
    check_request(wish.k, wish.diversity)
    model, like = shelf.model, _place(shelf, wish.similar_to)
    policy = None if model is None else _policy(model, wish)
    allowed = _filter(shelf, person, wish, like)
    history = person.history if like is None else _only(like)
    k = (wish.k or PLACES) if policy is None else policy.k
    chosen: dict[int, tuple[Source, float, dict[str, float]]] = {}
    if model is not None and policy is not None and len(history):
        aim = policy if like is None else _unpopular(policy)
        personal = person.personal if like is None else None
        shown = personal_list(model, aim, history, personal, allowed, rng)
        own: Source = "you" if like is None else "similar"
        for place, item in enumerate(shown.item.tolist()):
            parts = {name: float(part[place]) for name, part in shown.parts.items()}
            chosen[item] = ("chance" if shown.chance[place] else own, float(shown.score[place]), parts)
    rest = _filling(shelf, person, allowed, chosen, k - len(chosen))
    if rest and model is not None and policy is not None:
        priced = scores_of(model, policy, person, np.fromiter(rest, np.int64))
        chosen |= {item: (rest[item], *said) for item, said in zip(rest, priced, strict=True)}
    else:
        chosen |= {item: (source, 0.0, {}) for item, source in rest.items()}
    offers = tuple(
        Offer(shelf.ids[item], shelf.titles[item], shelf.categories_of(item), score, parts, source)
        for item, (source, score, parts) in chosen.items()
    )
    version, made = (None, None) if model is None or policy is None else (policy.version, model.round)
    return Answer(offers, shelf.catalogue, version, made, _why(shelf, person, wish, offers))


def personal_list(
    model: MappedModel,
    policy: RecallPolicy,
    history: History,
    personal: Personal | None,
    allowed: Filter,
    rng: np.random.Generator,
) -> Shown:
    """The list of one history, not empty: candidates, their exact scores, re-ranking.

    Args:
        model, policy, history, personal, rng: as in :func:`client.recommending.shown_to`.
        allowed: what may be shown.
    """
    own, local = rows_of(model, history.item.astype(np.int64)), renumbered(history)
    users = user_sides(own, policy, [local], personal)
    query = query_of(model.frame, policy, users, {} if personal is None else personal.gain)
    count = max(CANDIDATES, SPARE * max(policy.depth, policy.k))
    item = candidates(model, query, count, allowed)
    parts = {group: part[0] for group, part in parts_of(rows_of(model, item), policy, users, personal).items()}
    alike = floats_of(model.alike, item) if policy.diversity > 0 else np.zeros((len(item), 0), np.float32)
    nothing = np.zeros(len(item), np.bool_)
    shown = listed(policy, parts, nothing, len(history), model.price[item], alike, rng)
    return replace(shown, item=item[shown.item])


def candidates(model: MappedModel, query: Floats, count: int, allowed: Filter) -> Indices:
    """Up to ``count`` allowed items, the best by the index; ascending.

    Args:
        model: its rows and graph.
        query: :func:`shared.recall.index.query_of`.
        count: how many to find.
        allowed: what may be shown.
    """
    items, within = len(model.near), allowed.within
    if within is None and len(allowed.never) * WIDE > items:
        within = np.delete(np.arange(items), allowed.never)
    size = items - len(allowed.never) if within is None else len(within)
    if model.graph is not None and size > max(LOOKED_THROUGH, items // WIDE):
        least = count * items // size + min(len(allowed.never), count)
        for fetched in (least << one for one in range(TRIES) if least << one < items // 2):
            found = allowed(near_rows(model.graph, model.near, query, fetched))
            if len(found) >= count:
                return found if len(found) == count else best_rows(model.near, query, count, found)
    if within is not None:
        found = np.setdiff1d(within, allowed.never, assume_unique=True)
    elif len(allowed.never):
        found = allowed(best_rows(model.near, query, count + len(allowed.never)))
    else:
        return best_rows(model.near, query, count)
    return best_rows(model.near, query, count, found)


def scores_of(
    model: MappedModel, policy: RecallPolicy, person: Person, item: Indices
) -> list[tuple[float, dict[str, float]]]:
    """The score of each of some items, and its parts, whatever put them on a list."""
    own = rows_of(model, person.history.item.astype(np.int64) if len(person.history) else np.zeros(1, np.int64))
    users = user_sides(own, policy, [renumbered(person.history)], person.personal)
    parts = {g: p[0] for g, p in parts_of(rows_of(model, item), policy, users, person.personal).items()}
    price = model.price[item]
    if price.any():
        parts[PRICE] = -price
    total = summed(parts, item.shape)
    return [(float(total[at]), {g: float(p[at]) for g, p in parts.items()}) for at in range(len(item))]


def renumbered(history: History, start: int = 0) -> History:
    """A history whose items stand in its own order, from ``start``: as :func:`client.mapped.rows_of` reads them."""
    return replace(history, item=np.arange(start, start + len(history), dtype=np.int32))


def among(item: Indices, some: Indices) -> NDArray[np.bool_]:
    """Which items are among some, ascending."""
    if len(some) == 0:
        return np.zeros(len(item), np.bool_)
    return np.asarray(some[np.searchsorted(some, item) % len(some)] == item)


def _place(shelf: MappedShelf, item: str | None) -> int | None:
    """Index of the item that a wish names.

    Raises:
        DataError: there is none.
    """
    if item is None:
        return None
    place = shelf.find(item)
    if place == NOBODY:
        raise DataError(f"item {item!r:.80}: not in the catalogue, so nothing is like it")
    return place


def _policy(model: MappedModel, wish: Wish) -> RecallPolicy:
    policy = requested(model.policy, k=wish.k, diversity=wish.diversity)
    return policy if wish.explore else replace(policy, exploration=0.0)


def _unpopular(policy: RecallPolicy) -> RecallPolicy:
    """For what is like an item: what is merely popular is not, and nothing is left to chance."""
    return replace(policy, weights={**policy.weights, "popularity": 0.0}, exploration=0.0)


def _only(item: int) -> History:
    """Of somebody who viewed one item and nothing else."""
    one = np.zeros(1)
    return History(
        np.array([item], np.int32),
        one.astype(np.int8),
        np.ones(1, np.float32),
        one.astype(np.float32),
        np.full(1, np.nan, np.float32),
        one,
        one.astype(np.bool_),
    )


def _filter(shelf: MappedShelf, person: Person, wish: Wish, like: int | None) -> Filter:
    history = person.history
    down = history.item[history.kind == NOT_INTERESTED].astype(np.int64)
    again = shelf.found(wish.still_allowed)
    seen = np.setdiff1d(history.item, again).astype(np.int64) if wish.exclude_seen else NO_ITEMS
    gone = person.unavailable if wish.available_only else NO_ITEMS
    itself = NO_ITEMS if like is None else np.array([like], np.int64)
    return Filter(
        ascending([down, seen, gone, itself, shelf.barred]), shelf.within(wish.categories) if wish.categories else None
    )


def _filling(
    shelf: MappedShelf, person: Person, allowed: Filter, taken: Mapping[int, object], places: int
) -> dict[int, Source]:
    """What fills the places that are left, by source: trending, popular, new."""
    out: dict[int, Source] = {}
    for source, some in _sources(shelf, person, allowed):
        if places <= len(out):
            break
        for item in allowed(some).tolist():
            if len(out) < places and item not in taken:
                out.setdefault(item, source)
    return out


def _sources(shelf: MappedShelf, person: Person, allowed: Filter) -> Iterator[tuple[Source, Indices]]:
    yield "trending", person.trending
    within = allowed.within
    if within is not None:
        if shelf.model is not None:
            yield "popular", within[np.argsort(-shelf.model.popularity[within], kind="stable")]
        yield "new", within[::-1]
        return
    if shelf.model is not None:
        yield "popular", shelf.model.popular.astype(np.int64)
    for end in range(len(shelf), 0, -CANDIDATES):  # a catalogue grows at its end
        yield "new", np.arange(max(0, end - CANDIDATES), end)[::-1]


_FIRST: Final[Mapping[Source, str]] = {
    "trending": "what many people came to lately",
    "popular": "what most people choose",
    "new": "what is newest in the catalogue",
}


def _why(shelf: MappedShelf, person: Person, wish: Wish, offers: tuple[Offer, ...]) -> str:
    """A sentence: which source the list starts with, and why none before it."""
    if not offers:
        return "Nothing in the catalogue may be shown under this wish."
    first = offers[0].source
    if first in {"you", "chance"}:
        return f"From what you did with {len(person.history)} of the catalogue's items."
    if first == "similar":
        return "From the item that you named."
    missing = ["there is no model yet"] if shelf.model is None else []
    if shelf.model is not None and wish.similar_to is None and not len(person.history):
        missing.append("nothing that you did is known here yet")
    if first != "trending" and not len(person.trending):
        missing.append("nothing is known to be trending")
    because = f": {' and '.join(missing)}" if missing else ""
    return f"From {_FIRST[first]}{because}."
