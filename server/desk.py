"""The coordinator's hands: everything that reads, writes, draws or waits; a simulation and a deployment differ here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from server.checkpoint import State
from server.evaluation import Measurement
from server.rows import Row
from shared.privacy.ledger import Ledger
from shared.privacy.noise import NoiseSource
from shared.privacy.plan import Release


@dataclass(frozen=True)
class Desk:
    """What the round loop works with.

    Attributes:
        grid: Flower's grid.
        ledger: the server's own.
        folder: where ``rounds.jsonl`` and the checkpoint go.
        noise: (round, release) -> noise that the server adds under central trust.
        rng: (round, purpose) -> generator for cohorts and bootstraps; no privacy rests on it.
        oracle: exact values of a measured round, in a simulation; None where nobody can know them.
        masked: whether sums are masked; False only in a simulation that says so.
        registered: identities that may take part in secure aggregation; None = any.
        ledgers: counts lines of all ledgers for the checkpoint.
        attempts: (round, release) -> tries before this process, from the ledger.
        tell: called with every finished row.
    """

    grid: Grid
    ledger: Ledger
    folder: Path
    noise: Callable[[int, Release], NoiseSource]
    rng: Callable[[int, str], np.random.Generator]
    oracle: Callable[[State, Measurement | None], Row | None]
    masked: bool
    registered: Collection[bytes] | None
    ledgers: Callable[[], dict[str, int]]
    attempts: Mapping[tuple[int, Release], int]
    tell: Callable[[Row], None]
