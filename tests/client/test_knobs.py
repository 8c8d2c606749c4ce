"""Every field of the policy acts on the device: turning it, and nothing else, changes the list, or what is learned."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from client.host import answer
from shared.policy.recall_policy import RecallPolicy
from shared.protocol import parse_sealed, vector_length

ITEMS, USERS = 48, 6

# field -> two settings that must not give the same lists; "base" goes for both.
LISTS = {
    "similarity text": ({}, {"similarity": {"text": "dot", "lexical": "cosine", "category": "cosine"}}),
    "similarity lexical": ({}, {"similarity": {"text": "cosine", "lexical": "euclidean", "category": "cosine"}}),
    "similarity category": ({}, {"similarity": {"text": "cosine", "lexical": "cosine", "category": "euclidean"}}),
    "weights": ({}, {"weights": {"text": 2.0, "lexical": 3.0, "category": 2.0, "popularity": 1.0}}),
    "features": ({}, {"features": ("text", "popularity")}),
    "depth": ({"exposure_price": 2.0}, {"exposure_price": 2.0, "depth": 15}),
    "depth without a price": ({"exploration": 0.3}, {"exploration": 0.3, "depth": 15}),
    "exposure_price": ({}, {"exposure_price": 2.0}),
    "exposure_prices": ({}, {"exposure_prices": (0, 100) * (ITEMS // 2)}),
    "diversity": ({}, {"diversity": 0.5}),
    "exploration": ({}, {"exploration": 0.3}),
    "explore_from": ({"exploration": 0.5}, {"exploration": 0.5, "explore_from": 40}),
    "k": ({}, {"k": 12}),
}
TRAINING = {
    "similarity text": LISTS["similarity text"],
    "similarity lexical": LISTS["similarity lexical"],
    "weights": LISTS["weights"],
    "features": LISTS["features"],
    "local_iterations": ({}, {"local_iterations": 2}),
}
NOTHING = {"version", "frozen"}  # say which policy it is, and who may move it


@pytest.fixture
def said(host, history, task, message):
    """``said(kind, policy, name)``: what six users answer under a policy; the noise is the same each time."""
    histories = [history(seed) for seed in range(USERS)]

    def of(kind, policy, name):
        asked = task(kind, policy=policy)
        answered = answer(host(histories, users_per_client=USERS, name=name), "1", message(asked))
        return parse_sealed(answered, vector_length(asked))

    return of


def test_every_field_stands_in_a_table_here():
    named = {name.split()[0] for name in (*LISTS, *TRAINING)} | NOTHING
    assert named == {field.name for field in fields(RecallPolicy)}


@pytest.mark.parametrize("knob", LISTS)
def test_a_knob_changes_what_is_shown(knob, said, policy):
    before, after = (
        said("measurement", policy(**turned), name) for name, turned in zip("ab", LISTS[knob], strict=True)
    )
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("knob", TRAINING)
def test_a_knob_changes_what_is_learned(knob, said, policy):
    before, after = (said("update", policy(**turned), name) for name, turned in zip("ab", TRAINING[knob], strict=True))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("kind", ["measurement", "update"])
def test_the_same_policy_says_the_same(kind, said, policy):
    assert np.array_equal(said(kind, policy(), "a"), said(kind, policy(version=7), "b"))
