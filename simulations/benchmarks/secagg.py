"""Secure aggregation beside Flower's SecAgg+: the same clients, values, dropouts, neighbours and threshold, one core.

A session of the peer with a thousand clients takes ten minutes, so it is a thing to ask for; its row is a bound from
below otherwise. With a million values each of them it would hold more than 8 GB of replies at once: always a bound.

Time is processor time, so that other work on the machine does not count. Every session's sum is compared with the plain
sum of its survivors: a fast wrong sum is no figure.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import RunError
from shared.secagg.terms import Terms, terms_for
from simulations.benchmarks.alone import clients_alone
from simulations.benchmarks.flower_secagg import PeerSum, flower_secagg_plus
from simulations.benchmarks.measure import Spread, bar_of, machine, one_core, repeated, resident, spread_of
from simulations.download import Say, silent
from simulations.secure_sum import SecureSum, secure_sum

OURS, PEER, FEWEST = "fedrecall", "Flower SecAgg+", "Flower SecAgg+, fewest neighbours"
SEED: Final = 20_170_317  # of the vectors; the sessions' own secrets come from the operating system
RATIO, SECONDS_100, SECONDS_1000 = 10.0, 1.0, 15.0  # the bars of the project
FLAT: Final = 0.01  # of the vectors that passed through, memory may grow by this much once caches are full


@dataclass(frozen=True)
class Plan:
    """What is measured; the default is what the command does.

    Attributes:
        small, large: numbers of clients.
        values: lengths of a vector.
        repeats: for each length, sessions of ours and of the peer at ``small``, and of ours at ``large``.
        watched: clients whose cost alone is taken, at each number of clients and the first length.
        sessions: after how many sessions memory is read; the last two are when it must be flat.
    """

    small: int = 100
    large: int = 1000
    values: tuple[int, ...] = (10_000, 1_000_000)
    repeats: tuple[tuple[int, int, int], ...] = ((5, 2, 3), (3, 1, 1))
    watched: int = 5
    sessions: tuple[int, ...] = (1, 5, 10, 45, 60)


@dataclass(frozen=True)
class Row:
    """One side at one size.

    Attributes:
        side: whose protocol.
        clients, values, dropped: the session; who drops does so before the upload.
        neighbours, threshold: of each client.
        seconds: processor time of a whole session, all clients and the server.
        client_seconds, server_seconds: the two parts of it, a client's share and the server's.
        up, down: bytes a client.
    """

    side: str
    clients: int
    values: int
    dropped: int
    neighbours: int
    threshold: int
    seconds: Spread
    client_seconds: float
    server_seconds: float
    up: int
    down: int


BySize = dict[tuple[str, int, int], Row]  # by side, clients, values


def measure(say: Say, plan: Plan | None = None, *, peers: bool = False) -> dict[str, Any]:
    """Everything that the command prints, as JSON values.

    Args:
        say: told what is being measured.
        plan: sizes and repeats.
        peers: a session of the peer at ``large`` and the first length, too.

    Raises:
        RunError: a session gave another sum than the plain one.
    """
    plan = plan or Plan()
    where = machine("flwr", "cryptography", "numpy", "pycryptodome")
    small, large, first = _terms(plan.small), _terms(plan.large), plan.values[0]
    with one_core():
        _warm_up()
        rows: list[Row] = []
        for values, (ours, peer, big) in zip(plan.values, plan.repeats, strict=True):
            rows.append(_ours(small, values, ours, say))
            rows.append(_peer(small, values, peer, say))
            rows.append(_ours(large, values, big, say))
        rows.append(_peer(Terms(plan.small, plan.small, 2, 2, plan.small), first, plan.repeats[0][1], say, FEWEST))
        if peers:
            rows.append(_peer(large, first, 1, say))
        say("clients alone")
        alone = {terms.members: _alone(terms, plan) for terms in (small, large)}
        say(f"memory over {plan.sessions[-1]} sessions")
        memory = _memory(small, plan)
    by_size = {(row.side, row.clients, row.values): row for row in rows}
    ratios = _ratios(by_size, plan, alone[plan.small].median)
    return {
        "machine": asdict(where),
        "load_after": os.getloadavg()[0],
        "sessions": [asdict(row) for row in rows],
        "client_alone": {str(clients): asdict(spread) for clients, spread in alone.items()},
        "ratios": ratios,
        "memory": memory,
        "bars": _bars(plan, by_size, ratios, memory),
    }


def _ratios(rows: BySize, plan: Plan, alone: float) -> dict[str, float]:
    """What is compared -> times faster than the peer; "at least" where the peer was measured at less work."""
    first = plan.values[0]
    out: dict[str, float] = {}
    for clients, values in product((plan.small, plan.large), plan.values):
        name, ours = f"{clients:,} clients, {values:,} values", rows[OURS, clients, values].seconds.median
        if (PEER, clients, values) in rows:
            out[name] = rows[PEER, clients, values].seconds.median / ours
            continue
        # More clients have more neighbours each, and a longer vector is never less work: two bounds from below.
        fewer = rows[PEER, plan.small, values].seconds.median * clients / plan.small
        shorter = rows[PEER, clients, first].seconds.median if (PEER, clients, first) in rows else 0.0
        measured = f"{first:,} values" if shorter > fewer else f"{plan.small} clients, times {clients / plan.small:g}"
        out[f"{name}, at least (peer: {measured})"] = max(fewer, shorter) / ours
    row, peer = rows[OURS, plan.small, first], rows[PEER, plan.small, first].seconds.median
    out["every client a process of its own"] = peer / (plan.small * alone + row.server_seconds)
    out["peer at its fewest neighbours"] = rows[FEWEST, plan.small, first].seconds.median / row.seconds.median
    return out


def _ours(terms: Terms, values: int, repeats: int, say: Say) -> Row:
    say(f"fedrecall: {terms.members:,} clients, {values:,} values, {repeats} sessions")
    vectors = _integers(terms.members, values)
    gone = list(vectors)[: terms.members - terms.smallest]
    right = _plain_sum([vectors[name] for name in vectors if name not in gone], np.int64)
    colluders = _colluders(terms.members)
    made: list[SecureSum] = repeated(
        lambda: secure_sum(vectors, terms.smallest, colluders, drop={"upload": gone}), repeats, warm=False
    )
    _check(OURS, all(np.array_equal(one.total, right) for one in made))
    return _row(OURS, terms, values, len(gone), made)


def _peer(terms: Terms, values: int, repeats: int, say: Say, side: str = PEER) -> Row:
    say(f"{side}: {terms.members:,} clients, {values:,} values, {repeats} sessions")
    vectors = dict(enumerate(_reals(terms.members, values), 1))
    gone = range(1, terms.members - terms.smallest + 1)
    stayed = [vectors[number] for number in vectors if number not in gone]
    right = _plain_sum(stayed, np.float64) / len(stayed)
    neighbours = terms.neighbours - terms.neighbours % 2  # Flower's ring takes an even number: less work, not more
    session = partial(
        flower_secagg_plus, vectors, neighbours=neighbours, threshold=terms.threshold, drop={"upload": gone}
    )
    made: list[PeerSum] = repeated(session, repeats, warm=False)
    _check(side, all(np.allclose(one.mean, right, atol=1e-4) for one in made))
    return _row(side, terms, values, len(gone), made, neighbours)


def _row(
    side: str, terms: Terms, values: int, dropped: int, made: list[SecureSum] | list[PeerSum], neighbours: int = 0
) -> Row:
    clients = terms.members
    return Row(
        side,
        clients,
        values,
        dropped,
        neighbours or terms.neighbours,
        terms.threshold,
        spread_of([one.seconds_client + one.seconds_server for one in made]),
        spread_of([one.seconds_client for one in made]).median / clients,
        spread_of([one.seconds_server for one in made]).median,
        made[0].bytes_up // clients,
        made[0].bytes_down // clients,
    )


def _alone(terms: Terms, plan: Plan) -> Spread:
    colluders = _colluders(terms.members)
    return spread_of(clients_alone(terms.members, terms.smallest, colluders, plan.values[0], plan.watched))


def _memory(terms: Terms, plan: Plan) -> dict[str, Any]:
    """Bytes held after so many sessions in one process: what Python allocated, and what the process has."""
    vectors = _integers(terms.members, plan.values[0])
    gone = list(vectors)[: terms.members - terms.smallest]
    traced, held = [], []
    tracemalloc.start()
    for number in range(1, plan.sessions[-1] + 1):
        secure_sum(vectors, terms.smallest, _colluders(terms.members), drop={"upload": gone})
        if number in plan.sessions:
            gc.collect()
            traced.append(tracemalloc.get_traced_memory()[0])
            held.append(resident())
    tracemalloc.stop()
    return {"sessions": list(plan.sessions), "traced_bytes": traced, "resident_bytes": held}


def _bars(plan: Plan, rows: BySize, ratios: dict[str, float], memory: dict[str, Any]) -> list[dict[str, Any]]:
    first = plan.values[0]
    size = f"{plan.small:,} clients, {first:,} values"
    passed = (plan.sessions[-1] - plan.sessions[-2]) * plan.small * first * 4
    grown = (memory["traced_bytes"][-1] - memory["traced_bytes"][-2]) / passed
    return [
        bar_of(f"seconds, {size}", rows[OURS, plan.small, first].seconds.median, "<", SECONDS_100),
        bar_of(f"seconds, {plan.large:,} clients", rows[OURS, plan.large, first].seconds.median, "<", SECONDS_1000),
        bar_of("times faster than Flower SecAgg+, one process", ratios[size], ">=", RATIO),
        bar_of("memory grown, as a share of the vectors that passed", grown, "<", FLAT),
    ]


def _terms(clients: int) -> Terms:
    """A tenth may drop out, a tenth may collude."""
    return terms_for(clients, clients - clients // 10, _colluders(clients))


def _colluders(clients: int) -> int:
    return clients // 10


def _warm_up() -> None:
    """Imports and tables of both sides; nobody's figure pays for them."""
    terms = _terms(20)
    _ours(terms, 100, 1, silent)
    _peer(terms, 100, 1, silent)


def _integers(clients: int, values: int) -> dict[str, NDArray[np.int32]]:
    """What sealed vectors look like: integers on a grid of 2^15 steps.

    They are windows of one long row, so that a million values of a thousand clients take no room and no time.
    """
    row = np.random.default_rng(SEED).integers(-(1 << 15), 1 << 15, clients + values, dtype=np.int32)
    return {f"client {number}": row[number : number + values] for number in range(clients)}


def _reals(clients: int, values: int) -> list[NDArray[np.float32]]:
    row = np.random.default_rng(SEED).uniform(-1.0, 1.0, clients + values).astype(np.float32)
    return [row[number : number + values] for number in range(clients)]


def _plain_sum(vectors: list[NDArray[Any]], dtype: type[np.number[Any]]) -> NDArray[Any]:
    total = np.zeros(len(vectors[0]), dtype)
    for vector in vectors:
        total += vector
    return total


def _check(side: str, right: bool) -> None:
    if not right:
        raise RunError(f"{side}: the sum is not the plain sum of the survivors' vectors; its time says nothing")
