"""The one door: nothing leaves a client except through :func:`release`.

Order, for a whole batch of clients with one sync each: the gate; the intent to the ledger, synced to disk; only then
is a contribution computed and noise drawn; the result to the ledger, synced; only then does a vector leave. A crash
in between wastes budget; it never reuses or hides it. Updates, measurements and one-off statistics all pass here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.gate import Gate, Spend, admit
from shared.errors import DeclinedError
from shared.privacy.clipping import clip_to_grid
from shared.privacy.ledger import Ledger
from shared.privacy.noise import NoiseSource, discrete_gaussian
from shared.privacy.plan import Mechanism, PrivacyPlan, Release

# Unclipped rows, one per unit, in the order of the clients given, in chunks of any size.
Contribute = Callable[[Sequence[str]], Iterator[NDArray[np.floating]]]


@dataclass(frozen=True)
class Request:
    """What is asked of a batch of clients; one task, as the gate sees it.

    Attributes:
        release: kind of release.
        run, round, attempt: which task.
        plan: the plan that the task names.
        catalogue: catalogue version that the task names.
        digest: SHA-256 of the task.
        length: length of the vector that answers it.
        private: the rows are private already (trust local: noise was added at every step); one row a client.
    """

    release: Release
    run: str
    round: int
    attempt: int
    plan: PrivacyPlan
    catalogue: str
    digest: str
    length: int
    private: bool


def release(
    request: Request,
    clients: Sequence[str],
    units: Callable[[str], int],
    contribute: Contribute,
    *,
    gate: Gate,
    spend: Spend,
    ledger: Ledger,
    noise: Callable[[str], NoiseSource],
) -> dict[str, NDArray[np.int32]]:
    """Answer one task for a batch of clients.

    Args:
        request: the task.
        clients: who is asked; each pays for itself.
        units: number of privacy units (rows) of a client.
        contribute: computes the rows of the admitted clients; called after their intents are on disk.
        gate, spend, ledger: the client side's memory; ``spend`` is brought up to date.
        noise: source of a client's noise share.

    Returns:
        client -> (length,) int32 sealed vector; who is missing declined.

    Formal guarantees:
        Each vector is the sum of its units' contributions, clipped per unit, plus the client's noise share of the plan;
        every one has a synced intent that was charged before.
    """
    refused = {client: clause for client in clients if (clause := _refusal(request, client, gate, spend)) is not None}
    if refused:
        ledger.append(_decline(request, client, clause) for client, clause in refused.items())
    admitted = [client for client in clients if client not in refused]
    if not admitted:
        return {}
    source = {client: noise(client) for client in admitted}
    ledger.append(_intent(request, client, gate.plan, source[client]) for client in admitted)
    for client in admitted:
        spend[client, request.release] = spend.get((client, request.release), 0) + 1

    mechanism = gate.plan.mechanism(request.release)
    sigma = gate.plan.share_sigma(request.release)
    sealed: dict[str, NDArray[np.int32]] = {}
    for client, rows in _per_client(admitted, units, contribute(admitted), request.length, private=request.private):
        total = rows if request.private else clip_to_grid(rows, mechanism.clip, mechanism.steps)
        sealed[client] = seal(total, mechanism, sigma, source[client], private=request.private)
    results = (
        {"type": "result", "client": c, "round": request.round, "release": request.release, "sealed": _sha(sealed[c])}
        for c in admitted
    )
    ledger.append(results, head=request.round)
    return sealed


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
    total = rows.sum(axis=0, dtype=np.int64) + discrete_gaussian(sigma, rows.shape[1], noise)
    return np.asarray(total, np.int32)


def _refusal(request: Request, client: str, gate: Gate, spend: Spend) -> str | None:
    """Why a client declines; None = it takes part."""
    try:
        admit(
            gate,
            spend,
            client,
            request.release,
            run=request.run,
            plan=request.plan.digest(),
            catalogue=request.catalogue,
        )
    except DeclinedError as refusal:
        return str(refusal)
    return None


def _decline(request: Request, client: str, clause: str) -> dict[str, object]:
    event = {"type": "decline", "client": client, "round": request.round, "release": request.release}
    return {**event, "clause": clause}


def _intent(request: Request, client: str, plan: PrivacyPlan, noise: NoiseSource) -> dict[str, object]:
    return {
        "type": "intent",
        "client": client,
        "round": request.round,
        "attempt": request.attempt,
        "release": request.release,
        "task": request.digest,
        "rho": None if plan.epsilon is None else plan.mechanism(request.release).rho,
        "share_sigma": plan.share_sigma(request.release),
        "noise_source": noise.name,
    }


def _per_client(
    clients: Sequence[str],
    units: Callable[[str], int],
    chunks: Iterator[NDArray[np.floating]],
    length: int,
    *,
    private: bool,
) -> Iterator[tuple[str, NDArray[np.floating]]]:
    """Cut a stream of rows into the rows of each client, without holding more than a client and a chunk."""
    rest: NDArray[np.floating] = np.zeros((0, length), np.float32)
    for client in clients:
        missing = 1 if private else units(client)
        parts: list[NDArray[np.floating]] = []
        while missing > len(rest):
            parts += [rest] if len(rest) else []
            missing -= len(rest)
            rest = next(chunks)
            if rest.shape[1:] != (length,):
                raise ValueError(f"rows of shape {rest.shape}, expected (units, {length})")
        parts.append(rest[:missing])
        rest = rest[missing:]
        yield client, np.concatenate(parts) if len(parts) > 1 else parts[0]


def _sha(vector: NDArray[np.int32]) -> str:
    return hashlib.sha256(vector.tobytes()).hexdigest()
