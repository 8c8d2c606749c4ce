"""The round loop: one round, top to bottom.

A round's intent is in the ledger before anything is sent, its result after; the checkpoint closes it. Whatever kills
the process in between, ``resume`` goes on from the last checkpoint with the same plan and the true spend.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from flwr.serverapp import Grid

from server.aggregation import apply, log_popularity, mean_update
from server.checkpoint import State, charge, save_state
from server.evaluation import Measurement, estimate
from server.exchange import Answers, exchange
from server.job import Job, measured_round
from shared.policy.recall_policy import policy_to_dict
from shared.policy.rules import Seen, Step, state_to_dict, step
from shared.privacy.ledger import Ledger
from shared.privacy.noise import TAIL, NoiseSource, discrete_gaussian
from shared.privacy.participation import choose, eligible
from shared.privacy.plan import RELEASES, PrivacyPlan, Release, claims, epsilon_by_kind
from shared.protocol import (
    MESSAGE_TYPES,
    Header,
    MeasureTask,
    StatisticsTask,
    Task,
    TrainingTerms,
    TrainTask,
    release_of,
    task_digest,
    task_record,
    vector_length,
)

PATIENCE: Final = 3  # rounds in a row without a quorum before a run ends
Stopped = Literal["finished", "budget exhausted", "no quorum"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Desk:
    """The coordinator's hands: everything that reads, writes, draws or waits.

    Attributes:
        grid: Flower's grid.
        ledger: the server's own.
        folder: where ``rounds.jsonl`` and the checkpoint go.
        noise: (round, release) -> noise that the server adds under central trust.
        rng: (round, purpose) -> generator for cohorts and bootstraps; no privacy rests on it.
        oracle: exact values of a measured round, in a simulation; None where nobody can know them.
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
    ledgers: Callable[[], dict[str, int]]
    attempts: Mapping[tuple[int, Release], int]
    tell: Callable[[Row], None]


def run_rounds(job: Job, desk: Desk, state: State) -> tuple[State, Stopped]:
    """From a state to the end of the run: finished, budget exhausted, or nobody answers."""
    if state.round < 0:
        state = popularity_round(job, desk, state)
    while state.round < job.config.rounds:
        if not _can_answer(job, state, "update"):
            return state, "budget exhausted"
        if state.failures >= PATIENCE:
            return state, "no quorum"
        state = training_round(job, desk, state)
    return state, "no quorum" if state.failures >= PATIENCE else "finished"


def popularity_round(job: Job, desk: Desk, state: State) -> State:
    """Round 0: the one-off private popularity, a strong prior that costs little."""
    if not job.plan.statistics.participations:
        return replace(state, round=0)
    task = StatisticsTask(_header(job, desk, 0, "statistics"))
    state, answers = ask(job, desk, state, task)
    if answers.enough:
        sigma = job.plan.sum_sigma("statistics", len(answers.survivors))
        state = replace(state, prior=log_popularity(answers.total, job.plan.statistics.steps, sigma))
    desk.ledger.append([], head=0)
    return _close(desk, replace(state, round=0))


def training_round(job: Job, desk: Desk, state: State) -> State:
    """One round: train, apply, measure, decide, write down."""
    began = time.monotonic()
    number = state.round + 1
    state, answers = train(job, desk, state, number)
    trained = time.monotonic() - began
    policy, measured, taken = state.policy, None, Step(state.policy, state.controller, "none", "not measured")
    measuring: Answers | None = None
    if answers.enough and measured_round(job.config, number) and _can_answer(job, state, "measurement"):
        state, measured, measuring = measure(job, desk, state, number)
        taken = decide(job, desk, state, number, measured)
    elif not answers.enough:
        taken = replace(taken, reason="too few answers: the round was aborted, charged, and changed nothing")
    desk.ledger.append([], head=number)
    state = replace(state, round=number, failures=0 if answers.enough else state.failures + 1)
    row = {
        "round": number,
        "policy": policy_to_dict(policy),
        "decision": taken.decision,
        "reason": taken.reason,
        "estimate": None if measured is None else measured.to_dict(),
        "cannot_tell": {} if measured is None else dict(measured.cannot_tell),
        "oracle": None if measured is None else desk.oracle(state, measured),
        "epsilon": _epsilon(job.plan, state),
        **_traffic(answers, measuring),
        "train_seconds": round(trained, 3),
        "seconds": round(time.monotonic() - began, 3),
    }
    state = replace(state, policy=taken.policy, controller=taken.state)
    _write_row(desk.folder / "rounds.jsonl", row)
    state = _close(desk, state)
    desk.tell(row)
    return state


def train(job: Job, desk: Desk, state: State, number: int) -> tuple[State, Answers]:
    """Send the model, sum the updates, take a server step."""
    section = job.config.training
    terms = TrainingTerms(section.loss, section.learning_rate, section.context, section.targets, section.negatives)
    task = TrainTask(_header(job, desk, number, "update"), state.policy, terms, state.parameters, state.prior)
    state, answers = ask(job, desk, state, task)
    if not answers.enough:
        return state, answers
    # A public normaliser: the number of units that survivors stand for, whether or not they have a history.
    units = len(answers.survivors) * job.users_per_client
    mean = mean_update(answers.total, job.plan.update.clip, job.plan.update.steps, units)
    parameters, optimizer = apply(
        section.server_optimizer,
        section.server_learning_rate,
        section.warmup,
        state.optimizer,
        state.parameters,
        mean,
    )
    updates = state.updates + len(answers.survivors)
    return replace(state, parameters=parameters, optimizer=optimizer, updates=updates), answers


def measure(job: Job, desk: Desk, state: State, number: int) -> tuple[State, Measurement | None, Answers]:
    """Ask for recall and exposure under the policy in force; estimate them from the noisy sum."""
    header = _header(job, desk, number, "measurement")
    state, answers = ask(job, desk, state, MeasureTask(header, state.policy, state.parameters, state.prior))
    if not answers.enough:
        return state, None, answers
    rng = desk.rng(number, "bootstrap")
    k = state.policy.k
    return state, estimate(job.plan, answers.total, len(answers.survivors), k, job.items, rng), answers


def decide(job: Job, desk: Desk, state: State, number: int, measured: Measurement | None) -> Step:
    """Let the controller move the policy, and write down what it saw and why it moved."""
    recall, covered = _seen(measured)
    taken = Step(state.policy, state.controller, "none", "the report was aborted: too few answers")
    if measured is not None and job.config.policy.controller == "static":
        taken = Step(state.policy, state.controller, "hold", "the controller is static")
    elif measured is not None and number == job.config.rounds:
        taken = Step(state.policy, state.controller, "hold", "the last round: the policy stays as it was measured")
    elif measured is not None:
        taken = step(state.policy, state.controller, recall, covered, job.targets)
    desk.ledger.append(
        [
            {
                "type": "decision",
                "round": number,
                "controller": job.config.policy.controller,
                "targets": asdict(job.targets),
                "estimate": None if measured is None else measured.to_dict(),
                "seen": {
                    name: None if s is None else asdict(s) for name, s in (("recall", recall), ("coverage", covered))
                },
                "memory": state_to_dict(state.controller),
                "before": policy_to_dict(state.policy),
                "after": policy_to_dict(taken.policy),
                "decision": taken.decision,
                "reason": taken.reason,
            }
        ]
    )
    return taken


def _seen(measured: Measurement | None) -> tuple[Seen | None, Seen | None]:
    """What the controller knows: recall, and effective coverage as a share of what is attainable."""
    if measured is None:
        return None, None
    recall = measured.estimates.get(f"recall@{measured.k}")
    covered = measured.estimates.get(f"effective_coverage@{measured.k}")
    return (
        None if recall is None else Seen(recall.value, recall.half_width),
        None if covered is None else Seen(*(x / measured.attainable for x in (covered.value, covered.half_width))),
    )


def ask(job: Job, desk: Desk, state: State, task: Task) -> tuple[State, Answers]:
    """Intent to the ledger, task to a cohort, answers summed, result to the ledger."""
    kind, header = release_of(task), task.header
    used = _used(state, kind)
    candidates = eligible(job.clients, used, job.plan.mechanism(kind).participations)
    cohort = choose(candidates, used, job.cohort_size, desk.rng(header.round, kind))
    record = task_record(task)
    # Under central trust the server is the one that draws noise, so its intent names the source.
    noise = desk.noise(header.round, kind) if job.plan.trust == "central" else None
    desk.ledger.append([_intent(job.plan, task, task_digest(record), cohort, noise)])
    state = charge(state, cohort, kind)
    answers = exchange(
        desk.grid,
        job.nodes,
        cohort,
        record,
        MESSAGE_TYPES[kind],
        length=vector_length(task),
        largest=_largest(job, kind),
        group=str(header.round),
        deadline=job.config.cohort.deadline,
        smallest=job.plan.smallest_cohort,
    )
    if noise is not None:
        # The server's own noise is drawn once, on the sum, before anything else looks at it.
        drawn = discrete_gaussian(job.plan.sum_sigma(kind, len(answers.survivors)), len(answers.total), noise)
        answers = replace(answers, total=answers.total + drawn)
    desk.ledger.append([_result(job.plan, task, answers)])
    return state, answers


def _can_answer(job: Job, state: State, kind: Release) -> bool:
    """Whether enough clients have a participation left; asking fewer would charge them for nothing."""
    left = eligible(job.clients, _used(state, kind), job.plan.mechanism(kind).participations)
    return min(len(left), job.cohort_size) >= job.plan.smallest_cohort


def _header(job: Job, desk: Desk, number: int, kind: Release) -> Header:
    attempt = desk.attempts.get((number, kind), 0) + 1
    return Header(job.run, number, attempt, job.plan, job.catalogue, job.encoder)


def _largest(job: Job, kind: Release) -> float:
    """No honest entry is larger: every unit at its clip, noise at its tail; local steps add up to more, below 2^30."""
    if job.plan.trust == "local" and kind == "update":
        return 2.0**30
    return job.users_per_client * job.plan.mechanism(kind).steps + TAIL * job.plan.share_sigma(kind)


def _used(state: State, kind: Release) -> dict[str, int]:
    return {client: kinds.get(kind, 0) for client, kinds in state.used.items()}


def _intent(plan: PrivacyPlan, task: Task, digest: str, cohort: list[str], noise: NoiseSource | None) -> Row:
    kind = release_of(task)
    return {
        "type": "intent",
        "round": task.header.round,
        "attempt": task.header.attempt,
        "release": kind,
        "task": digest,
        "cohort": cohort,
        "rho": None if plan.epsilon is None else plan.mechanism(kind).rho,
        "noise_source": "clients" if noise is None else noise.name,
    }


def _result(plan: PrivacyPlan, task: Task, answers: Answers) -> Row:
    kind = release_of(task)
    return {
        "type": "result",
        "round": task.header.round,
        "release": kind,
        "survivors": len(answers.survivors),
        "declined": list(answers.declined),
        "failed": list(answers.failed),
        "sum_sigma": plan.sum_sigma(kind, len(answers.survivors)),
        "sum": hashlib.sha256(answers.total.tobytes()).hexdigest(),
        "aborted": not answers.enough,
    }


def _epsilon(plan: PrivacyPlan, state: State) -> Row | None:
    """What the client asked most often has spent so far, as printed claims."""
    if plan.epsilon is None:
        return None
    most: dict[Release, int] = {kind: max(_used(state, kind).values(), default=0) for kind in RELEASES}
    spent = claims(plan, most)
    return {"everyone": spent.everyone, "recipients": spent.recipients, "by_kind": epsilon_by_kind(plan, most)}


def _traffic(trained: Answers, measured: Answers | None) -> Row:
    """Who answered the training task, and the bytes both ways over the round's exchanges."""
    made = [trained] if measured is None else [trained, measured]
    return {
        "cohort": {
            "asked": len(trained.survivors + trained.declined + trained.failed),
            "answered": len(trained.survivors),
            "declined": len(trained.declined),
            "failed": len(trained.failed),
        },
        "bytes": {"up": sum(a.up for a in made), "down": sum(a.down for a in made)},
    }


def _write_row(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _close(desk: Desk, state: State) -> State:
    state = replace(state, ledgers=desk.ledgers())
    save_state(state, desk.folder / "checkpoint.safetensors")
    return state
