"""What a simulation knows of trending: the day on which its people live, and what they really came to lately."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.measuring import visible_rows
from client.recent import recent_items
from server.rows import Row
from simulations.config import SimulationConfig
from simulations.seeding import Seed, clock
from simulations.world import World

FIRST: Final = 20  # of a list, that are looked at


def calendar(config: SimulationConfig, world: World, seed: Seed) -> Callable[[], date]:
    """The clients' calendar. Where recent events count it stands on the day of the newest one in the data."""
    if not config.privacy.trending_share:
        return clock(seed)
    newest = max((float(history.time.max()) for history in world.histories if len(history)), default=0.0)
    day = datetime.fromtimestamp(newest, UTC).date()
    return lambda: day


def trending_summary(config: SimulationConfig, folder: Path, world: World) -> Row:
    """The entry "trending" of a summary: how the private lists of a run compare with the truth; {} without any.

    The truth (oracle) is the number of people who came to an item lately. ``precision@20`` is the share of the first
    20 listed that are among the 20 items with most people (all that share the place of the 20th count), and
    ``recall@20`` that of 20; both are means over the refreshes, a list of nothing having no precision. Beside them, the
    precision of the 20 items that are most popular over all time: what a list has to beat to say anything about lately.
    """
    if not config.privacy.trending_share:
        return {}
    day, window = calendar(config, world, None)(), config.trending.window_days
    ids, active = world.catalogue.ids, 0
    people, ever = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for history in world.histories:  # each may be read from a file
        recent = recent_items(history, day, window)
        active += len(recent) > 0
        people[recent] += 1
        np.add.at(ever, history.item[visible_rows(history)], 1)
    popular = [ids[item] for item in np.argsort(-ever, kind="stable")[:FIRST]]
    made = [
        {"round": row["round"], **judged(row["trending"], people, ids)}
        for row in _rows(folder / "rounds.jsonl")
        if "trending" in row
    ]
    told = [one["precision"] for one in made if one["precision"] is not None]
    return {
        "trending": {
            "day": day.isoformat(),
            "window_days": window,
            "people": active,
            "people_of_item_20": int(np.sort(people)[::-1][:FIRST][-1]),
            f"popularity_precision@{FIRST}": judged(popular, people, ids)["precision"],
            f"precision@{FIRST}": float(np.mean(told)) if told else None,
            f"recall@{FIRST}": float(np.mean([one["recall"] for one in made])) if made else None,
            "refreshes": made,
        }
    }


def judged(listed: Sequence[str], people: NDArray[np.int64], ids: Sequence[str]) -> Row:
    """One list against the truth.

    Args:
        listed: raw ids, hottest first.
        people: (items,) who came to each lately.
        ids: raw ids of the items.
    """
    least = max(1, int(np.sort(people)[::-1][:FIRST][-1]))
    hot = {ids[int(item)] for item in np.flatnonzero(people >= least)}
    right = sum(item in hot for item in listed[:FIRST])
    return {
        "listed": len(listed),
        "precision": right / len(listed[:FIRST]) if listed else None,
        "recall": right / min(FIRST, len(hot)) if hot else None,
    }


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
