from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolError
from shared.policy.recall_policy import (
    BOUNDS,
    LARGEST_PRICE,
    RecallPolicy,
    check_prices,
    policy_from_dict,
    policy_to_dict,
)

POLICY = RecallPolicy(
    version=3,
    similarity={"text": "cosine", "lexical": "dot", "category": "euclidean"},
    weights={"text": 5.0, "lexical": 0.5, "category": 0.0, "popularity": 1.5},
    features=("text", "popularity"),
    depth=200,
    local_iterations=1,
    exposure_price=0.25,
    diversity=0.1,
    exploration=0.0,
    k=20,
    exposure_prices=(0, 25, LARGEST_PRICE),
)
RAW = policy_to_dict(POLICY)


def test_a_policy_survives_json():
    assert policy_from_dict(json.loads(json.dumps(RAW))) == POLICY


def test_prices_are_those_of_the_models_buckets():
    check_prices(POLICY, 3)
    check_prices(policy_from_dict(RAW | {"exposure_prices": []}), 7)
    with pytest.raises(ProtocolError, match=r"policy.exposure_prices: 3 prices, expected none or one for each of 4"):
        check_prices(POLICY, 4)


def test_the_weight_of_a_group_that_is_off_is_zero():
    assert POLICY.weight("text") == 5.0
    assert POLICY.weight("lexical") == 0.0


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_allowed_and_what_lies_beyond_is_refused_by_name(name):
    low, high = BOUNDS[name]
    for value in (low, high):
        assert getattr(policy_from_dict(RAW | {name: value}), name) == value
    for value in (low - 1, high + 1, math.nan, math.inf, -math.inf, 10**400, True, "1", None, [], {}):
        with pytest.raises(ProtocolError, match=f"policy.{name}: "):
            policy_from_dict(RAW | {name: value})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"depth": 20.0}, "whole numbers"),
        ({"version": True}, "whole numbers"),
        ({"k": 20.5}, "whole numbers"),
        ({"frozen": 1}, "policy.frozen: true or false"),
        ({"features": []}, "policy.features"),
        ({"features": "text"}, "policy.features"),
        ({"features": ["image"]}, "policy.features"),
        ({"features": ["text", "text"]}, "each once"),
        ({"features": [["text"]]}, "policy.features"),
        ({"features": [{}] * 3}, "policy.features"),
        ({"similarity": {}}, "policy.similarity: one entry for each"),
        ({"similarity": None}, "policy.similarity"),
        ({"similarity": RAW["similarity"] | {"text": "manhattan"}}, "policy.similarity"),
        ({"similarity": RAW["similarity"] | {"text": []}}, "policy.similarity"),
        ({"similarity": RAW["similarity"] | {"popularity": "dot"}}, "policy.similarity"),
        ({"weights": {}}, "policy.weights"),
        ({"weights": RAW["weights"] | {"text": math.nan}}, "policy.weights"),
        ({"weights": RAW["weights"] | {"text": 1001}}, "policy.weights: one number between -1000 and 1000"),
        ({"weights": RAW["weights"] | {"text": "5"}}, "policy.weights"),
        ({"exposure_prices": None}, "policy.exposure_prices"),
        ({"exposure_prices": {}}, "policy.exposure_prices"),
        ({"exposure_prices": "12"}, "policy.exposure_prices"),
        ({"exposure_prices": [0.5]}, "policy.exposure_prices: .*whole number from 0 to 1000"),
        ({"exposure_prices": [True]}, "policy.exposure_prices"),
        ({"exposure_prices": [-1]}, "policy.exposure_prices"),
        ({"exposure_prices": [LARGEST_PRICE + 1]}, "policy.exposure_prices"),
        ({"exposure_prices": [[1]]}, "policy.exposure_prices"),
        ({"seed": 1}, "exactly the fields"),
    ],
)
def test_a_hostile_policy_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(ProtocolError, match=sentence):
        policy_from_dict(RAW | changes)


@pytest.mark.parametrize("raw", [None, [], "policy", 1, {}])
def test_what_is_no_policy_is_refused(raw):
    with pytest.raises(ProtocolError, match="exactly the fields"):
        policy_from_dict(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([f.name for f in fields(RecallPolicy)]), json_values)
def test_whatever_a_field_holds_only_protocol_errors_come_out(field, value):
    try:
        policy = policy_from_dict(RAW | {field: value})
    except ProtocolError:
        return
    assert policy_from_dict(policy_to_dict(policy)) == policy
