"""``fedrecall-sim bench serving``: what serving costs on a device, by size of the catalogue, beside its bars.

End to end, as on a device: a publication in force, a shelf built by a child process, behaviour in an encrypted vault, a
fresh process that opens both. The catalogue is made up: topics with items around them, popularity by Zipf's law, the
learned vectors as long as an item is popular, as the linear encoder's are. People keep to a few topics.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from client.answers import Wish
from client.behaviour import Behaviour
from client.device import open_device
from client.home import Home
from client.mapped import MappedModel, MappedShelf, rows_of
from client.published import catalogue_path, take
from client.recommending import parts_of, summed, user_sides
from client.serving import CANDIDATES, NO_ITEMS, Filter, Person, answered, candidates, renumbered
from client.shelving import build_in_child, open_shelf
from shared.catalogue import Catalogue, save_catalogue
from shared.encoder.spec import EncoderSpec, Floats, unpack
from shared.history import History
from shared.keys import own_key
from shared.policy.recall_policy import RecallPolicy
from shared.privacy.ledger import public_hex
from shared.publication import Publication, PublishedModel, publication_record
from shared.recall.index import best_rows, query_of
from shared.recall.item_rules import NO_RULES
from simulations.benchmarks.measure import machine, one_core

Say = Callable[[str], None]
Taken = tuple[float, float]  # seconds: by the clock, of this thread
RANK, LEXICAL, TOPICS = 32, 128, 200  # widths; items of a topic
PEOPLE: Final = 100
LENGTH: Final = 50  # items of a history
REQUESTS: Final = 5  # of each person
K: Final = 20
RECALL_AT: Final = 100
BARS: Final = {10_000: 5.0, 100_000: 10.0, 1_000_000: 20.0}  # ms, p99 of a list
POLICY: Final = RecallPolicy(
    version=1,
    similarity={"text": "dot", "lexical": "cosine", "category": "cosine"},
    weights={"text": 10.0, "lexical": 5.0, "category": 1.0, "popularity": 1.0},
    features=("text", "lexical"),
    depth=200,
    local_iterations=1,
    exposure_price=0.5,
    diversity=0.1,
    exploration=0.0,
    k=K,
)
_START: Final = """\
import sys, time
from pathlib import Path
from client.device import open_device
from client.home import Home
def resident():
    of_shelf = total = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            mine = "/shelf/" in line
        elif line.startswith("Rss:"):
            total += int(line.split()[1])
            of_shelf += mine * int(line.split()[1])
    return total - of_shelf, of_shelf
device = open_device(Home(Path(sys.argv[1])), bytes.fromhex(sys.stdin.read()))
offers = device.recommend().offers
print(len(offers), *resident(), int("torch" in sys.modules), int("flwr" in sys.modules))
"""


@dataclass(frozen=True)
class Made:
    """A made-up world.

    Attributes:
        catalogue, model: what is published.
        topic: (items,) of each item.
    """

    catalogue: Catalogue
    model: PublishedModel
    topic: np.ndarray[Any, np.dtype[np.int64]]


def measure(say: Say, sizes: Sequence[int]) -> dict[str, Any]:
    """Take all figures; a minute for 100,000 items, about ten for a million.

    Args:
        say: progress.
        sizes: of the catalogues.

    Returns:
        ``{"sizes": [{"items", ...}], "machine"}``, ready for JSON.
    """
    rows = []
    for items in sizes:
        with tempfile.TemporaryDirectory(prefix="fedrecall-serving-") as folder:
            rows.append(_measured(Home(Path(folder)), items, say))
    return {"sizes": rows, "k": K, "history": LENGTH, "machine": asdict(machine("numpy", "usearch"))}


def _measured(home: Home, items: int, say: Say) -> dict[str, Any]:
    say(f"{items:,} items: making them up")
    rng = np.random.default_rng(items)
    made = make(items, rng)
    publish(home, made)
    say(f"{items:,} items: the shelf")
    began = time.perf_counter()
    build_in_child(home)
    built = time.perf_counter() - began
    shelf = open_shelf(home)
    if shelf is None or shelf.model is None:
        raise RuntimeError("the shelf that was just built is not there")
    people = [person_of(shelf, made, rng) for _ in range(PEOPLE)]
    say(f"{items:,} items: lists")
    key = os.urandom(32)
    with one_core():
        lists = _lists(shelf, people)
        nearness = _nearness(shelf.model, people)
        figures = _on_a_device(home, key, made, people[0], rng)
    (folder,) = (path for path in home.shelf.iterdir() if path.is_dir())
    about = json.loads((folder / "about.json").read_bytes())
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return {
        "items": items,
        "list ms": _spread(lists),
        "bar ms": BARS.get(items),
        **nearness,
        **figures,
        "index MiB": (sizes["near.npy"] + sizes.get("graph.usearch", 0)) / 2**20,
        "shelf MiB": sum(sizes.values()) / 2**20,
        "build s": built,
        "build peak MiB": about["peak_mib"],
        "index": "every row" if shelf.model.graph is None else "graph",
    }


def make(items: int, rng: np.random.Generator) -> Made:
    """A world of so many items."""
    topic = rng.integers(max(8, items // TOPICS), size=items)
    fading = 1.0 / np.sqrt(np.arange(1, RANK + 1))  # directions of learned vectors count less and less
    centre = rng.normal(size=(topic.max() + 1, RANK)) * fading
    own = centre[topic] + 0.5 * fading * rng.normal(size=(items, RANK))
    popularity = rng.permutation(-0.8 * np.log(np.arange(1, items + 1)))
    popularity -= popularity.mean()
    direction = _unit(own)
    length = np.clip(np.exp(0.3 * popularity), 0.3, 3.0)
    spread = rng.normal(size=(RANK, LEXICAL)).astype(np.float32)
    lexical = _unit(centre[topic].astype(np.float32) @ spread + rng.normal(size=(items, LEXICAL)).astype(np.float32))
    spec = EncoderSpec(text_width=8, rank=RANK, buckets=items, kind="linear")
    parameters = np.zeros(spec.size, np.float32)
    parts = unpack(spec, parameters)
    parts["context"][:], parts["target"][:] = direction, 0.3 * direction * length[:, None]
    names = tuple(f"item-{number}" for number in range(items))
    kinds = tuple((f"topic {number % 40}",) for number in topic.tolist())
    compact = _unit(own[:, :8])
    groups = {"text": direction, "lexical": lexical, "compact": compact}
    groups["category"] = np.zeros((items, 0), np.float32)
    catalogue = Catalogue(names, tuple(f"Title of {name}" for name in names), names, kinds, groups)
    prior = popularity.astype(np.float32)
    model = PublishedModel(spec, parameters, prior, catalogue.version(), POLICY, NO_RULES)
    return Made(catalogue, model, topic)


def _unit(rows: np.ndarray[Any, np.dtype[Any]]) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def publish(home: Home, made: Made) -> None:
    """Put the world in force, as a server's publication does; the catalogue is there already."""
    version = made.model.trained
    home.folder.joinpath("device.toml").write_text("", encoding="utf-8")
    save_catalogue(made.catalogue, catalogue_path(home, version))
    server = own_key(home.folder / "server-key.pem")
    hot = made.catalogue.ids[: 2 * K]
    publication = Publication(1, "bench", 1, version, version, b"", made.catalogue.ids[-5:], hot, b"", made.model)
    take(home, publication_record(publication, server, "0" * 64), public_hex(server))


def person_of(shelf: MappedShelf, made: Made, rng: np.random.Generator) -> Person:
    """Somebody with items of three topics."""
    topics = rng.choice(made.topic, 3)
    near = np.flatnonzero(np.isin(made.topic, topics))
    item = rng.choice(near, min(LENGTH, len(near) // 2), replace=False)
    n = len(item)
    history = History(
        item.astype(np.int32),
        np.zeros(n, np.int8),
        np.ones(n, np.float32),
        np.zeros(n, np.float32),
        np.full(n, np.nan, np.float32),
        1e9 + np.arange(n, dtype=np.float64),
        np.zeros(n, np.bool_),
    )
    return Person(history, None, shelf.found(made.catalogue.ids[: 2 * K]), NO_ITEMS)


def _lists(shelf: MappedShelf, people: Sequence[Person]) -> list[Taken]:
    """Seconds of each request, the first of each person aside: it reads from disk."""
    rng = np.random.default_rng(0)
    for person in people:
        answered(shelf, person, Wish(), rng)
    return [_seconds(partial(answered, shelf, person, Wish(), rng)) for _ in range(REQUESTS) for person in people]


def _nearness(model: MappedModel, people: Sequence[Person]) -> dict[str, float]:
    """How much of the best is found: of 64 bytes by looking at every row, and of whole vectors."""
    allowed, of_rows, of_all, of_list = Filter(NO_ITEMS, None), [], [], []
    everything = np.arange(len(model.near))
    whole = rows_of(model, everything)
    for person in people:
        history = person.history
        own = rows_of(model, history.item.astype(np.int64))
        users = user_sides(own, POLICY, [renumbered(history)])
        query = query_of(model.frame, POLICY, users, {})
        found = candidates(model, query, max(CANDIDATES, 3 * POLICY.depth), allowed)
        best = best_rows(model.near, query, RECALL_AT)
        of_rows.append(np.isin(best, best_rows(model.near, query, RECALL_AT, found)).mean())
        exact = summed(parts_of(whole, POLICY, users), (1, len(everything)))[0]
        order = np.argsort(-exact)
        of_all.append(np.isin(order[:RECALL_AT], found).mean())
        of_list.append(np.isin(order[:K], found).mean())
    return {
        "recall@100 of 64 bytes": float(np.mean(of_rows)),
        "recall@100 of whole vectors": float(np.mean(of_all)),
        "recall@20 of whole vectors": float(np.mean(of_list)),
    }


def _on_a_device(home: Home, key: bytes, made: Made, person: Person, rng: np.random.Generator) -> dict[str, Any]:
    device = open_device(home, key)
    ids = made.catalogue.ids
    device.record([Behaviour(ids[item], "view", 1e9 + n) for n, item in enumerate(person.history.item)])
    device.recommend()
    through = [_seconds(device.recommend) for _ in range(100)]
    events, asked, reasons = [], [], []
    for number in range(50):
        before = device.recommend().offers
        pick = before[int(rng.integers(len(before)))].id
        event = Behaviour(pick, "view", 2e9 + number)
        reasons.append(_seconds(partial(device.explain, pick)))
        events.append(_seconds(partial(device.record, [event])))
        asked.append(_seconds(device.recommend))
        if [one.id for one in device.recommend().offers] == [one.id for one in before]:
            raise RuntimeError("an event left the list as it was")
    device.close()
    return {
        "device list ms": _spread(through),
        "event stored and learned ms": _spread(events),
        "event to next list ms": _spread([(e[0] + a[0], e[1] + a[1]) for e, a in zip(events, asked, strict=True)]),
        "explanation ms": _spread(reasons),
        **_restarted(home, key),
    }


def _restarted(home: Home, key: bytes) -> dict[str, Any]:
    """A fresh process, from its start to its first list."""
    began = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", _START, str(home.folder)], input=key.hex(), capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    shown, resident, shelf, torch, flwr = map(int, done.stdout.split())
    if not shown or torch:
        raise RuntimeError(f"a fresh process showed {shown} items and imported torch: {bool(torch)}")
    return {
        "restart to first list s": seconds,
        "resident without the shelf MiB": resident / 1024,
        "resident of the shelf MiB": shelf / 1024,
        "imports flwr": bool(flwr),
    }


def _spread(taken: Sequence[Taken]) -> dict[str, float]:
    """Milliseconds: by the clock, and of this thread's own work, which no neighbour on the machine adds to."""
    wall, own = np.array(taken).T * 1e3
    return {
        "p50": float(np.median(wall)),
        "p99": float(np.quantile(wall, 0.99)),
        "own p99": float(np.quantile(own, 0.99)),
    }


def _seconds(work: Callable[[], object]) -> Taken:
    began, busy = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - began, time.thread_time() - busy


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`measure` returned."""
    where = result["machine"]
    table = Table(
        title=f"Serving on one core: lists of {result['k']}, histories of {result['history']} items",
        caption=f"{where['cpu']}, load average {where['load']:.2f}; in brackets p99 of this thread's own work, "
        "without what others on the machine took",
        box=SIMPLE,
    )
    table.add_column("")
    for row in result["sizes"]:
        table.add_column(f"{row['items']:,} items", justify="right")
    for name in result["sizes"][0]:
        if name != "items":
            table.add_row(name, *(_cell(row[name]) for row in result["sizes"]))
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return f"p50 {value['p50']:.2f}, p99 {value['p99']:.2f} ({value['own p99']:.2f})"
    return f"{value:.3f}" if isinstance(value, float) else "none" if value is None else str(value)
