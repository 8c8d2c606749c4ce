"""Recommending from a run's folder: item rules of the run and of the device, the request's own wishes, explanations."""

from __future__ import annotations

import json

import pytest

from shared.errors import ConfigError, RunError
from simulations.run import new_run
from simulations.serve import opened, recommend_from

RULES = ["rules.blocked=['i1', 'i2']", "rules.harmful=['i3']", "rules.min_age={'i4'=18, 'i5'=16}"]


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    from simulations.config import resolve
    from simulations.run import Screen

    sets = ["rounds=2", "model.text_encoder=none", "model.rank=4", "training.context=8", "training.targets=4"]
    sets += ["training.negatives=8", "privacy.delta=1e-3", "policy.k=10", "policy.depth=40", *RULES]
    config = resolve("synthetic", sets=[*sets, "secure_aggregation=ideal"], seed=1, data=tiny_data)
    folder, cache = tmp_path_factory.mktemp("serve") / "run", tmp_path_factory.mktemp("cache")
    screen = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
    new_run(config, folder, cache=cache, source=None, screen=screen)
    return folder, {"cache": cache, "source": None, "say": lambda _sentence: None}


def titles(answer):
    return {item["title"] for item in answer["recommendations"]}


def named(world, *ids):
    return {world.catalogue.titles[world.catalogue.ids.index(name)] for name in ids}


def test_what_a_run_bars_is_shown_to_nobody_and_an_age_lifts_age_limits_alone(run):
    folder, how = run
    _, world, model = opened(folder, **how)
    assert model.rules.min_age == {"i4": 18, "i5": 16}
    shown = {age: set() for age in (None, 17, 18)}
    for user in world.dataset.users:
        for age in shown:
            shown[age] |= titles(recommend_from(folder, user, 40, age=age, **how))
    barred, adult, teen = named(world, "i1", "i2", "i3"), named(world, "i4"), named(world, "i5")
    assert not shown[18] & barred
    assert adult | teen <= shown[18]
    assert not shown[17] & (barred | adult)
    assert teen <= shown[17]
    assert not shown[None] & (barred | adult | teen)
    written = json.loads((folder / "examples.json").read_text()) if (folder / "examples.json").exists() else []
    assert not any(titles(one) & (barred | adult | teen) for one in written)


def test_a_device_bars_more_on_its_own_but_lifts_nothing(run, tmp_path):
    folder, how = run
    own = tmp_path / "own.toml"
    first = recommend_from(folder, "u3", 5, **how)["recommendations"][0]["title"]
    _, world, _ = opened(folder, **how)
    name = world.catalogue.ids[world.catalogue.titles.index(first)]
    own.write_text(f'blocked = ["{name}"]\n[min_age]\ni4 = 1\n')
    shown = titles(recommend_from(folder, "u3", 40, age=17, rules=own, **how))
    assert first not in shown
    assert not shown & named(world, "i1", "i4")
    own.write_text('blocked = ["i999"]')
    with pytest.raises(ConfigError, match=r"own\.toml: item 'i999' is not in the catalogue"):
        recommend_from(folder, "u3", 5, rules=own, **how)


def test_a_request_has_its_own_length_and_diversity(run):
    folder, how = run
    three = recommend_from(folder, "u3", 3, **how)
    assert [item["title"] for item in three["recommendations"]] == [
        item["title"] for item in recommend_from(folder, "u3", **how)["recommendations"][:3]
    ]
    assert len(recommend_from(folder, "u3", **how)["recommendations"]) == 10
    varied = recommend_from(folder, "u3", 3, diversity=1.0, **how)["recommendations"]
    assert {item["placed"] for item in varied} == {"score and diversity"}
    with pytest.raises(ConfigError, match="k = 0"):
        recommend_from(folder, "u3", 0, **how)


def test_every_item_says_why_in_numbers_and_in_words(run):
    folder, how = run
    answer = recommend_from(folder, "u3", 5, **how)
    assert answer["policy_version"] >= 1
    for item in answer["recommendations"]:
        assert item["score"] == pytest.approx(sum(item["parts"].values()), abs=2e-3)
        assert sum(map(abs, item["shares"].values())) == pytest.approx(1, abs=0.01)
        assert all(reason["effect"] > 0 for reason in item["reasons"])
        assert all(reason["effect"] < 0 for reason in item["despite"])
        if item["reasons"]:
            assert item["because"].endswith(item["reasons"][0]["title"])
        assert item["policy_version"] == answer["policy_version"]


def test_a_rule_for_no_item_stops_a_run_before_it_begins(run, tiny_data, tmp_path):
    from simulations.config import resolve
    from simulations.run import Screen

    config = resolve("synthetic", sets=["model.text_encoder=none", "rules.harmful=['i99']"], data=tiny_data)
    screen = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
    with pytest.raises(ConfigError, match="rules: item 'i99' is not in the catalogue"):
        new_run(config, tmp_path / "r", cache=run[1]["cache"], source=None, screen=screen)
    assert not (tmp_path / "r").exists()


def test_no_run_is_a_sentence(run, tmp_path):
    with pytest.raises(RunError, match="no run here"):
        recommend_from(tmp_path, "u3", **run[1])
