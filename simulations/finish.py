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
from safetensors.numpy import save

from server.checkpoint import State
from server.coordinator import Row, Stopped
from server.job import Job
from shared.encoder.encode import item_vectors
from shared.encoder.spec import bucket_of, unpack
from shared.files import write_atomically
from shared.privacy.accounting import ACCOUNTANT
from shared.privacy.plan import ADJACENCY, RELEASES, Claims, PrivacyPlan, Release, claims, epsilon_by_kind
from simulations.baselines import run_baselines
from simulations.config import SimulationConfig
from simulations.datasets.load import DATASETS
from simulations.examples import examples
from simulations.report import write_report
from simulations.seeding import generator
from simulations.world import World, oracle

PLAIN_SUM: Final = "none: the simulator adds up plain vectors; a deployment must not"
YARDSTICKS: Final = ("popularity", "tfidf", "ease")  # the floor, the public features alone, the non-private ceiling


def finish(
    config: SimulationConfig,
    folder: Path,
    world: World,
    job: Job,
    state: State,
    stopped: Stopped,
    *,
    loading_seconds: float,
) -> Row:
    """Write everything that a finished run leaves behind; ``report.html`` last, it marks the end.

    The test items are used here, once, with train and validation items masked. Times: rounds as ``rounds.jsonl`` has
    them, whichever process ran them; loading and this function as they took here.
    """
    began = time.monotonic()
    write_model(folder / "model.safetensors", job, state, world)
    seed = None if config.seed == "none" else config.seed
    rngs = [generator(seed, "final", user) for user in world.dataset.users]
    final = {on: _quality(world, job, state, rngs, on) for on in ("valid", "test")}
    baselines = run_baselines(
        world.dataset, world.split, delta=config.privacy.delta, epsilons=(), seed=0, names=YARDSTICKS
    )
    in_rounds = _seconds(folder / "rounds.jsonl")
    summary = _summary(config, world, job, state, stopped) | {
        "test": final["test"],
        "valid": final["valid"],
        "baselines": baselines,
        "wall_seconds": round(loading_seconds + in_rounds + time.monotonic() - began, 2),
        "client_updates": state.updates,
        "client_updates_per_second": round(state.updates / max(in_rounds, 1e-9), 1),
        "peak_rss_mb": round(_peak_mb(), 1),
    }
    if world.dataset.public:
        shown = examples(world, job, state, rngs)
        write_atomically(folder / "examples.json", json.dumps(shown, indent=1).encode())
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1).encode())
    write_report(folder)
    return summary


def _quality(world: World, job: Job, state: State, rngs: Sequence[np.random.Generator], on: str) -> dict[str, float]:
    """Metrics of the final model at the policy's k and, so that runs compare, at 20."""
    policies = [replace(state.policy, k=20), state.policy]
    out: dict[str, float] = {}
    for policy in policies[policies[0] == policies[1] :]:
        out |= oracle(world, job.encoder, state.parameters, state.prior, policy, rngs, on=on)
    return out


def _seconds(rows: Path) -> float:
    """Seconds of all rounds."""
    if not rows.exists():
        return 0.0
    return sum(float(json.loads(row)["seconds"]) for row in rows.read_text(encoding="utf-8").splitlines())


def _peak_mb() -> float:
    """Peak memory of this process or of its largest child, in MB."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / (1024.0**2 if sys.platform == "darwin" else 1024.0)


def write_model(path: Path, job: Job, state: State, world: World) -> None:
    """The model as clients need it to recommend: encoder parts, item vectors, prior."""
    arrays = {name: np.ascontiguousarray(part) for name, part in unpack(job.encoder, state.parameters).items()}
    arrays["prior"] = state.prior
    arrays["parameters"] = state.parameters
    text = world.catalogue.groups["text"]

    bucket = bucket_of(world.catalogue.ids, job.encoder.buckets)
    arrays["items"] = item_vectors(job.encoder, state.parameters, text, bucket)
    # One metadata entry: safetensors writes several in an order that changes from run to run.
    public = json.dumps({"catalogue": job.catalogue, "rank": job.encoder.rank, "buckets": job.encoder.buckets})
    write_atomically(path, save(arrays, metadata={"fedrecall": public}))


def _summary(config: SimulationConfig, world: World, job: Job, state: State, stopped: Stopped) -> Row:
    plan = job.plan
    most: dict[Release, int] = {
        kind: max((used.get(kind, 0) for used in state.used.values()), default=0) for kind in RELEASES
    }
    spent = claims(plan, most)
    if plan.trust == "distributed":
        # A server that adds up plain vectors sees each with one share of noise: nothing is claimed against it.
        spent = replace(spent, server=None)
    return {
        "preset": config.preset,
        "kind": plan.kind,
        "split": config.data.split,
        "seed": config.seed,
        "engine": config.engine,
        "controller": config.policy.controller,
        "unit": plan.unit,
        "trust": plan.trust,
        "adjacency": ADJACENCY,
        "delta": plan.delta,
        "participations": plan.update.participations,
        "rounds": config.rounds,
        "rounds_done": max(0, state.round),
        "stopped": stopped,
        "epsilon": spent.largest,
        "epsilon_claims": {"everyone": spent.everyone, "recipients": spent.recipients, "server": spent.server},
        "epsilon_if_others_collude": spent.if_others_collude,
        "epsilon_by_kind": epsilon_by_kind(plan, most),
        "accountant": ACCOUNTANT,
        "covers_tuning": False,
        "covers": _covers(plan, spent),
        "not_covered": _not_covered(plan, own_data=config.data.name not in DATASETS),
        "secure_aggregation": PLAIN_SUM,
        "users": len(world.dataset.users),
        "clients": len(job.nodes),
        "items": job.items,
        "parameters": job.encoder.size,
        "licence": world.dataset.licence,
        "public_data": world.dataset.public,
        "text_encoder": config.model.text_encoder,
    }


def _covers(plan: PrivacyPlan, spent: Claims) -> str:
    if plan.epsilon is None:
        return "Nothing: this run had no differential privacy."
    who = "everybody up to the tolerated collusion" if spent.everyone is not None else "recipients of what is published"
    if plan.trust == "distributed":
        who += ", given that the server sees sums only (this version adds up plain vectors)"
    return (
        f"Every number that left a client: {plan.update.participations} updates, {plan.measurement.participations} "
        f"measurements and {plan.statistics.participations} popularity statistic per client at most, against {who}."
    )


def _not_covered(plan: PrivacyPlan, *, own_data: bool) -> list[str]:
    out = [
        "Oracle values, examples and the seed in this folder: a simulation knows them, no deployment does.",
        "Tuning: defaults were chosen looking at validation data of public data sets.",
        "Enrolment, participation and dropout, which are public under zero-out adjacency.",
    ]
    if own_data:
        out.append("Ranges of ratings and dwell times, read off all users of this folder to scale their features.")
    if plan.trust == "distributed":
        out.append(
            "The server itself: vectors are added up without masks, so it could see each one under its single share of "
            "noise; the claim against everyone is what the noise is sized for once sums are masked."
        )
    if plan.trust == "local":
        out.append("Floating-point effects of local noise.")
    return out
