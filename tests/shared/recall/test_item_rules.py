"""Item rules: what they bar, and what is refused as a rule."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError, ProtocolError
from shared.recall.item_rules import (
    NO_RULES,
    ItemRules,
    barred,
    joined,
    masks,
    read_rules,
    rules_from_dict,
    rules_to_dict,
    unknown,
)

IDS = tuple(f"i{n}" for n in range(8))
names = st.sampled_from([*IDS, "elsewhere"])
ages = st.none() | st.integers(0, 120)
rules = st.builds(
    ItemRules,
    blocked=st.lists(names, unique=True).map(tuple),
    harmful=st.lists(names, unique=True).map(tuple),
    min_age=st.dictionaries(names, st.integers(1, 150)),
)


@given(rules=rules, age=ages)
def test_an_item_is_barred_when_any_rule_says_so(rules, age):
    """The same, item by item."""
    for item, out in zip(IDS, barred(rules, IDS, age), strict=True):
        limit = rules.min_age.get(item)
        young = limit is not None and (age is None or age < limit)
        assert out == (item in rules.blocked or item in rules.harmful or young)


def test_an_age_that_is_not_known_bars_whatever_has_a_limit():
    limits = ItemRules(min_age={"i2": 1})
    assert barred(limits, IDS, None).tolist() == [False, False, True] + [False] * 5
    assert not barred(limits, IDS, 1).any()


@given(rules=rules, of=st.lists(ages, max_size=6))
def test_every_user_gets_the_mask_of_their_age(rules, of):
    made = masks(rules, IDS, of)
    assert len(made) == len(of)
    for mask, age in zip(made, of, strict=True):
        assert np.array_equal(mask, barred(rules, IDS, age))
    assert len({id(mask) for mask in made}) == len(set(of))


@given(one=rules, other=rules, age=ages)
def test_two_sets_of_rules_bar_what_either_bars(one, other, age):
    assert np.array_equal(barred(joined(one, other), IDS, age), barred(one, IDS, age) | barred(other, IDS, age))


@given(rules=rules)
def test_rules_come_back_from_json(rules):
    assert rules_from_dict(json.loads(json.dumps(rules_to_dict(rules)))) == rules


def test_of_two_age_limits_the_stricter_holds_whoever_set_it():
    for one, other in ((16, 18), (18, 16)):
        both = joined(ItemRules(min_age={"i2": one}), ItemRules(min_age={"i2": other}))
        assert both.min_age == {"i2": 18}


def test_a_rule_for_no_item_is_found_out():
    assert unknown(ItemRules(("i1", "x"), ("y",), {"i2": 3, "x": 4}), IDS) == ("x", "y")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ([], "exactly the fields"),
        ({"blocked": []}, "exactly the fields"),
        ({"blocked": "i1"}, "rules.blocked: i1, expected a list"),
        ({"blocked": [1]}, r"rules.blocked: \[1\]"),
        ({"harmful": ["i1", "i1"]}, "rules.harmful: an item is named twice"),
        ({"harmful": [""]}, "rules.harmful"),
        ({"min_age": ["i1"]}, "rules.min_age: expected item ids with an age each"),
        ({"min_age": {"i1": 0}}, "rules.min_age: 'i1' = 0, expected an item id and whole years from 1 to 150"),
        ({"min_age": {"i1": 151}}, "rules.min_age"),
        ({"min_age": {"i1": True}}, "rules.min_age"),
        ({"min_age": {"i1": 18.0}}, "rules.min_age"),
    ],
)
def test_something_else_is_refused_with_a_sentence(raw, sentence):
    whole = {**rules_to_dict(NO_RULES), **raw} if isinstance(raw, dict) and raw != {"blocked": []} else raw
    with pytest.raises(ProtocolError, match=sentence):
        rules_from_dict(whole)


def test_rules_are_read_from_toml(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('blocked = ["12"]\n[min_age]\n"58" = 18\n')
    assert read_rules(path) == ItemRules(("12",), (), {"58": 18})
    path.write_text("")
    assert read_rules(path) == NO_RULES


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'blocked = ["12"', "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"blocked = [12]", "rules.blocked"),
        (b'block = ["12"]', "exactly the fields"),
        (b"[min_age]\n58 = 200", "rules.min_age: '58' = 200"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, sentence):
    path = tmp_path / "rules.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_rules(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        read_rules(tmp_path / "nowhere.toml")
