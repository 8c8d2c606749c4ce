"""A few rounds of preset ``large`` at a size, and what they cost: for benchmarks, each size in a process of its own."""

from __future__ import annotations

import math
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

from server.coordinator import run_rounds
from server.job import initial_state
from server.rows import Row
from shared.errors import RunError
from simulations.benchmarks.measure import peak
from simulations.config import SimulationConfig, resolve
from simulations.download import Say
from simulations.run import Screen, create_folder, desk_of, job_of, open_both
from simulations.seeding import generator
from simulations.world import load_world

SEED: Final = 0


@dataclass(frozen=True)
class Size:
    """How large; all public.

    Attributes:
        users, items, rows: of the data; rows are those of a history on average.
        cohort: clients asked a round, one user each.
        rounds: that are timed; one more is measured, and stands apart.
        trust: who adds the noise.
        buckets, rank: of the encoder; their product is the length of an update.
        evaluated: users whom the oracle asks.
        steps: local iterations.
    """

    users: int
    items: int
    cohort: int
    rounds: int = 3
    trust: Literal["local", "distributed", "central"] = "distributed"
    buckets: int = 1000
    rank: int = 16
    rows: int = 20
    evaluated: int = 100
    steps: int = 1


def measure_size(size: Size, folder: Path, *, cache: Path, say: Say) -> dict[str, float]:
    """Run a size in this process.

    Args:
        size: how large.
        folder: of the run; empty.
        cache: of generated data.
        say: told what is going on.

    Returns:
        The size and ``parameters`` (of an update); ``prepare_seconds`` until the first round begins; wall seconds:
        ``seconds_round0``, the one-off statistics and profiles, ``seconds_round``, the median of the rounds that are
        timed, ``seconds_measured_round``, of the last, which is measured too; ``cpu_seconds_round``, processor seconds
        as ``seconds_round``; ``bytes_up_client`` and ``bytes_down_client``, payload a client of such a round;
        ``peak_rss_mb`` of the process so far, pages of mapped files included; ``history_bytes``, the mapped file.

    Raises:
        FedrecallError: the size cannot be run.
        RunError: a round was aborted, or the run ended before its rounds: there is nothing to time.
    """
    config = _config(size)
    began = time.monotonic()
    world = load_world(config, cache, None, say)
    job = job_of(config, world, folder.name)
    create_folder(folder, config)
    clock: list[tuple[float, float]] = []
    seen: list[Row] = []

    def tell(row: Row, rounds: int) -> None:
        clock.append((time.monotonic(), time.process_time()))
        seen.append(row)
        say(f"round {row['round']} of {rounds}: {row['seconds']:.1f} s")

    with ExitStack() as stack:
        host, ledger = open_both(config, folder, world, job, None, SEED, stack)
        desk = desk_of(config, folder, world, job, SEED, host, ledger, {}, Screen(say, tell))
        started = time.monotonic()
        run_rounds(job, desk, initial_state(job, generator(SEED, "model")))
    timed = seen[: size.rounds]
    if len(seen) <= size.rounds or not all(row["cohort"]["answered"] for row in seen):
        answered = [row["cohort"]["answered"] for row in seen]
        raise RunError(f"{size}: answered in each round: {answered}; {size.rounds + 1} whole rounds were expected")
    cpu = [after[1] - before[1] for before, after in pairwise(clock)][: size.rounds - 1]
    return {
        "users": size.users,
        "items": size.items,
        "cohort": size.cohort,
        "parameters": job.encoder.trained,
        "prepare_seconds": round(started - began, 3),
        "seconds_round0": round(clock[0][0] - started - seen[0]["seconds"], 3),
        "seconds_round": statistics.median(row["seconds"] for row in timed),
        "cpu_seconds_round": round(statistics.median(cpu), 4) if cpu else math.nan,
        "seconds_measured_round": seen[-1]["seconds"],
        "bytes_up_client": _each(timed, "up"),
        "bytes_down_client": _each(timed, "down"),
        "peak_rss_mb": round(peak() / 1e6, 1),
        "history_bytes": world.stored,
    }


def _config(size: Size) -> SimulationConfig:
    """One more round than are timed: the last is measured too."""
    sets = {
        "data.users": size.users,
        "data.items": size.items,
        "data.rows": size.rows,
        "cohort.size": size.cohort,
        "rounds": size.rounds + 1,
        "policy.measure_every": size.rounds + 1,
        "privacy.trust": size.trust,
        "model.buckets": size.buckets,
        "model.rank": size.rank,
        "evaluation.users": size.evaluated,
        "policy.local_iterations": size.steps,
    }
    return resolve("large", sets=[f"{key}={value}" for key, value in sets.items()], seed=SEED)


def _each(rows: list[Row], way: str) -> float:
    """Payload bytes of a client and round."""
    asked = sum(row["cohort"]["asked"] for row in rows)
    return float(sum(row["bytes"][way] for row in rows) / asked)
