"""``fedrecall-sim bench vault``: what the sealed store of a device costs, beside SQLite in clear.

The peer is a table of one row an event in the same SQLite, with the same promises on writing (WAL, synchronous FULL,
secure_delete), in clear and with nothing proved: what encryption, integrity and the proof cost is the difference.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from client.behaviour import Behaviour, Events, history_of
from client.importing import read_events
from client.vault import Vault, open_vault
from shared.errors import RunError
from shared.history import DAY, KINDS
from simulations.benchmarks.measure import machine, one_core, spread_of

SEED: Final = 20_170_727  # of the invented events; keys come from the operating system
ONE_EVENT: Final = 20.0  # ms, the bar of the project
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        events: in the vault.
        items: of the catalogue; how often each occurs falls with its rank.
        single: events recorded one by one.
    """

    events: int = 1_000_000
    items: int = 100_000
    single: int = 200


def measure(say: Callable[[str], None], plan: Plan | None = None) -> dict[str, Any]:
    """Take all figures; about a minute for a million events.

    Returns:
        ``{"events", "items", "seconds", "peer", "one_event_ms", "bytes", "forgotten", "peak_megabytes", "bars",
        "machine"}``, ready for JSON.

    Raises:
        RunError: what came out is not what went in; a fast wrong store is no figure.
    """
    plan = plan or Plan()
    where = machine("cryptography", "numpy")
    with tempfile.TemporaryDirectory() as folder, one_core():
        say(f"{plan.events:,} events as CSV")
        table = Path(folder) / "events.csv"
        _write_csv(table, plan)
        seconds: dict[str, float] = {}
        events = _timed(seconds, "read the CSV", lambda: read_events(table))
        say("the vault")
        figures = _vault(Path(folder) / "behaviour.db", events, plan, seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        say("SQLite in clear")
        peer = _peer(Path(folder) / "clear.db", events)
    return {
        "events": plan.events,
        "items": plan.items,
        "seconds": seconds,
        "peer": peer,
        **figures,
        "peak_megabytes": peak,
        "bars": {f"one event under {ONE_EVENT:g} ms, median": figures["one_event_ms"]["median"] < ONE_EVENT},
        "machine": asdict(where),
    }


def _vault(path: Path, events: Events, plan: Plan, seconds: dict[str, float]) -> dict[str, Any]:
    key = os.urandom(32)
    with open_vault(path, key) as vault:
        _timed(seconds, "import them", lambda: vault.record(events))
    size = path.stat().st_size
    with _timed(seconds, "open it", lambda: open_vault(path, key)) as vault:
        _timed(seconds, "query: all events", vault.events)
        ids = [f"item-{number}" for number in range(plan.items)]
        secret = vault.secret()
        stored = vault.events()
        rows = _timed(seconds, "query: the history", lambda: history_of(stored, ids, secret))
        if int(rows.count.sum()) != plan.events:
            raise RunError(f"the vault gave {int(rows.count.sum())} events of {plan.events}")
        single = [_one(vault, number) for number in range(plan.single)]
        forgotten = {"one item": _timed(seconds, "forget one item", lambda: vault.forget(["item-0"]))}
        forgotten["everything"] = _timed(seconds, "forget everything", vault.forget)
    gone = sum(one.events for one in forgotten.values())
    if gone != plan.events + plan.single:
        raise RunError(f"{gone} events were forgotten of {plan.events + plan.single}")
    return {
        "one_event_ms": asdict(spread_of(single)),
        "bytes": size,
        "forgotten": {what: asdict(done) for what, done in forgotten.items()},
    }


def _one(vault: Vault, number: int) -> float:
    began = time.perf_counter()
    vault.record([Behaviour(f"item-{number}", "view", 2e9 + number)])
    return 1e3 * (time.perf_counter() - began)


def _peer(path: Path, events: Events) -> dict[str, float]:
    """The same work on a table in clear."""
    seconds: dict[str, float] = {}
    rows = [(one.item, one.kind, one.time, one.dwell, one.rating) for one in events]
    with closing(sqlite3.connect(path, isolation_level=None)) as table:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            table.execute(f"PRAGMA {pragma}").fetchall()
        table.execute("CREATE TABLE events (item TEXT, kind TEXT, time REAL, dwell REAL, rating REAL)")
        table.execute("CREATE INDEX by_item ON events (item)")

        def written() -> None:
            table.execute("BEGIN")
            table.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)
            table.execute("COMMIT")

        _timed(seconds, "import them", written)
        _timed(seconds, "query: all events", lambda: table.execute("SELECT * FROM events ORDER BY time").fetchall())
        _timed(seconds, "forget one item", lambda: table.execute("DELETE FROM events WHERE item = 'item-0'"))
        _timed(seconds, "forget everything", lambda: table.execute("DELETE FROM events"))
    return seconds


def _write_csv(path: Path, plan: Plan) -> None:
    """Invented events: items by Zipf's law over a year, a third of them purchases, ratings and the rest."""
    rng = np.random.default_rng(SEED)
    weights = 1.0 / np.arange(1, plan.items + 1)
    item = rng.choice(plan.items, plan.events, p=weights / weights.sum())
    kind = rng.choice(len(KINDS), plan.events, p=(0.66, 0.15, 0.1, 0.08, 0.01))
    times = 1.7e9 + rng.uniform(0, 365 * DAY, plan.events)
    rating = np.where(kind == KINDS.index("rating"), rng.integers(1, 6, plan.events) / 5, np.nan)
    dwell = np.where(kind == KINDS.index("dwell"), rng.uniform(0, 1, plan.events), 0.0)
    with path.open("w", encoding="ascii") as file:
        file.write("item,kind,time,dwell,rating\n")
        for one, what, when, stay, stars in zip(item, kind, times, dwell, rating, strict=True):
            said = "" if np.isnan(stars) else f"{stars:g}"
            file.write(f"item-{one},{KINDS[what]},{when:.3f},{stay:.4f},{said}\n")


def _timed(seconds: dict[str, float], what: str, work: Callable[[], T]) -> T:
    began = time.perf_counter()
    result = work()
    seconds[what] = time.perf_counter() - began
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """Print what :func:`measure` returned."""
    size = f"{result['bytes'] / 1e6:.1f} MB on disk, {result['bytes'] / result['events']:.1f} bytes an event"
    table = Table(
        title=f"A vault of {result['events']:,} events of {result['items']:,} items, one core",
        caption=f"{size}; peak {result['peak_megabytes']:.0f} MB; SQLite in clear proves nothing",
        box=SIMPLE,
    )
    table.add_column("")
    for name in ("seconds", "SQLite in clear"):
        table.add_column(name, justify="right")
    for what, seconds in result["seconds"].items():
        peer = result["peer"].get(what)
        table.add_row(what, f"{seconds:.3f}", "" if peer is None else f"{peer:.3f}")
    console.print(table)
    one = result["one_event_ms"]
    console.print(f"One event: {one['median']:.2f} ms ({one['low']:.2f} to {one['high']:.2f}), on disk on return.")
    for what, done in result["forgotten"].items():
        console.print(
            f"Forgot {what}: {done['events']:,} events; {done['probes']:,} pieces of {done['ciphertexts']:,} "
            f"ciphertexts looked for in {done['searched']:,} bytes, {done['found']} found."
        )
    for name, kept in result["bars"].items():
        console.print(f"{'ok ' if kept else 'NO '} {name}", markup=False)
    where = result["machine"]
    console.print(f"{where['cpu']}, load {where['load']:.1f}, Python {where['python']}", markup=False)
