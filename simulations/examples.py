"""Recommendations for a person to look at: titles, the parts of the score, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from client.measuring import lists
from server.job import Job
from shared.encoder.encode import item_vectors, pad, user_groups
from shared.encoder.spec import bucket_of, unpack
from shared.history import NOT_INTERESTED
from shared.recall.rerank import popularity_price
from shared.recall.scoring import group_scores, similarity
from simulations.model import Model
from simulations.world import World

PEOPLE: Final = 4
SHOWN: Final = 8
VERBS: Final = ("viewed", "bought", "rated", "spent time on", "turned down")


def examples(world: World, job: Job, model: Model, rngs: Sequence[np.random.Generator]) -> list[dict[str, Any]]:
    """A few users with test items, spread over the catalogue of users, and what they would be shown."""
    asked = [user for user, wanted in enumerate(world.test) if len(wanted)]
    chosen = [asked[i] for i in np.linspace(0, len(asked) - 1, min(PEOPLE, len(asked))).astype(int)]
    return [recommend(world, job, model, user, rngs[user]) for user in chosen]


def recommend(
    world: World, job: Job, model: Model, user: int, rng: np.random.Generator, *, shown: int = SHOWN
) -> dict[str, Any]:
    """One user's list under the final policy, explained.

    Args:
        world: all behaviour.
        job, model: sizes, parameters and policy.
        user: dense user index.
        rng: chance for exploration.
        shown: items to return, at most k.

    Returns:
        ``user``, ``history`` (newest titles) and ``recommendations``: title, score, its parts (feature groups, exposure
        price), the history item nearest in the learned vectors, and whether the item was held out for the test.
    """
    catalogue, history, policy = world.catalogue, world.histories[user], model.policy
    bucket = bucket_of(catalogue.ids, job.encoder.buckets)
    groups = dict(catalogue.groups)
    ranked = next(
        lists(job.encoder, model.parameters, groups, bucket, model.prior, policy, [history], [rng], visible="all")
    )[0]
    ranked = ranked[ranked >= 0][:shown]
    vectors = item_vectors(job.encoder, model.parameters, groups["text"], bucket)
    users = user_groups(job.encoder, model.parameters, {**groups, "text": vectors}, pad([history], visible="all"))
    popularity = (model.prior + unpack(job.encoder, model.parameters)["bias"])[bucket]
    price = popularity_price(model.prior[bucket])
    parts = group_scores(policy, users, {**groups, "text": vectors}, popularity)
    liked = np.flatnonzero(history.kind != NOT_INTERESTED)
    near = similarity("cosine", vectors[ranked], vectors[history.item[liked]])
    out = []
    for place, item in enumerate(ranked):
        because = None
        if len(liked):
            row = liked[int(near[place].argmax())]
            because = f"because you {VERBS[history.kind[row]]} {catalogue.titles[history.item[row]]}"
        own = {group: round(float(part[0, item]), 3) for group, part in parts.items()}
        if policy.exposure_price > 0:
            own["exposure price"] = round(-policy.exposure_price * float(price[item]), 3)
        out.append(
            {
                "title": catalogue.titles[item],
                "score": round(sum(own.values()), 3),
                "parts": own,
                "because": because,
                "held_out": bool(np.isin(item, world.test[user])),
            }
        )
    newest = history.item[liked][::-1][:SHOWN]
    return {
        "user": world.dataset.users[user],
        "history": [catalogue.titles[item] for item in newest],
        "recommendations": out,
    }
