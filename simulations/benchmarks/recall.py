"""``fedrecall-sim bench recall``: the best items for one person, beside exact numpy, usearch and faiss.

All answer one question: which ``BEST`` of the catalogue have the largest score for this person. A score is a sum of
inner products, so the peers get what they are made for: one float32 row an item and one query, whose product is the
score. fedrecall answers as a device does (``client/serving.py``): candidates by 64 bytes an item, in large catalogues
through a graph, then their exact scores. Every peer that does not look at every row searches as widely as it needs to
find as many of the best as fedrecall does, or as widely as is tried. One core, one person at a time, processor time:
what others on the machine do is not counted.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from client.answers import Wish
from client.home import Home
from client.mapped import MappedModel, rows_of
from client.recommending import Rows, parts_of, summed, user_sides
from client.serving import CANDIDATES, NO_ITEMS, SPARE, Filter, Person, answered, candidates, renumbered
from client.shelving import build, open_shelf
from shared.encoder.encode import at_length_one
from shared.encoder.spec import Floats
from shared.errors import RunError
from shared.policy.recall_policy import RecallPolicy
from shared.recall.index import Indices, framed, query_of, write_graph
from simulations.benchmarks.measure import in_child, machine, one_core, spread_of
from simulations.benchmarks.recall_peers import BEST, PEERS, Peer, best
from simulations.benchmarks.serving import POLICY, make, person_of, publish

THIS: Final = "simulations.benchmarks.recall"
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        items: sizes of the catalogue; a million takes long, most of it the peers' graphs.
        people: who ask, one after another.
        repeats: how often all of them do.
    """

    items: tuple[int, ...] = (10_000, 100_000)
    people: int = 100
    repeats: int = 5


@dataclass(frozen=True)
class Question:
    """One person's, in both forms.

    Attributes:
        users: feature group -> (1, width), the person's vectors.
        query: (width,) float32; a peer's row times it is the score.
    """

    users: dict[str, Floats]
    query: Floats


def measure(say: Callable[[str], None], plan: Plan | None = None) -> dict[str, Any]:
    """Take all figures, each size in a process of its own; JSON values.

    Args:
        say: told what is being measured.
        plan: sizes and repeats.

    Raises:
        RunError: a measured process failed.
    """
    plan = plan or Plan()
    where, sizes = machine("numpy", "faiss-cpu", "usearch"), []
    for items in plan.items:
        say(f"{items:,} items: indexes, then lists")
        sizes.append(in_child(THIS, str(items), str(plan.people), str(plan.repeats)))
    return {"best": BEST, "sizes": sizes, "machine": asdict(where), "load_after": os.getloadavg()[0]}


def measured(items: int, people: int, repeats: int) -> dict[str, Any]:
    """All rows of one size, in this process; it should have one thread."""
    rng = np.random.default_rng(items)
    made = make(items, rng)
    with tempfile.TemporaryDirectory(prefix="fedrecall-recall-") as folder, one_core():
        home = Home(Path(folder))
        publish(home, made)
        build(home)
        shelf = open_shelf(home)
        if shelf is None or shelf.model is None:
            raise RunError("the shelf that was just built is not there")
        persons = [person_of(shelf, made, rng) for _ in range(people)]
        whole = rows_of(shelf.model, np.arange(items))
        asked = [question(shelf.model, person) for person in persons]
        right = [truth(whole, one) for one in asked]
        rows = [_ours(shelf.model, whole, asked, right, repeats)]
        flat = flat_rows(POLICY, whole)
        rows += [_peer(peer, flat, asked, right, repeats, rows[0]["recall"]) for peer in PEERS]
        lists = _asked(lambda person: answered(shelf, person, Wish(), rng), persons, repeats)
    return {"items": items, "width": flat.shape[1], "rows": rows, "list": {"k": POLICY.k, **lists}}


def question(model: MappedModel, person: Person) -> Question:
    """What is asked for somebody, whatever answers it; making it is nobody's time."""
    own = rows_of(model, person.history.item.astype(np.int64))
    users = user_sides(own, POLICY, [renumbered(person.history)])
    sides = [at_length_one(users[g]) if POLICY.similarity[g] == "cosine" else users[g] for g in _groups(POLICY, own)]
    return Question(users, np.concatenate([*(side[0] for side in sides), np.ones(1, np.float32)]))


def flat_rows(policy: RecallPolicy, rows: Rows) -> Floats:
    """(items, width) float32 whose products with :attr:`Question.query` are the scores; the last is popularity."""
    sides = [
        np.float32(policy.weight(group))
        * (at_length_one(rows.items[group]) if policy.similarity[group] == "cosine" else rows.items[group])
        for group in _groups(policy, rows)
    ]
    return np.concatenate([*sides, np.float32(policy.weight("popularity")) * rows.popularity[:, None]], axis=1)


def truth(whole: Rows, asked: Question) -> Indices:
    """The best of the catalogue, by the scores that serving itself computes."""
    return best(summed(parts_of(whole, POLICY, asked.users), (1, len(whole.popularity)))[0], BEST)


def found(model: MappedModel, asked: Question) -> Indices:
    """The answer of fedrecall: candidates, their exact scores, the best of them."""
    query = query_of(model.frame, POLICY, asked.users, {})
    item = candidates(model, query, max(CANDIDATES, SPARE * POLICY.depth), Filter(NO_ITEMS, None))
    score = summed(parts_of(rows_of(model, item), POLICY, asked.users), (1, len(item)))[0]
    return item[best(score, BEST)]


def _groups(policy: RecallPolicy, rows: Rows) -> list[str]:
    counted = [group for group in policy.features if policy.weight(group) and group != "popularity"]
    return [group for group in counted if rows.items[group].shape[1]]


def _ours(
    model: MappedModel, whole: Rows, asked: Sequence[Question], right: Sequence[Indices], repeats: int
) -> dict[str, Any]:
    def built() -> int:
        """Bytes of an index like the one of the shelf; a shelf is written in one go, so that its part has no time."""
        near, _ = framed(POLICY, dict(whole.items), whole.popularity)
        if model.graph is None:
            return near.nbytes
        with tempfile.NamedTemporaryFile(suffix=".usearch") as file:
            write_graph(Path(file.name), near, np.arange(len(near)))
            return near.nbytes + Path(file.name).stat().st_size

    seconds, size = _seconds(built)
    how = "64 bytes of every row" if model.graph is None else "graph of 64 bytes a row"
    search = partial(found, model)
    recall = _recall([search(one) for one in asked], right)
    return {
        "name": f"fedrecall, {how}",
        "effort": 0,
        "recall": recall,
        "build_seconds": seconds,
        "bytes": size,
        **_asked(search, asked, repeats),
    }


def _peer(
    peer: Peer, rows: Floats, asked: Sequence[Question], right: Sequence[Indices], repeats: int, wanted: float
) -> dict[str, Any]:
    """One peer's row, at the smallest effort that finds as much as is wanted, or at the largest."""
    try:
        seconds, index = _seconds(lambda: peer.build(rows))
    except ImportError:
        return {"name": peer.name, "absent": f"not measured: {peer.package} is not installed"}

    def recall(effort: int) -> float:
        return _recall([index.search(one.query, effort) for one in asked], right)

    effort = next((one for one in peer.efforts if recall(one) >= wanted), peer.efforts[-1])
    return {
        "name": peer.name,
        "effort": effort,
        "recall": recall(effort),
        "build_seconds": seconds,
        "bytes": index.bytes,
        **_asked(lambda one: index.search(one.query, effort), asked, repeats),
    }


def _recall(answers: Sequence[Indices], right: Sequence[Indices]) -> float:
    """Share of the best that was found, over all who asked."""
    return float(np.mean([np.isin(good, some).mean() for some, good in zip(answers, right, strict=True)]))


def _asked(answer: Callable[[T], object], asked: Sequence[T], repeats: int) -> dict[str, Any]:
    """Milliseconds of an answer: the median of all who asked, its spread over repeats, and p99 of all answers."""
    for one in asked:
        answer(one)
    gc.collect()
    taken = np.array([[_seconds(partial(answer, one))[0] for one in asked] for _ in range(repeats)]) * 1e3
    return {
        "milliseconds": asdict(spread_of(np.median(taken, axis=1).tolist())),
        "p99": float(np.quantile(taken, 0.99)),
    }


def _seconds(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(*map(int, sys.argv[1:4]))))
