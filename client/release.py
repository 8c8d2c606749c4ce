"""The one door: nothing leaves a client except through :func:`release`.

Order, for a whole batch of clients with one sync each: the gate; the intent to the ledger, synced to disk; only then
is a contribution computed and noise drawn; the result to the ledger, synced; only then does a vector leave. A crash
in between wastes budget; it never reuses or hides it. Every kind of release passes here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.gate import Gate, Request, learn, refusals
from shared.privacy.clipping import clip_to_grid
from shared.privacy.ledger import Ledger, Receipt
from shared.privacy.noise import NoiseSource, discrete_gaussian
from shared.privacy.plan import Mechanism, plan_to_dict
from shared.proofs import LastReceipt

# Unclipped rows, one per unit, in the order of the clients given, in chunks of any size.
Contribute = Callable[[Sequence[str]], Iterator[NDArray[np.floating]]]


def release(
    request: Request,
    asked: Mapping[str, LastReceipt],
    units: Callable[[str], int],
    contribute: Contribute,
    *,
    gate: Gate,
    today: date,
    ledger: Ledger,
    noise: Callable[[str], NoiseSource],
) -> tuple[dict[str, NDArray[np.int32]], Receipt | None]:
    """Answer one task for a batch of clients.

    Args:
        request: the task.
        asked: client -> what the server says it answered last; each decides and pays for itself.
        units: number of privacy units (rows) of a client.
        contribute: computes the rows of the admitted clients; called after their intents are on disk.
        gate, ledger: the client side's consent and memory; the gate learns what the ledger took.
        today: by this side's clock.
        noise: source of a client's noise share.

    Returns:
        client -> (length,) int32 sealed vector, who is missing declined; and the receipt for all of them, None when
        nobody answers.

    Formal guarantees:
        Each vector is the sum of its units' contributions, clipped per unit, plus the client's noise share of the plan;
        every one has a synced intent that was charged before.
    """
    refused = refusals(gate, request, held_against(ledger, asked), today=today)
    admitted = [client for client in asked if client not in refused]
    events = [decline(request, client, clause) for client, clause in refused.items()]
    if not admitted:
        ledger.append(events)
        return {}, None
    source = {client: noise(client) for client in admitted}
    events += [] if request.run in gate.pins else [_plan(request)]
    intent = _intent(request, today)
    events += [{**intent, "client": client, "noise_source": source[client].name} for client in admitted]
    ledger.append(events)
    for event in events:
        learn(gate, event, str(ledger.path))

    mechanism = request.plan.mechanism(request.release)
    sigma = request.plan.share_sigma(request.release)
    chunks: Iterator[NDArray[Any]] = contribute(admitted)
    if not request.private:
        chunks = (clip_to_grid(rows, mechanism.clip, mechanism.steps) for rows in chunks)
    sealed = {
        client: seal(rows, mechanism, sigma, source[client], private=request.private)
        for client, rows in _per_client(admitted, units, chunks, request.length, private=request.private)
    }
    results = [
        {"type": "result", **_task(request), "client": client, "sealed": hashlib.sha256(vector.data).hexdigest()}
        for client, vector in sealed.items()
    ]
    return sealed, ledger.append(results, head=request.round)


def seal(
    rows: NDArray[np.int32] | NDArray[np.floating],
    mechanism: Mechanism,
    sigma: float,
    noise: NoiseSource,
    *,
    private: bool = False,
) -> NDArray[np.int32]:
    """One client's vector: the sum of its units' integer contributions plus its noise share.

    Args:
        rows: (units, d) integers on the grid, each of norm at most ``mechanism.steps``; or, if ``private``, one real
            row that is private already and is only rounded to the grid.
        mechanism: grid and clip.
        sigma: standard deviation of the share in grid units.
        noise: where it comes from.

    Formal guarantees: see :func:`shared.privacy.noise.discrete_gaussian`; rounding is post-processing.
    Edge cases: all rows zero -> noise alone, of the same size as any other vector.
    """
    if private:
        grid = np.nan_to_num(rows.sum(axis=0) * (mechanism.steps / mechanism.clip))
        return np.asarray(np.clip(np.rint(grid), -(2**30), 2**30), np.int32)
    summed = rows[0] if len(rows) == 1 else rows.sum(axis=0, dtype=np.int64)
    total = summed + discrete_gaussian(sigma, rows.shape[1], noise)
    return np.asarray(total, np.int32)


def held_against(ledger: Ledger, asked: Mapping[str, LastReceipt]) -> dict[str, bool]:
    """Client -> whether the ledger lacks what the server says that this client answered last."""
    return {client: not ledger.holds(last.seq, last.tip) for client, last in asked.items()}


def _task(request: Request) -> dict[str, object]:
    """What every event of a client says of its task."""
    run, round_, attempt, kind = request.name
    return {"run": run, "round": round_, "attempt": attempt, "release": kind}


def decline(request: Request, client: str, clause: str) -> dict[str, object]:
    """The event of a refusal."""
    return {"type": "decline", "client": client, **_task(request), "task": request.digest, "clause": clause}


def _plan(request: Request) -> dict[str, object]:
    """Pins a run, before its first intent."""
    return {
        "type": "plan",
        "kind": request.plan.kind,
        "run": request.run,
        "plan": plan_to_dict(request.plan),
        "catalogue": request.catalogue,
        "server": request.server.key,
    }


def _intent(request: Request, today: date) -> dict[str, object]:
    """What the intents of a batch share: all but the client and its source of noise."""
    return {
        "type": "intent",
        **_task(request),
        "task": request.digest,
        "server": request.server.ledger,
        "day": today.isoformat(),
        "rho": None if request.plan.epsilon is None else request.rho,
        "share_sigma": request.plan.share_sigma(request.release),
    }


def _per_client(
    clients: Sequence[str],
    units: Callable[[str], int],
    chunks: Iterator[NDArray[Any]],
    length: int,
    *,
    private: bool,
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Cut a stream of rows into the rows of each client, without holding more than a client and a chunk."""
    rest: NDArray[Any] = np.zeros((0, length), np.float32)
    for client in clients:
        missing = 1 if private else units(client)
        parts: list[NDArray[Any]] = []
        while missing > len(rest):
            parts += [rest] if len(rest) else []
            missing -= len(rest)
            rest = next(chunks)
            if rest.shape[1:] != (length,):
                raise ValueError(f"rows of shape {rest.shape}, expected (units, {length})")
        parts.append(rest[:missing])
        rest = rest[missing:]
        yield client, np.concatenate(parts) if len(parts) > 1 else parts[0]
