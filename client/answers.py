"""What a person's programs ask of a device, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Source = Literal["you", "similar", "trending", "popular", "new", "chance"]


@dataclass(frozen=True)
class Wish:
    """One request for a list.

    Attributes:
        k: how many; None = what the policy says.
        categories: only items of at least one of these; () = of all.
        available_only: leave out what cannot be had at the moment.
        exclude_seen: leave out what this person has seen. What they turned down never comes back.
        still_allowed: raw ids of seen items that may come again, as a refill does.
        diversity: 0..1 in place of the policy's; None = the policy's.
        similar_to: raw id; the list is of items like this one, instead of for this person.
        explore: leave places to chance where the policy does.
    """

    k: int | None = None
    categories: tuple[str, ...] = ()
    available_only: bool = True
    exclude_seen: bool = True
    still_allowed: tuple[str, ...] = ()
    diversity: float | None = None
    similar_to: str | None = None
    explore: bool = True


@dataclass(frozen=True)
class Offer:
    """One item of a list.

    Attributes:
        id, title, categories: the item's.
        score: in logits; orders what comes from one source, but for diversity and chance. 0 without a model.
        parts: part of the score -> logits; empty without a model.
        source: what put it there.
    """

    id: str
    title: str
    categories: tuple[str, ...]
    score: float
    parts: Mapping[str, float]
    source: Source


@dataclass(frozen=True)
class Answer:
    """A list, best first.

    Attributes:
        offers: k of them, or as many as there are.
        catalogue: version served; "" = there is none yet.
        policy_version: in force; None without a model.
        model_round: of the model; None without one.
        why: which source the list starts with, and why: a sentence.
    """

    offers: tuple[Offer, ...]
    catalogue: str
    policy_version: int | None
    model_round: int | None
    why: str


@dataclass(frozen=True)
class Explained:
    """Why an item is, or would be, on this person's list.

    Attributes:
        item, title: the item's.
        sentences: for a person, the first the most important.
        score: in logits.
        parts: part of the score -> logits.
        because: (title, effect): items of the history without which the score would be lower by so many logits.
        despite: the same where it would be higher.
        policy_version: in force; None without a model.
    """

    item: str
    title: str
    sentences: tuple[str, ...]
    score: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    because: tuple[tuple[str, float], ...] = ()
    despite: tuple[tuple[str, float], ...] = ()
    policy_version: int | None = None


@dataclass(frozen=True)
class Standing:
    """How a device stands; nothing of it says what the person did.

    Attributes:
        events: stored.
        items: in the catalogue; 0 = none yet.
        catalogue, run, model_round, policy_version: what is served.
        publication: number of the last one that was taken; 0 = none.
        trending: how many items are said to be trending.
        unavailable: how many cannot be had.
        adapted: events that the personal part has learned from.
        index: how candidates are found: "graph", "every row", or "" without a model.
        trouble: why a newer shelf is not served; "" = none.
    """

    events: int
    items: int
    catalogue: str
    run: str
    model_round: int | None
    policy_version: int | None
    publication: int
    trending: int
    unavailable: int
    adapted: int
    index: str
    trouble: str
