"""The model that a run gives out: what a device needs, read back as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from server.job import initial_state
from shared.encoder.spec import unpack
from shared.errors import RunError
from shared.recall.item_rules import ItemRules
from simulations.model import model_of, read_model, shelf_for, write_model
from simulations.run import job_of
from simulations.world import load_world


@pytest.fixture
def written(tmp_path, tiny):
    config = tiny()
    world = load_world(config, tmp_path, None, lambda _sentence: None)
    job = job_of(config, world, "run")
    model = model_of(replace(initial_state(job, np.random.default_rng(0)), round=3), job)
    model = replace(model, policy=replace(model.policy, frozen=True), rules=ItemRules(("i1",), (), {"i2": 18}))
    write_model(tmp_path / "model.safetensors", model, world.catalogue)
    return model, tmp_path / "model.safetensors"


def test_a_model_comes_back_with_its_policy(written):
    model, path = written
    again = read_model(path)
    assert (again.round, again.policy) == (3, model.policy)
    assert again.policy.frozen
    assert np.array_equal(again.parameters, model.parameters)
    assert np.array_equal(again.prior, model.prior)
    assert (again.encoder, again.catalogue, again.rules) == (model.encoder, model.catalogue, model.rules)


def test_the_file_has_what_a_device_needs(written):
    model = load_file(written[1])
    assert {"items", "parameters", "prior", *unpack(written[0].encoder, written[0].parameters)} == set(model)
    assert model["items"].shape == (40, 4)


def test_a_state_before_its_first_round_is_a_model_of_round_0(tmp_path, tiny):
    world = load_world(tiny(), tmp_path, None, lambda _sentence: None)
    job = job_of(tiny(), world, "run")
    assert model_of(initial_state(job, np.random.default_rng(0)), job).round == 0


def test_a_model_is_not_put_on_the_shelf_of_another_catalogue(tmp_path, tiny, written):
    catalogue = load_world(tiny(), tmp_path, None, lambda _sentence: None).catalogue
    assert len(shelf_for(written[0], catalogue).popularity) == 40
    with pytest.raises(RunError, match="its rows would stand for other items"):
        shelf_for(written[0], replace(catalogue, titles=catalogue.titles[::-1]))


@pytest.mark.parametrize(
    "content", [b"", b"PK", save({"prior": np.zeros(3)}), save({"prior": np.zeros(3)}, metadata={"fedrecall": "{"})]
)
def test_something_else_is_a_sentence(content, tmp_path):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(RunError, match="m: no readable model"):
        read_model(tmp_path / "m")


def test_no_model_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match="no readable model"):
        read_model(tmp_path / "nowhere")
