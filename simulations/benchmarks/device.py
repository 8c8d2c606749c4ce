"""``fedrecall-sim bench device``: what a device spends on one list, one explanation, one event, under a run's model.

One user at a time, as on a phone, on one core: nothing is batched, nothing is kept from one user to the next but the
item vectors that every request shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from client.adapting import AdaptingTerms, adapted, personal_of, unadapted
from client.explaining import explain
from client.recommending import Shelf, shown_to
from client.store import Event
from shared.config import read_toml, validate
from shared.errors import RunError
from shared.history import History
from shared.policy.recall_policy import RecallPolicy
from shared.recall.item_rules import barred
from simulations.benchmarks.measure import machine, one_core, repeated, spread_of
from simulations.config import SimulationConfig
from simulations.download import Say
from simulations.model import read_model, shelf_for
from simulations.world import load_world

USERS: Final = 100  # spread evenly over the data set


def measure(folder: Path, *, cache: Path, source: Path | None, say: Say) -> dict[str, Any]:
    """Take all figures; seconds.

    Args:
        folder: of a finished run.
        cache: of downloads and text vectors.
        source: folder to take the preset's files from.
        say: progress.

    Returns:
        ``{"items", "milliseconds": {what: {median, low, high, repeats}}, "machine"}``, ready for JSON.

    Raises:
        RunError: no finished run there.
    """
    if not (folder / "model.safetensors").is_file():
        raise RunError(f"{folder}: no finished run here (model.safetensors is missing)")
    config = validate(SimulationConfig, read_toml(folder / "config.toml"), str(folder / "config.toml"))
    world = load_world(config, cache, source, say)
    model = read_model(folder / "model.safetensors")
    with one_core():
        ready = [_seconds(lambda: shelf_for(model, world.catalogue)) for _ in range(3)]
        shelf = shelf_for(model, world.catalogue)
        chosen = np.unique(np.linspace(0, len(world.histories) - 1, USERS).astype(int))
        histories = [world.histories[user] for user in chosen if len(world.histories[user].item)]
        figures = {"catalogue and model made ready, once": ready, **_requests(shelf, model.policy, histories)}
    return {
        "items": len(world.catalogue.ids),
        "k": model.policy.k,
        "milliseconds": {what: asdict(spread_of([1e3 * one for one in seconds])) for what, seconds in figures.items()},
        "machine": asdict(machine("numpy")),
    }


def _requests(shelf: Shelf, policy: RecallPolicy, histories: list[History]) -> dict[str, list[float]]:
    """Seconds of each kind of request, one a user."""
    rng = np.random.default_rng(0)
    terms, free = AdaptingTerms(), barred(shelf.rules, shelf.catalogue.ids, None)
    start = unadapted(shelf.spec.rank)

    def learned(history: History) -> None:
        unseen = np.setdiff1d(np.arange(len(shelf.catalogue)), history.item)
        event = Event(item=int(unseen[0]), kind="view", time=float(history.time.max()) + 1.0)
        state = adapted(shelf, policy, history, free, start, event, terms, rng)
        shown_to(shelf, policy, history, rng, personal=personal_of(state, shelf.scale))

    def timed(work: Callable[[History], object]) -> list[float]:
        return repeated(lambda: [_seconds(partial(work, history)) for history in histories], 1)[0]

    lists = [shown_to(shelf, policy, history, rng) for history in histories]
    pairs = iter(lists * 2)  # once to warm up, once counted
    return {
        "a list": timed(lambda history: shown_to(shelf, policy, history, rng)),
        "reasons of all places of a list": timed(lambda history: explain(shelf, policy, history, next(pairs))),
        "an event: learned, and the next list": timed(learned),
    }


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`measure` returned."""
    where = result["machine"]
    table = Table(
        title=f"On a device: one user, one core, {result['items']:,} items, lists of {result['k']}",
        caption=f"{where['cpu']}, load average {where['load']:.2f}; median and range over users",
        box=SIMPLE,
    )
    table.add_column("")
    for name in ("ms", "smallest", "largest"):
        table.add_column(name, justify="right")
    for what, spread in result["milliseconds"].items():
        table.add_row(what, *(f"{spread[key]:.2f}" for key in ("median", "low", "high")))
    console.print(table)
