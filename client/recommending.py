"""What a device recommends: model, catalogue, policy, own history and item rules in, a list with its scores out.

numpy only, so that a device without torch can serve. A measurement makes its lists from the same parts
(``client/measuring.py``): what is measured is what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.catalogue import Catalogue
from shared.encoder.encode import context_vectors, item_vectors, log_popularity_of, pad, user_groups
from shared.encoder.spec import EncoderSpec, Floats, bucket_of
from shared.errors import ConfigError
from shared.history import History
from shared.policy.recall_policy import BOUNDS, RecallPolicy
from shared.recall.item_rules import NO_RULES, ItemRules, barred
from shared.recall.rerank import item_prices, recommend
from shared.recall.scoring import group_scores

PRICE = "exposure price"  # how explanations call it, beside the feature groups


@dataclass(frozen=True)
class Rows:
    """What a score needs of a model and of some items; all of it is public.

    Attributes:
        spec, parameters: the encoder.
        items: feature group -> (items, width); "text" holds the learned item vectors.
        context: (items, rank) what an item adds to the vector of a user who has it.
        popularity: (items,) log private popularity, plus the learned bias of an encoder that has one.
        scale: typical coordinate of the vector of a user with one item.
    """

    spec: EncoderSpec
    parameters: Floats
    items: Mapping[str, Floats]
    context: Floats
    popularity: Floats
    scale: float


@dataclass(frozen=True)
class Shelf(Rows):
    """A model and a whole catalogue, made ready once for many requests.

    Attributes:
        catalogue: what can be recommended.
        prior: (buckets,) log private popularity.
        bucket: (items,) row of each item in per-item vectors.
        rules: what may never be shown.
    """

    catalogue: Catalogue
    prior: Floats
    bucket: NDArray[np.int64]
    rules: ItemRules


@dataclass(frozen=True)
class Personal:
    """What a device has learned for one user alone (``client/adapting.py``); it never leaves.

    Attributes:
        offset: (rank,) added to the user's vector of group "text".
        gain: feature group -> by what share of itself its weight is raised; groups that are missing have 0.
    """

    offset: Floats
    gain: Mapping[str, float]


@dataclass(frozen=True)
class Shown:
    """A list, best first.

    Attributes:
        item: (n,) item indices, n <= k.
        parts: part of the score -> (n,), logits: one a feature group that counts, and ``PRICE`` where there is one.
        score: (n,) their sum. It orders the list, but for diversity and the places of exploration.
        chance: (n,) bool, places that exploration filled; without it the list would be the same up to there.
    """

    item: NDArray[np.int64]
    parts: Mapping[str, Floats]
    score: Floats
    chance: NDArray[np.bool_]


def shelf_of(
    spec: EncoderSpec,
    parameters: Floats,
    prior: Floats,
    catalogue: Catalogue,
    *,
    rules: ItemRules = NO_RULES,
    bucket: NDArray[np.int64] | None = None,
) -> Shelf:
    """Item vectors and popularity, computed once.

    Args:
        spec, parameters, prior: the model.
        catalogue: the one that it was trained with, or a later version (``client/newcomers.py``).
        rules: what may never be shown.
        bucket: (items,) row of each item in per-item vectors; None = as in training.
    """
    bucket = bucket_of(catalogue.ids, spec.buckets) if bucket is None else bucket
    read = catalogue.groups[spec.reads]
    items = {**catalogue.groups, "text": item_vectors(spec, parameters, read, bucket)}
    context = context_vectors(spec, parameters, read, bucket)
    popularity = log_popularity_of(spec, parameters, prior)[bucket]
    scale = _scale(spec, context)
    return Shelf(spec, parameters, items, context, popularity, scale, catalogue, prior, bucket, rules)


def _scale(spec: EncoderSpec, context: Floats) -> float:
    if spec.kind == "linear":  # users with one item have length one
        return float(spec.rank**-0.5)
    return float(np.sqrt(np.mean(np.square(context, dtype=np.float64)))) or 1.0


def requested(policy: RecallPolicy, *, k: int | None = None, diversity: float | None = None) -> RecallPolicy:
    """The policy of one request: its own k and diversity in place of the policy's.

    Raises:
        ConfigError: a value out of bounds.
    """
    check_request(k, diversity)
    return replace(
        policy,
        k=policy.k if k is None else k,
        diversity=policy.diversity if diversity is None else diversity,
    )


def check_request(k: int | None, diversity: float | None) -> None:
    """What a request may ask for; None = nothing of its own.

    Raises:
        ConfigError: a value out of bounds.
    """
    most = BOUNDS["k"][1]
    if k is not None and not 1 <= k <= most:
        raise ConfigError(f"k = {k}: a request may ask for 1 to {most} items")
    if diversity is not None and not 0 <= diversity <= 1:
        raise ConfigError(f"diversity = {diversity}: must lie between 0 and 1")


def shown_to(
    shelf: Shelf,
    policy: RecallPolicy,
    history: History,
    rng: np.random.Generator,
    *,
    age: int | None = None,
    personal: Personal | None = None,
) -> Shown:
    """The list of one user.

    Never on it, whatever the policy: what the user has seen or turned down, and what the item rules bar at this age.

    Args:
        shelf: model, catalogue and rules.
        policy: in force; of one request, see :func:`requested`.
        history: the user's own; held-out rows count like all others, as a device serves with all it has.
        rng: chance for exploration.
        age: the user's, in years; None = unknown, so whatever has an age limit is barred.
        personal: what was learned on the device for this user alone.
    """
    users = user_sides(shelf, policy, [history], personal)
    excluded = barred(shelf.rules, shelf.catalogue.ids, age)
    excluded[history.item] = True
    return listed(
        policy,
        {group: part[0] for group, part in parts_of(shelf, policy, users, personal).items()},
        excluded,
        len(np.unique(history.item)),
        item_prices(policy, shelf.prior, shelf.bucket),
        shelf.catalogue.groups["text"],
        rng,
    )


def listed(
    policy: RecallPolicy,
    parts: Mapping[str, Floats],
    excluded: NDArray[np.bool_],
    seen: int,
    price: Floats,
    vectors: Floats,
    rng: np.random.Generator,
) -> Shown:
    """The list out of some items.

    It is the list out of all when the best of the catalogue are among them, as deep as the policy looks.

    Args:
        policy: in force.
        parts: part of the score -> (items,), as :func:`parts_of`.
        excluded: (items,) never to be shown.
        seen: distinct items of the history.
        price: (items,) logits that an item pays.
        vectors: (items, width) unit rows, what "alike" means for diversity; not read without diversity.
        rng: chance for exploration.
    """
    total = summed(parts, excluded.shape)

    def ranked(how: RecallPolicy) -> NDArray[np.int64]:
        (only,) = recommend(how, total[None], excluded[None], np.array([seen]), price, vectors, [rng])
        return np.asarray(only, np.int64)

    chosen = ranked(policy)
    strays = np.zeros(len(chosen), bool)
    if policy.exploration > 0:
        strays = np.logical_or.accumulate(chosen != ranked(replace(policy, exploration=0.0)))
    item = chosen[chosen >= 0]
    own: dict[str, Floats] = {group: part[item] for group, part in parts.items()}
    if price.any():
        own[PRICE] = -price[item]
    return Shown(item, own, summed(own, item.shape), strays[chosen >= 0])


def user_sides(
    shelf: Rows, policy: RecallPolicy, histories: list[History], personal: Personal | None = None
) -> dict[str, Floats]:
    """Feature group that counts -> (users, width): what whole histories say, plus the personal offset."""
    counted = {group: vectors for group, vectors in shelf.items.items() if group == "text" or policy.weight(group)}
    users = user_groups(shelf.spec, shelf.parameters, counted, shelf.context, pad(histories, visible="all"))
    if personal is not None:
        users["text"] = users["text"] + personal.offset
    return users


def parts_of(
    shelf: Rows,
    policy: RecallPolicy,
    users: Mapping[str, Floats],
    personal: Personal | None = None,
    *,
    item: NDArray[np.int64] | None = None,
) -> dict[str, Floats]:
    """The parts of R, (users, items) a feature group.

    Args:
        shelf, policy, personal: see :func:`shown_to`.
        users: of :func:`user_sides`.
        item: only for these items, in this order.
    """
    chosen = slice(None) if item is None else item
    items = {group: vectors[chosen] for group, vectors in shelf.items.items()}
    parts = group_scores(policy, users, items, shelf.popularity[chosen])
    if personal is None:
        return parts
    return {group: np.float32(1.0 + personal.gain.get(group, 0.0)) * part for group, part in parts.items()}


def summed(parts: Mapping[str, Floats], shape: tuple[int, ...]) -> Floats:
    """The sum of the parts of a score; zeros where no feature group counts."""
    total = np.zeros(shape, np.float32)
    for part in parts.values():
        total += part
    return total
