"""Recommendations for a person to look at: titles, the parts of the score, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from client.explaining import Explanation, explain, in_words
from client.recommending import Shelf, shown_to
from shared.history import NOT_INTERESTED, History
from shared.policy.recall_policy import RecallPolicy
from simulations.model import Model, shelf_for
from simulations.world import World

PEOPLE: Final = 4
SHOWN: Final = 8


def examples(world: World, model: Model, rngs: Sequence[np.random.Generator]) -> list[dict[str, Any]]:
    """A few users with test items, spread over the catalogue of users, and what they would be shown."""
    asked = [place for place, user in enumerate(world.asked) if len(world.test[user])]
    chosen = [asked[i] for i in np.linspace(0, len(asked) - 1, min(PEOPLE, len(asked))).astype(int)]
    shelf = shelf_for(model, world.catalogue)
    return [example(world, shelf, model.policy, int(world.asked[place]), rngs[place])[0] for place in chosen]


def example(
    world: World,
    shelf: Shelf,
    policy: RecallPolicy,
    user: int,
    rng: np.random.Generator,
    *,
    shown: int = SHOWN,
    age: int | None = None,
) -> tuple[dict[str, Any], list[Explanation]]:
    """One user's list, explained.

    Args:
        world: all behaviour.
        shelf, policy: what lists are made with.
        user: dense user index.
        rng: chance for exploration.
        shown: items to return, at most k.
        age: the user's, None = unknown.

    Returns:
        For JSON: ``user``, ``history`` (newest titles) and ``recommendations``: title, score, its parts in logits
        (feature groups, exposure price) and their shares, the first reason as a sentence, history items with what the
        score would lose (``reasons``) or gain (``despite``) without them, what placed the item, whether it was held out
        for the test, and the policy's version. And the explanations themselves.
    """
    history, titles = world.histories[user], world.catalogue.titles
    listed = shown_to(shelf, policy, history, rng, age=age)
    told = explain(shelf, policy, history, listed)[:shown]
    newest = history.item[history.kind != NOT_INTERESTED][::-1][:SHOWN]
    answer = {
        "user": world.users[user],
        "history": [titles[item] for item in newest],
        "recommendations": [
            as_json(said, history, titles) | {"held_out": bool(np.isin(said.item, world.test[user]))} for said in told
        ],
    }
    return answer, told


def as_json(said: Explanation, history: History, titles: Sequence[str]) -> dict[str, Any]:
    """An explanation in plain types and titles, rounded for people."""
    parts = {name: round(part, 3) for name, part in said.parts.items()}
    effects = {
        side: [{"title": titles[history.item[reason.row]], "effect": round(reason.effect, 3)} for reason in reasons]
        for side, reasons in (("reasons", said.because), ("despite", said.despite))
    }
    return {
        "title": titles[said.item],
        "score": round(sum(parts.values()), 3),
        "parts": parts,
        "shares": {name: round(share, 3) for name, share in said.shares.items()},
        "because": in_words(said, history, titles),
        **effects,
        "placed": said.placed,
        "policy_version": said.policy_version,
    }
