"""Recommendations from a run's folder, for a person who asks about one user."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from server.checkpoint import load_state
from server.job import make_job
from shared.config import read_toml, validate
from shared.errors import ConfigError, RunError
from simulations.config import SimulationConfig
from simulations.download import Say
from simulations.examples import recommend
from simulations.model import model_of, read_model
from simulations.seeding import generator
from simulations.world import load_world, stores_of


def recommend_from(
    folder: Path, user: str, shown: int, *, cache: Path, source: Path | None, say: Say
) -> dict[str, Any]:
    """The list of one user under the model that a run gave out; while it goes on, under its last checkpoint.

    Raises:
        RunError: no run there, or none of its rounds finished.
        ConfigError: no such user; suggests near ones.
    """
    if not (folder / "config.toml").is_file():
        raise RunError(f"{folder}: no run here (config.toml is missing)")
    config = validate(SimulationConfig, read_toml(folder / "config.toml"), str(folder / "config.toml"))
    given = folder / "model.safetensors"
    model = read_model(given) if given.exists() else model_of(load_state(folder / "checkpoint.safetensors"))
    world = load_world(config, cache, source, say)
    if shown > model.policy.k:
        raise ConfigError(f"--count {shown}: the run's lists hold {model.policy.k} items")
    users = world.dataset.users
    if user not in users:
        near = difflib.get_close_matches(user, users, n=3, cutoff=0.0)
        raise ConfigError(f"--user {user}: no such user among {len(users)}; for example {', '.join(near)}")
    nodes = {client: int(client) for client in stores_of(world, config.users_per_client)}
    job = make_job(
        folder.name,
        config,
        world.catalogue,
        nodes,
        users_per_client=config.users_per_client,
        users=len(users),
        kind="simulation",
    )
    seed = None if config.seed == "none" else config.seed
    answer = recommend(world, job, model, users.index(user), generator(seed, "serve", user), shown=shown)
    return {**answer, "policy_version": model.policy.version}
