"""Configuration: every bound, every suggestion, every sentence."""

from __future__ import annotations

import math
import tomllib

import pytest
from pydantic import ValidationError

from shared.config import (
    SIMILARITY,
    WEIGHTS,
    Config,
    PolicySection,
    Section,
    assignments,
    first_policy,
    item_rules,
    keys,
    merged,
    read_toml,
    shadow_count,
    validate,
)
from shared.errors import ConfigError
from shared.policy.recall_policy import BOUNDS, GROUPS, policy_from_dict, policy_to_dict
from shared.recall.item_rules import ItemRules
from shared.recall.report import LARGEST_SHADOWS


def nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def read(key, value):
    out = validate(Config, nested(key, value), "x.toml")
    for part in key.split("."):
        out = getattr(out, part)
    return out


SMALL, LARGE = 1e-12, 1e12
# key: the smallest and the largest that pass, the first that do not; None = no such bound
RANGES = {
    "rounds": (1, 100_000, 0, 100_001),
    "privacy.delta": (SMALL, 1 - SMALL, 0.0, 1.0),
    "privacy.collusion": (0.0, 1 - SMALL, -SMALL, 1.0),
    "privacy.clip": (SMALL, 1000.0, 0.0, 1000.1),
    "privacy.measurement_share": (0.0, 1 - SMALL, -SMALL, 1.0),
    "privacy.statistics_share": (0.0, 1 - SMALL, -SMALL, 1.0),
    "privacy.profile_share": (0.0, 1 - SMALL, -SMALL, 1.0),
    "privacy.trending_share": (0.0, 1 - SMALL, -SMALL, 1.0),
    "trending.window_days": (1, 3650, 0, 3651),
    "trending.every": (1, 100_000, 0, 100_001),
    "cohort.smallest": (0.0, 1.0, -SMALL, 1.001),
    "cohort.deadline": (SMALL, 86_400.0, 0.0, 86_401.0),
    "model.rank": (1, 1024, 0, 1025),
    "model.buckets": (1, 10_000_000, 0, 10_000_001),
    "training.learning_rate": (SMALL, 100.0, 0.0, 100.1),
    "training.context": (1, 4096, 0, 4097),
    "training.targets": (1, 1024, 0, 1025),
    "training.negatives": (1, 65_536, 0, 65_537),
    "training.server_learning_rate": (SMALL, 100.0, 0.0, 100.1),
    "training.warmup": (0, 10_000, -1, 10_001),
    "policy.measure_every": (1, 10_000, 0, 10_001),
    "policy.recall_target": (0.0, 1.0, -SMALL, 1.001),
    "policy.coverage_target": (0.0, 1.0, -SMALL, 1.001),
    "policy.fairness": (0.0, 100.0, -SMALL, 100.1),
    "policy.shadows": (1, 8, 0, 9),
    "policy.depth": (1, 1_000_000, 0, 1_000_001),
    "policy.local_iterations": (1, 64, 0, 65),
    "policy.exposure_price": (0.0, 10.0, -SMALL, 10.1),
    "policy.diversity": (0.0, 1.0, -SMALL, 1.001),
    "policy.exploration": (0.0, 0.5, -SMALL, 0.501),
    "policy.explore_from": (0, 1_000_000, -1, 1_000_001),
    "policy.k": (10, 1000, 9, 1001),
}
CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "privacy.unit": ("user", "interaction"),
    "privacy.trust": ("local", "distributed", "central"),
    "cohort.sampling": ("fixed", "poisson"),
    "model.encoder": ("linear", "mean"),
    "model.adaptation": ("none", "whiten", "contrastive"),
    "model.vectors": ("float32", "int8"),
    "training.loss": ("softmax", "bpr", "squared"),
    "training.server_optimizer": ("fedavg", "fedadam", "fedadagrad"),
    "policy.controller": ("rules", "dual", "shadow", "static"),
}
FREE = {  # no range of their own: checked where they are used, or of another type
    "privacy.epsilon",
    "privacy.participations",
    "cohort.size",
    "model.text_encoder",
    "policy.freeze",
    "policy.approval",
    "rules.blocked",
    "rules.harmful",
    "rules.min_age",
    "policy.features",
    "policy.weights",
    "policy.similarity",
}


def test_every_key_stands_in_a_table_here():
    assert set(keys(Config)) == {*RANGES, *CHOICES, *FREE}


@pytest.mark.parametrize("key", RANGES)
def test_a_number_at_its_bound_passes_and_beyond_it_is_a_sentence(key):
    low, high, below, above = RANGES[key]
    assert read(key, low) == low
    assert read(key, high) == high
    for value in (below, above, math.nan, math.inf, -math.inf, "many", None, [1]):
        with pytest.raises(ConfigError) as caught:
            read(key, value)
        assert str(caught.value).startswith(f"x.toml: {key} = {value!r}: ")


@pytest.mark.parametrize("key", CHOICES)
def test_a_choice_is_one_of_its_words(key):
    for word in CHOICES[key]:
        assert read(key, word) == word
    with pytest.raises(ConfigError, match=f"{key} = 'other': .*'{CHOICES[key][0]}'"):
        read(key, "other")


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("privacy.epsilon", [4, 0.5, "none"], ["some", None, math.nan, math.inf]),
        ("privacy.participations", [3, "rounds"], ["many", 1.5]),
        ("cohort.size", [100, "everybody"], ["nobody", 0.5]),
        ("policy.freeze", [True, False], ["maybe"]),
        ("policy.features", [["text"], ["popularity", "category"]], [[], ["title"], "text"]),
        (
            "policy.weights",
            [{"text": -1000.0, "lexical": 1000.0}],
            [{"text": math.nan}, {"text": math.inf}, {"text": "much"}, 3],
        ),
        ("policy.similarity", [{"text": "dot"}], [{"text": "jaccard"}]),
        ("model.text_encoder", ["none"], [3]),
    ],
)
def test_keys_of_other_kinds(key, good, bad):
    for value in good:
        read(key, value)
    for value in bad:
        with pytest.raises(ConfigError, match=rf"^x\.toml: {key}"):
            read(key, value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("round", "rounds"),
        ("privacy.epsilonn", "privacy.epsilon"),
        ("privacy.espilon", "privacy.epsilon"),
        ("epsilon", "privacy.epsilon"),
        ("training.epsilon", "privacy.epsilon"),
        ("policy.clip", "privacy.clip"),
        ("training.negative", "training.negatives"),
        ("model.ranks", "model.rank"),
        ("policy.k_", "policy.k"),
        ("training.optimizer", "training.server_optimizer"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(key, meant):
    with pytest.raises(ConfigError, match=rf"^x\.toml: unknown key {key}; did you mean {meant}\?$"):
        validate(Config, nested(key, 1), "x.toml")


@pytest.mark.parametrize("key", ["strategy", "interval", "floating", "int", "literal[", "zzzzzzzzzzzz"])
def test_an_unknown_key_of_any_spelling_is_named(key):
    with pytest.raises(ConfigError) as caught:
        validate(Config, {key: 1}, "x.toml")
    assert f"unknown key {key}" in str(caught.value)


def test_nothing_like_it_points_to_the_documentation():
    with pytest.raises(ConfigError, match=r"unknown key zzzzzzzzzzzz; see docs/config\.md"):
        validate(Config, {"zzzzzzzzzzzz": 1}, "x.toml")


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(Config, {"rounds": 0, "privacy": {"clip": -1, "epsilom": 3}}, "x.toml")
    for part in ("rounds = 0", "privacy.clip = -1", "did you mean privacy.epsilon?"):
        assert part in str(caught.value)


def test_a_section_is_frozen():
    with pytest.raises(ValidationError):
        Config().rounds = 3


def test_the_defaults_are_within_their_bounds():
    policy = first_policy(Config().policy)
    assert policy_from_dict(policy_to_dict(policy)) == policy
    assert issubclass(type(Config().privacy), Section)


@pytest.mark.parametrize("name", BOUNDS)
def test_the_policys_bounds_are_those_that_clients_accept(name):
    assert RANGES[f"policy.{name}"][:2] == BOUNDS[name]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"weights": {"genre": 1}}, r"policy\.weights: got .*'genre'.*, expected one entry for each of"),
        ({"similarity": {"popularity": "dot"}}, r"policy\.similarity: got .*'popularity'"),
        (
            {"weights": dict.fromkeys(GROUPS, 1) | {"text": 1001}},
            r"policy\.weights\.text = 1001\.0: must lie between -1000",
        ),
    ],
)
def test_a_policy_names_groups_that_there_are(section, sentence):
    with pytest.raises(ConfigError, match=sentence):
        first_policy(PolicySection(**section))


def test_groups_that_are_left_out_keep_their_default():
    section = PolicySection(weights={"text": 7}, similarity={"lexical": "dot"})
    assert section.weights == {**WEIGHTS, "text": 7.0}
    assert section.similarity == {**SIMILARITY, "lexical": "dot"}
    assert PolicySection.model_validate(section.model_dump()) == section
    assert (first_policy(section).weights, first_policy(section).similarity) == (section.weights, section.similarity)


def test_a_report_scores_neighbours_only_for_the_controller_that_asks_for_them():
    assert shadow_count(PolicySection(controller="shadow", shadows=3)) == 3
    assert {shadow_count(PolicySection(controller=c, shadows=3)) for c in ("rules", "dual", "static")} == {0}


def test_shadows_are_as_many_as_a_report_may_hold():
    assert RANGES["policy.shadows"][1] == LARGEST_SHADOWS


def test_item_rules_are_those_that_clients_accept():
    config = validate(Config, {"rules": {"blocked": ["7"], "min_age": {"58": 18}}}, "x.toml")
    assert item_rules(config.rules) == ItemRules(("7",), (), {"58": 18})
    with pytest.raises(ConfigError, match="min_age"):
        item_rules(validate(Config, {"rules": {"min_age": {"58": 1000}}}, "x.toml").rules)


def test_features_keep_the_groups_order():
    section = PolicySection(features=("popularity", "text"))
    assert first_policy(section).features == ("text", "popularity")


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ([], {}),
        (["rounds=3"], {"rounds": 3}),
        (["privacy.epsilon=4"], {"privacy": {"epsilon": 4}}),
        (["privacy.epsilon=none"], {"privacy": {"epsilon": "none"}}),
        (['privacy.epsilon="none"'], {"privacy": {"epsilon": "none"}}),
        (["privacy.delta=1e-3"], {"privacy": {"delta": 1e-3}}),
        (["policy.freeze=true"], {"policy": {"freeze": True}}),
        (['policy.features=["text", "lexical"]'], {"policy": {"features": ["text", "lexical"]}}),
        (["policy.weights={text = 2}"], {"policy": {"weights": {"text": 2}}}),
        (["policy.weights.text=2", "policy.weights.lexical=1"], {"policy": {"weights": {"text": 2, "lexical": 1}}}),
        (["rounds=3", "rounds=4"], {"rounds": 4}),
        (["model.text_encoder=a/b=c"], {"model": {"text_encoder": "a/b=c"}}),
        (["model.text_encoder="], {"model": {"text_encoder": ""}}),
        ([" rounds = 5 "], {"rounds": 5}),
    ],
)
def test_assignments_are_toml_or_words(pairs, wanted):
    assert assignments(pairs) == wanted


@pytest.mark.parametrize("pair", ["rounds", "=3", "", "privacy.epsilon"])
def test_an_assignment_needs_a_key_and_an_equals_sign(pair):
    with pytest.raises(ConfigError, match=r"expected key=value, for example --set privacy\.epsilon=4"):
        assignments([pair])


def test_merging_goes_section_by_section_and_changes_neither():
    base, over = {"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "b": {"z": 1}}
    assert merged(base, over) == {"a": {"x": 1, "y": 3}, "b": {"z": 1}}
    assert base == {"a": {"x": 1, "y": 2}, "b": 1}
    assert over == {"a": {"y": 3}, "b": {"z": 1}}


@pytest.mark.parametrize(
    ("text", "line"),
    [("rounds = \n", 1), ("rounds = 3\n[privacy\n", 2), ("a = 1\n\nb = 'x\n", 3), ("a = 1\na = 2\n", 2)],
)
def test_broken_toml_names_its_file_and_line(text, line, tmp_path):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.toml: not valid TOML: .*line {line}\b"):
        read_toml(tmp_path / "run.toml")


def test_bytes_that_are_no_text_are_a_sentence(tmp_path):
    (tmp_path / "run.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"run\.toml: not valid TOML"):
        read_toml(tmp_path / "run.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read .*give a preset's name or a TOML file"):
        read_toml(tmp_path / "nowhere.toml")


def test_toml_is_read_as_it_stands(tmp_path):
    (tmp_path / "run.toml").write_text("rounds = 3\n[privacy]\nepsilon = 'none'\n")
    assert read_toml(tmp_path / "run.toml") == tomllib.loads("rounds = 3\n[privacy]\nepsilon = 'none'\n")
