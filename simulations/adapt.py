"""``fedrecall-sim adapt``: does a device gain from learning of its own next events? Measured, whatever the answer is.

A run trains on a split by time. Then every user's test events arrive one by one, oldest first. After t of them the list
is made and held against all that is still to come: with the list as it was before any event, with a history that grows,
and with a personal part that learns as well (``client/adapting.py``). A device has a past: the personal part first goes
through the newest part of the history, as it would have when that was new.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from client.adapting import Adapted, AdaptingTerms, adapted, personal_of, unadapted
from client.recommending import Shelf, parts_of, summed, user_sides
from client.store import Event, with_event
from shared.history import KINDS, History
from shared.policy.recall_policy import RecallPolicy
from shared.recall.item_rules import Mask, barred
from shared.recall.metrics import ndcg_at
from simulations.cold import promised
from simulations.config import SimulationConfig
from simulations.model import read_model, shelf_for
from simulations.run import Screen, run_world
from simulations.seeding import Seed, generator
from simulations.world import World, load_world

AFTER: Final = (0, 1, 2, 4, 8, 16)  # events
PAST: Final = 20  # of the history's newest items, what the personal part goes through first
USERS: Final = 500  # at most, drawn by chance
K: Final = 10
Arms = Mapping[str, AdaptingTerms | None]
ARMS: Final[Arms] = {
    "history grows": None,
    "history grows, SGD": AdaptingTerms("sgd"),
    "history grows, AdaGrad": AdaptingTerms("adagrad"),
}
STILL: Final = "nothing new is read"
Part = Literal["valid", "test"]


def adapt_run(
    config: SimulationConfig, folder: Path, *, cache: Path, source: Path | None, screen: Screen
) -> dict[str, Any]:
    """Train, then let devices learn from what comes next.

    Args:
        config: resolved, split by time.
        folder: of the run.
        cache, source, screen: as in a run.

    Returns:
        For JSON: the run's promise, and :func:`measured`.

    Raises:
        FedrecallError: as a run.
    """
    began = time.monotonic()
    world = load_world(config, cache, source, screen.say)
    summary = run_world(config, folder, world, screen, began)
    model = read_model(folder / "model.safetensors")
    screen.say("devices learn from their next events")
    seed = None if config.seed == "none" else config.seed
    said = {name: summary[name] for name in ("epsilon", "delta", "unit", "trust")}
    found = measured(world, shelf_for(model, world.catalogue), model.policy, ARMS, seed)
    return {"preset": config.preset, "split": config.data.split, "seed": config.seed, **said, **found}


def measured(
    world: World, shelf: Shelf, policy: RecallPolicy, arms: Arms, seed: Seed, *, part: Part = "test", users: int = USERS
) -> dict[str, Any]:
    """ndcg@10 of all that is still to come, after t new events.

    Args:
        world: all behaviour.
        shelf, policy: the shared model.
        arms: name -> how the personal part learns, None = there is none. The first one is what others are held against.
        seed: of chance.
        part: whose rows are the events; "valid" = train rows are the history (to choose how to learn), "test" = train
            and validation rows.
        users: at most so many, drawn by chance.

    Returns:
        ``users`` and ``after``: t -> {"users": with anything still to come, "ndcg@10": name -> mean, "gain": name ->
        mean difference to the first arm with its standard error over users}.
    """
    asked = [int(user) for user in world.asked if _rows(world, user, part).any()]
    if len(asked) > users:
        asked = sorted(generator(seed, "adapt").choice(asked, users, replace=False).tolist())
    ages_unknown = barred(shelf.rules, shelf.catalogue.ids, None)
    scores: dict[int, list[dict[str, float]]] = {t: [] for t in AFTER}
    for user in asked:
        history, events = _before(world, user, part), list(_events(world, user, part))
        walk = _walk(shelf, policy, history, events, arms, ages_unknown, generator(seed, "adapt", user))
        for t, found in walk:
            scores[t].append(found)
    return {
        "users": len(asked),
        "part": part,
        "after": {t: _summary(rows, next(iter(arms))) for t, rows in scores.items()},
    }


def _walk(
    shelf: Shelf,
    policy: RecallPolicy,
    history: History,
    events: Sequence[Event],
    arms: Arms,
    mask: Mask,
    rng: np.random.Generator,
) -> Iterator[tuple[int, dict[str, float]]]:
    """One user's events, one by one: (t, ndcg of each arm) wherever something is still to come."""
    seeds = rng.spawn(len(arms))
    streams = dict(zip(arms, seeds, strict=True))

    def learned(state: Adapted, name: str, known: History, event: Event) -> Adapted:
        terms = arms[name]
        return state if terms is None else adapted(shelf, policy, known, mask, state, event, terms, streams[name])

    states = dict.fromkeys(arms, unadapted(shelf.spec.rank))
    for row in range(max(0, len(history) - PAST), len(history)):
        past = _first(history, row)
        states = {name: learned(state, name, past, _event_of(history, row)) for name, state in states.items()}
    still = history
    for t in range(len(events)):
        to_come = np.array([event.item for event in events[t:] if event.kind != "not_interested"], np.int64)
        if t in AFTER and len(to_come):
            found = {STILL: _ndcg(shelf, policy, still, history, None, mask, to_come)}
            for name, state in states.items():
                own = None if arms[name] is None else state
                found[name] = _ndcg(shelf, policy, history, history, own, mask, to_come)
            yield t, found
        states = {name: learned(state, name, history, events[t]) for name, state in states.items()}
        history = with_event(history, events[t])


def _ndcg(
    shelf: Shelf,
    policy: RecallPolicy,
    read: History,
    seen: History,
    state: Adapted | None,
    mask: Mask,
    to_come: NDArray[np.int64],
) -> float:
    """Of the list by score: what is re-ranked is the same for all arms, and left out."""
    personal = None if state is None else personal_of(state, shelf.scale)
    parts = parts_of(shelf, policy, user_sides(shelf, policy, [read], personal), personal)
    total = summed(parts, (1, len(mask)))[0]
    total[mask] = -np.inf
    total[seen.item] = -np.inf
    ranked = np.argsort(-total, kind="stable")[:K]
    relevant = np.zeros((1, len(mask)), bool)
    relevant[0, to_come] = True
    return float(ndcg_at(ranked[None], relevant, K)[0])


def _summary(rows: Sequence[Mapping[str, float]], first: str) -> dict[str, Any]:
    if not rows:
        return {"users": 0, "ndcg@10": {}, "gain": {}}
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {
        "users": len(rows),
        "ndcg@10": {name: float(column.mean()) for name, column in columns.items()},
        "gain": {
            name: {
                "mean": float((column - columns[first]).mean()),
                "error": float((column - columns[first]).std() / np.sqrt(len(rows))),
            }
            for name, column in columns.items()
            if name != first
        },
    }


def _before(world: World, user: int, part: Part) -> History:
    history = world.histories[user]
    return history if part == "test" else _chosen(history, ~history.held_out)


def _rows(world: World, user: int, part: Part) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = getattr(world.split, part)
    # A generated data set holds some of the users alone, and numbers them anew.
    return np.asarray(mask & (world.dataset.user == world.dataset.users.index(world.users[user])))


def _events(world: World, user: int, part: Part) -> Iterator[Event]:
    """Oldest first."""
    data = world.dataset
    rows = np.flatnonzero(_rows(world, user, part))
    for row in rows[np.argsort(data.time[rows], kind="stable")]:
        yield Event(
            int(data.item[row]),
            KINDS[data.kind[row]],
            float(data.time[row]),
            float(data.dwell[row]),
            float(data.rating[row]),
        )


def _event_of(history: History, row: int) -> Event:
    return Event(
        int(history.item[row]),
        KINDS[history.kind[row]],
        float(history.time[row]),
        float(history.dwell[row]),
        float(history.rating[row]),
    )


def _first(history: History, rows: int) -> History:
    return _chosen(history, np.arange(len(history)) < rows)


def _chosen(history: History, kept: NDArray[np.bool_]) -> History:
    return replace(history, **{f.name: getattr(history, f.name)[kept] for f in fields(History)})


def table(result: Mapping[str, Any]) -> str:
    """The result for a terminal. Ends without a newline."""
    first = next(iter(result["after"].values()))
    names = list(first["ndcg@10"])
    gained = list(first["gain"])
    head = ["after", "users", *names, *(f"{name}: gain" for name in gained if name != STILL)]
    lines = [
        [str(t), str(row["users"]), *(f"{row['ndcg@10'][name]:.4f}" for name in names)]
        + [f"{row['gain'][n]['mean']:+.4f} ± {row['gain'][n]['error']:.4f}" for n in gained if n != STILL]
        for t, row in result["after"].items()
        if row["users"]
    ]
    widths = [max(len(line[at]) for line in [head, *lines]) for at in range(len(head))]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]]
    title = f"{result['preset']}, split {result['split']}, seed {result['seed']}, {promised(result)}"
    what = "ndcg@10 of all that is still to come, after t new events; gain over a history that grows ± standard error"
    return "\n".join([f"{title}; {result['users']:,} users", what, "", *rows])
