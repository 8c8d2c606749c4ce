"""Recommendations from a run's folder, for a person who asks about one user."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.recommending import requested
from server.checkpoint import load_state
from shared.config import read_toml, validate
from shared.errors import ConfigError, RunError
from shared.recall.item_rules import joined, read_rules, unknown
from simulations.config import SimulationConfig
from simulations.download import Say
from simulations.examples import example
from simulations.model import Model, model_of, read_model, shelf_for
from simulations.run import job_of
from simulations.seeding import generator
from simulations.world import World, load_world


def recommend_from(
    folder: Path,
    user: str,
    count: int | None = None,
    *,
    diversity: float | None = None,
    age: int | None = None,
    rules: Path | None = None,
    cache: Path,
    source: Path | None,
    say: Say,
) -> dict[str, Any]:
    """The list of one user under the model that a run gave out; while it goes on, under its last checkpoint.

    Args:
        folder: of the run.
        user: raw id.
        count: items, instead of the policy's k.
        diversity: instead of the policy's.
        age: the user's, None = unknown: whatever has an age limit is not shown.
        rules: a TOML file of the device's own item rules, on top of the run's.
        cache, source, say: as in a run.

    Returns:
        As :func:`simulations.examples.example`, with the policy's version.

    Raises:
        RunError: no run there, or none of its rounds finished.
        ConfigError: no such user (suggests near ones), or a request that cannot be.
    """
    config, world, model = opened(folder, cache=cache, source=source, say=say)
    users = world.users
    if user not in users:
        near = difflib.get_close_matches(user, users, n=3, cutoff=0.0)
        raise ConfigError(f"--user {user}: no such user among {len(users)}; for example {', '.join(near)}")
    shelf = shelf_for(model, world.catalogue)
    if rules is not None:
        own = read_rules(rules)
        if missing := unknown(own, world.catalogue.ids):
            raise ConfigError(f"{rules}: item {missing[0]!r} is not in the catalogue; its rule would bar nothing")
        shelf = replace(shelf, rules=joined(shelf.rules, own))
    policy = requested(model.policy, k=count, diversity=diversity)
    seed = None if config.seed == "none" else config.seed
    rng = generator(seed, "serve", user)
    answer, _ = example(world, shelf, policy, users.index(user), rng, shown=policy.k, age=age)
    return {**answer, "policy_version": model.policy.version}


def opened(folder: Path, *, cache: Path, source: Path | None, say: Say) -> tuple[SimulationConfig, World, Model]:
    """A run's configuration, data and model.

    Raises:
        RunError: no run there, or none of its rounds finished.
    """
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder}: no run here (config.toml is missing)")
    config = validate(SimulationConfig, read_toml(folder / "config.toml"), str(folder / "config.toml"))
    given = folder / "model.safetensors"
    world = load_world(config, cache, source, say)
    if given.exists():
        return config, world, read_model(given)
    state = load_state(folder / "checkpoint.safetensors")
    return config, world, model_of(state, job_of(config, world, folder.name))
