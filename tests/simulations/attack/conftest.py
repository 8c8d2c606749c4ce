"""A small run to attack, with a model that says something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest


@pytest.fixture
def subject(tiny, tmp_path):
    """``subject("privacy.trust=local", ...)``: see :class:`simulations.attack.subject.Subject`."""
    from server.job import initial_state
    from simulations.attack.subject import Subject
    from simulations.run import job_of
    from simulations.seeding import generator
    from simulations.world import load_world

    def make(*sets):
        config = tiny(*sets)
        world = load_world(config, tmp_path / "cache", None, lambda _sentence: None)
        job = job_of(config, world, "tiny")
        state = initial_state(job, generator(1, "model"))
        parameters = np.random.default_rng(3).normal(0, 0.3, len(state.parameters)).astype(np.float32)
        return Subject(config, world, job, replace(state, parameters=parameters), "")

    return make
