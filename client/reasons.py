"""Why one item is, or would be, on a person's list; only its row and those of the person's own items are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from client.answers import Explained, Source
from client.explaining import Explanation, Reason, explain, in_words
from client.mapped import NOBODY, MappedModel, MappedShelf, rows_of
from client.recommending import PRICE, Shown, parts_of, summed, user_sides
from client.serving import Person, renumbered
from shared.errors import DataError
from shared.history import NOT_INTERESTED

_OTHERWISE: Final = "no single thing that you did carries it: it is what the parts of its score add up to"
_BY_SOURCE: Final[Mapping[str | None, str]] = {
    "trending": "many people came to it lately",
    "popular": "many others chose it",
    "new": "it is among the newest of the catalogue",
    "similar": "it is like the item that you named",
}


def explained(shelf: MappedShelf, person: Person, name: str, source: Source | None) -> Explained:
    """The reasons of one item.

    Args:
        shelf: what is served.
        person: whose list it is.
        name: raw id of the item.
        source: what put it on the last list; None = it is not on it.

    Raises:
        DataError: the catalogue does not have it.
    """
    item = shelf.find(name)
    if item == NOBODY:
        raise DataError(f"item {name!r:.80}: not in the catalogue")
    title, model, history = shelf.titles[item], shelf.model, person.history
    said: tuple[str, ...] = (_BY_SOURCE[source],) if source in _BY_SOURCE else ()
    row = np.flatnonzero(history.item == item)
    if len(row):
        down = history.kind[row[0]] == NOT_INTERESTED
        said += ("you turned it down, so it is not shown" if down else "you know it already",)
    if item in shelf.barred:
        said += ("a rule keeps it from every list",)
    if item in person.unavailable:
        said += ("it cannot be had at the moment",)
    if model is None:
        return Explained(name, title, said or ("there is no model yet, so nothing is weighed",))
    why = _explanation(model, person, item, by_chance=source == "chance")
    if len(history):
        local, titles = renumbered(history), [shelf.titles[one] for one in history.item]
        words = in_words(why, local, titles)
        said += (words,) if words else ()

    def named(reasons: tuple[Reason, ...]) -> tuple[tuple[str, float], ...]:
        return tuple((shelf.titles[history.item[one.row]], one.effect) for one in reasons)

    return Explained(
        item=name,
        title=title,
        sentences=said or (_OTHERWISE,),
        score=why.score,
        parts=why.parts,
        because=named(why.because),
        despite=named(why.despite),
        policy_version=why.policy_version,
    )


def _explanation(model: MappedModel, person: Person, item: int, *, by_chance: bool) -> Explanation:
    """The item in the first row, the person's own behind it."""
    rows = rows_of(model, np.array([item, *person.history.item], np.int64))
    local, first = renumbered(person.history, 1), np.zeros(1, np.int64)
    users = user_sides(rows, model.policy, [local], person.personal)
    parts = {group: part[0] for group, part in parts_of(rows, model.policy, users, person.personal, item=first).items()}
    if model.price[item]:
        parts[PRICE] = -model.price[[item]]
    shown = Shown(first, parts, summed(parts, (1,)), np.array([by_chance]))
    (only,) = explain(rows, model.policy, local, shown, personal=person.personal)
    return only
