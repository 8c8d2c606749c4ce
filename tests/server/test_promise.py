"""What was signed off is what runs: no promise changes by an edit of the configuration alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from server.job import make_job
from server.promise import check_promised, parameters_of, plan_of, write_promise
from shared.catalogue import Catalogue
from shared.errors import ConfigError, PlanError
from shared.privacy.calibration import plan_from_dict


def catalogue_of(items):
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(items, 6)).astype(np.float32) for name in ("text", "lexical", "category", "compact")}
    groups = {name: values / np.linalg.norm(values, axis=1, keepdims=True) for name, values in rows.items()}
    ids = tuple(f"i{number}" for number in range(items))
    return Catalogue(ids, ids, ids, ((),) * items, groups)


def edited(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_what_init_wrote_holds(house):
    assert check_promised(house).service.clients == 5


def test_the_plan_is_the_one_that_a_run_makes(house):
    config, catalogue = house.config(), catalogue_of(30)
    write_promise(house, config, catalogue)
    nodes = {str(number): number for number in range(config.service.clients)}
    job = make_job("run", config, catalogue, nodes, users_per_client=1, users=len(nodes), kind="deployment")
    assert plan_of(config, parameters_of(config, catalogue)) == job.plan
    assert plan_from_dict(json.loads(house.plan.read_text())["plan"]) == job.plan
    check_promised(house)


def test_without_a_catalogue_there_is_a_promise_already_and_its_epsilon_is_the_same(house):
    config = house.config()
    before, after = (plan_of(config, parameters_of(config, each)) for each in (None, catalogue_of(30)))
    assert (before.epsilon, before.rounds, before.smallest_cohort) == (after.epsilon, after.rounds, 3)
    assert before.update.steps != after.update.steps


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("rounds = 3", "rounds = 4", "plan.rounds is 3, but 4"),
        ("rounds = 3", "rounds = 3\nprivacy.epsilon = 50.0", "plan.epsilon is 8.0, but 50.0"),
        ("rounds = 3", 'rounds = 3\nprivacy.trust = "central"', "plan"),
        ("clients = 5", "clients = 6", "plan"),
        ("rounds = 3", "rounds = 3\npolicy.depth = 500", "policy.depth is 200, but 500"),
        ("rounds = 3", 'rounds = 3\nrules.blocked = ["i1"]', "rules.blocked"),
        ("rounds = 3", 'rounds = 3\npolicy.controller = "static"', "controller.kind"),
    ],
)
def test_a_configuration_that_was_changed_afterwards_does_not_start(old, new, key, house):
    text = house.settings.read_text()
    assert old in text
    house.settings.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=key):
        check_promised(house)
    write_promise(house, house.config(), None)
    check_promised(house)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda raw: raw["plan"].update(epsilon=1.0), "plan.epsilon is 1.0, but 8.0"),
        (lambda raw: raw["plan"]["update"].update(noise_multiplier=99.0), "plan.update.noise_multiplier"),
        (lambda raw: raw["plan"].pop("delta"), 'plan.delta is "missing"'),
        (lambda raw: raw.update(says=["all is well"]), "says"),
        (lambda raw: raw.update(extra=None), "extra is null"),
        (lambda raw: raw.pop("parameters"), "parameters"),
        (lambda raw: raw["parameters"].update(update=-1), "expected whole numbers"),
        (lambda raw: raw["parameters"].update(update=True), "expected whole numbers"),
    ],
)
def test_a_plan_that_was_edited_does_not_start(change, sentence, house):
    edited(house.plan, change)
    with pytest.raises(ConfigError, match=sentence):
        check_promised(house)


@pytest.mark.parametrize("content", [None, "{", "7"])
def test_a_missing_or_broken_file_does_not_start(content, house):
    if content is None:
        house.policy.unlink()
    else:
        house.policy.write_text(content)
    with pytest.raises(ConfigError, match="fedrecall-server plan"):
        check_promised(house)


@pytest.mark.parametrize(
    ("sets", "error"),
    [
        (("cohort.size=6",), ConfigError),
        (("privacy.epsilon=1000",), PlanError),
        (("privacy.delta=0.5",), PlanError),
        (("policy.weights={text = 5000.0}",), ConfigError),
    ],
)
def test_what_cannot_be_promised_is_refused_before_anything_is_written(sets, error, new_house, tmp_path):
    with pytest.raises(error):
        new_house(*sets)
    assert not (tmp_path / "house").exists()
