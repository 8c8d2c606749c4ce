"""Secure aggregation beside Flower's SecAgg+: the same clients, values, dropouts, neighbours and threshold, one core.

Time is processor time, so that other work on the machine does not count. Every session's sum is compared with the plain
sum of its survivors: a fast wrong sum is no figure.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import RunError
from shared.secagg.terms import Terms, terms_for
from simulations.benchmarks.alone import clients_alone
from simulations.benchmarks.flower_secagg import PeerSum, flower_secagg_plus
from simulations.benchmarks.measure import Spread, machine, one_core, repeated, resident, spread_of
from simulations.secure_sum import SecureSum, secure_sum

SEED: Final = 20_170_317  # of the vectors; the sessions' own secrets come from the operating system
RATIO, SECONDS_100, SECONDS_1000 = 10.0, 1.0, 15.0  # the bars of the project
FLAT: Final = 0.01  # of the vectors that passed through, memory may grow by this much once caches are full


@dataclass(frozen=True)
class Plan:
    """What is measured; the default is what the command does.

    Attributes:
        small, large: numbers of clients.
        values: length of a vector.
        repeats: sessions of ours and of the peer at ``small``, and of ours at ``large``.
        watched: clients whose cost alone is taken, at each size.
        sessions: after how many sessions memory is read; the last two are when it must be flat.
    """

    small: int = 100
    large: int = 1000
    values: int = 10_000
    repeats: tuple[int, int, int] = (5, 3, 3)
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


def measure(say: Callable[[str], None], plan: Plan | None = None) -> dict[str, Any]:
    """Everything that the command prints, as JSON values.

    Args:
        say: told what is being measured.
        plan: sizes and repeats.

    Raises:
        RunError: a session gave another sum than the plain one.
    """
    plan = plan or Plan()
    where = machine("flwr", "cryptography", "numpy", "pycryptodome")
    small, large = _terms(plan.small), _terms(plan.large)
    with one_core():
        _warm_up()
        say(f"fedrecall: {plan.small} clients, {plan.repeats[0]} sessions")
        ours = _ours(small, plan.values, plan.repeats[0])
        say(f"Flower SecAgg+: {plan.small} clients, {plan.repeats[1]} sessions")
        peer = _peer(small, plan.values, plan.repeats[1])
        fewest = _peer(Terms(plan.small, plan.small, 2, 2, plan.small), plan.values, plan.repeats[1])
        say(f"fedrecall: {plan.large} clients, {plan.repeats[2]} sessions")
        big = _ours(large, plan.values, plan.repeats[2])
        say("clients alone")
        alone = {terms.members: _alone(terms, plan) for terms in (small, large)}
        say(f"memory over {plan.sessions[-1]} sessions")
        memory = _memory(small, plan)
    apart = plan.small * alone[plan.small].median + ours.server_seconds
    ratios = {
        "one process": peer.seconds.median / ours.seconds.median,
        "every client a process of its own": peer.seconds.median / apart,
        "peer at its fewest neighbours": fewest.seconds.median / ours.seconds.median,
    }
    return {
        "machine": asdict(where),
        "load_after": os.getloadavg()[0],
        "sessions": [asdict(row) for row in (ours, peer, fewest, big)],
        "client_alone": {str(clients): asdict(spread) for clients, spread in alone.items()},
        "ratios": ratios,
        "memory": memory,
        "bars": _bars(plan, ours, big, ratios, memory),
    }


def _ours(terms: Terms, values: int, repeats: int) -> Row:
    vectors = _integers(terms.members, values)
    gone = list(vectors)[: terms.members - terms.smallest]
    right = sum(vectors[name].astype(np.int64) for name in vectors if name not in gone)
    colluders = _colluders(terms.members)
    made: list[SecureSum] = repeated(
        lambda: secure_sum(vectors, terms.smallest, colluders, drop={"upload": gone}), repeats, warm=False
    )
    _check("fedrecall", all(np.array_equal(one.total, right) for one in made))
    return _row("fedrecall", terms, values, len(gone), made)


def _peer(terms: Terms, values: int, repeats: int) -> Row:
    vectors = dict(enumerate(_reals(terms.members, values), 1))
    gone = range(1, terms.members - terms.smallest + 1)
    right = np.mean([vectors[number] for number in vectors if number not in gone], axis=0)
    neighbours = terms.neighbours - terms.neighbours % 2  # Flower's ring takes an even number: less work, not more
    session = partial(
        flower_secagg_plus, vectors, neighbours=neighbours, threshold=terms.threshold, drop={"upload": gone}
    )
    made: list[PeerSum] = repeated(session, repeats, warm=False)
    _check("Flower SecAgg+", all(np.allclose(one.mean, right, atol=1e-4) for one in made))
    return _row("Flower SecAgg+", terms, values, len(gone), made, neighbours)


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
    return spread_of(clients_alone(terms.members, terms.smallest, colluders, plan.values, plan.watched))


def _memory(terms: Terms, plan: Plan) -> dict[str, Any]:
    """Bytes held after so many sessions in one process: what Python allocated, and what the process has."""
    vectors = _integers(terms.members, plan.values)
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


def _bars(plan: Plan, ours: Row, big: Row, ratios: dict[str, float], memory: dict[str, Any]) -> list[dict[str, Any]]:
    passed = (plan.sessions[-1] - plan.sessions[-2]) * plan.small * plan.values * 4
    grown = (memory["traced_bytes"][-1] - memory["traced_bytes"][-2]) / passed
    return [
        _bar(f"seconds, {plan.small} clients", ours.seconds.median, "<", SECONDS_100),
        _bar(f"seconds, {plan.large} clients", big.seconds.median, "<", SECONDS_1000),
        _bar("times faster than Flower SecAgg+, one process", ratios["one process"], ">=", RATIO),
        _bar("memory grown, as a share of the vectors that passed", grown, "<", FLAT),
    ]


def _bar(what: str, value: float, sign: str, bar: float) -> dict[str, Any]:
    met = value >= bar if sign == ">=" else value < bar
    return {"what": what, "value": value, "bar": f"{sign} {bar:g}", "met": met}


def _terms(clients: int) -> Terms:
    """A tenth may drop out, a tenth may collude."""
    return terms_for(clients, clients - clients // 10, _colluders(clients))


def _colluders(clients: int) -> int:
    return clients // 10


def _warm_up() -> None:
    """Imports and tables of both sides; nobody's figure pays for them."""
    terms = _terms(20)
    _ours(terms, 100, 1)
    _peer(terms, 100, 1)


def _integers(clients: int, values: int) -> dict[str, NDArray[np.int32]]:
    """What sealed vectors look like: integers on a grid of 2^15 steps."""
    rng = np.random.default_rng(SEED)
    rows = rng.integers(-(1 << 15), 1 << 15, (clients, values), dtype=np.int32)
    return {f"client {number}": row for number, row in enumerate(rows)}


def _reals(clients: int, values: int) -> NDArray[np.float32]:
    return np.random.default_rng(SEED).uniform(-1.0, 1.0, (clients, values)).astype(np.float32)


def _check(side: str, right: bool) -> None:
    if not right:
        raise RunError(f"{side}: the sum is not the plain sum of the survivors' vectors; its time says nothing")
