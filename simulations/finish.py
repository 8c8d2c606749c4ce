"""The end of a run: the model, the final test, baselines, examples, summary and report."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from client.witness import paid_for, second_witness
from server.checkpoint import claims_so_far
from server.ending import Ending
from server.job import Job
from server.rows import Row
from server.summary import claims_of, covers, not_covered
from shared.files import write_atomically
from shared.privacy.chain import read_ledger
from shared.privacy.plan import Claims, PrivacyPlan
from simulations.aggregation import Words, mode_of, words
from simulations.baselines import run_baselines
from simulations.config import SimulationConfig
from simulations.datasets.load import DATASETS
from simulations.examples import examples
from simulations.mending import CLIENT_LEDGER
from simulations.model import Model, model_of, write_model
from simulations.report import write_report
from simulations.seeding import generator
from simulations.trending import trending_summary
from simulations.world import World, judged, oracle

YARDSTICKS: Final = ("popularity", "tfidf", "ease")  # the floor, the public features alone, the non-private ceiling


def finish(
    config: SimulationConfig,
    folder: Path,
    world: World,
    job: Job,
    ending: Ending,
    *,
    loading_seconds: float,
) -> Row:
    """Write everything that a finished run leaves behind; ``report.html`` last, it marks the end.

    ``model.safetensors`` is the model that the run ended with; the last one and the best one by private estimate stay
    in ``checkpoint.safetensors`` and ``best.safetensors``.

    The test items are used here, once, with train and validation items masked, in two readings of the same model: what
    a device recommends that reads all its rows, and, as published numbers have it, train rows only. Times: rounds as
    ``rounds.jsonl`` has them, whichever process ran them; loading and this function as they took here.
    """
    began = time.monotonic()
    model = model_of(ending.model, job)
    write_model(folder / "model.safetensors", model, world.catalogue)
    seed = None if config.seed == "none" else config.seed
    rngs = [generator(seed, "final", user) for user in world.asked_names]
    final = {on: _quality(world, job, model, rngs, on) for on in ("valid", "test")}
    policy = replace(model.policy, k=20)
    published = oracle(
        world, job.encoder, model.parameters, model.prior, policy, job.rules, rngs, on="test", reads="train"
    )
    # Devices read all they have, validation rows too; so do the yardsticks that stand beside them.
    found = run_baselines(
        world.dataset,
        judged(world),
        delta=config.privacy.delta,
        epsilons=(),
        seed=0,
        names=YARDSTICKS,
        also_valid=True,
    )
    baselines = {name: found[f"{name}+valid"] for name in YARDSTICKS if f"{name}+valid" in found}
    in_rounds = _seconds(folder / "rounds.jsonl")
    summary = _summary(config, folder, world, job, ending) | {
        "test": final["test"],
        "test_reading_train": published,
        "valid": final["valid"],
        "baselines": baselines,
        "wall_seconds": round(loading_seconds + in_rounds + time.monotonic() - began, 2),
        "client_updates": ending.last.updates,
        "client_updates_per_second": round(ending.last.updates / max(in_rounds, 1e-9), 1),
        "peak_rss_mb": round(_peak_mb(), 1),
        **trending_summary(config, folder, world),
    }
    if world.dataset.public:
        shown = examples(world, model, rngs)
        write_atomically(folder / "examples.json", json.dumps(shown, indent=1).encode())
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1).encode())
    write_report(folder)
    return summary


def _quality(world: World, job: Job, model: Model, rngs: Sequence[np.random.Generator], on: str) -> dict[str, float]:
    """Metrics of the final model at the policy's k and, so that runs compare, at 20."""
    policies = [replace(model.policy, k=20), model.policy]
    out: dict[str, float] = {}
    for policy in policies[policies[0] == policies[1] :]:
        out |= oracle(world, job.encoder, model.parameters, model.prior, policy, job.rules, rngs, on=on)
    return out


def asked_in_words(world: World) -> str:
    """Whom the oracle and the final test asked, as tables end with it; "" = everybody."""
    asked, users = len(world.asked), len(world.users)
    return "" if asked == users else f"of a sample of {asked:,} of {users:,} users"


def _seconds(rows: Path) -> float:
    """Seconds of all rounds."""
    if not rows.exists():
        return 0.0
    return sum(float(json.loads(row)["seconds"]) for row in rows.read_text(encoding="utf-8").splitlines())


def _peak_mb() -> float:
    """Peak memory of this process or of its largest child, in MB."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / (1024.0**2 if sys.platform == "darwin" else 1024.0)


def _summary(config: SimulationConfig, folder: Path, world: World, job: Job, ending: Ending) -> Row:
    plan = job.plan
    spent, _ = claims_so_far(plan, ending.last)
    said = words(mode_of(config), plan.trust)
    return {
        "preset": config.preset,
        "kind": plan.kind,
        "split": config.data.split,
        "seed": config.seed,
        "engine": config.engine,
        "controller": config.policy.controller,
        **claims_of(job, ending),
        "second_accountant": _witness(plan, folder),
        "covers_tuning": False,
        "covers": covers(plan, said.against),
        "not_covered": _not_covered(plan, spent, said, own_data=config.data.name not in DATASETS),
        "secure_aggregation": said.summary,
        "users": len(world.users),
        "asked": asked_in_words(world),
        "clients": len(job.nodes),
        "items": job.items,
        "parameters": job.encoder.size,
        "licence": world.dataset.licence,
        "public_data": world.dataset.public,
        "text_encoder": config.model.text_encoder,
    }


def _witness(plan: PrivacyPlan, folder: Path) -> Row | None:
    """Epsilon of the client that paid most, by Opacus and from the clients' own ledgers alone; beside the claim."""
    if plan.epsilon is None:
        return None
    own = folder / CLIENT_LEDGER
    ledgers = [own] if own.exists() else sorted((folder / "home" / "clients").glob("*/ledger.jsonl"))
    paid = {spent for path in ledgers for spent in paid_for(line.event for line in read_ledger(path)).values()}
    most = max(paid, key=lambda spent: sum(one.times / one.noise_multiplier**2 for one in spent), default=())
    seen = second_witness(most, plan.delta)
    return {"name": "Opacus", "prv": seen.prv, "rdp": seen.rdp}


def _not_covered(plan: PrivacyPlan, spent: Claims, said: Words, *, own_data: bool) -> list[str]:
    out = [
        "Oracle values, examples and the seed in this folder: a simulation knows them, no deployment does.",
        *not_covered(plan, spent),
    ]
    if own_data:
        out.append("Ranges of ratings and dwell times, read off all users of this folder to scale their features.")
    if said.not_covered:
        out.append(said.not_covered)
    return out
