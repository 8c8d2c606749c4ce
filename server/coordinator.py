"""The round loop: one round, top to bottom.

A round's intent is in the ledger before anything is sent, its result after; the checkpoint closes it. Whatever kills
the process in between, ``resume`` goes on from the last checkpoint with the same plan and the true spend.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Final

from server.aggregation import apply, log_popularity, mean_update
from server.asking import ask, can_answer
from server.checkpoint import State, Stopped, save_state
from server.desk import Desk
from server.ending import Ending, better, conclude, keep_best
from server.evaluation import Measurement, estimate
from server.exchange import Answers
from server.job import Job, measured_round
from server.rows import epsilon_so_far, traffic, write_row
from shared.policy.recall_policy import policy_to_dict
from shared.policy.rules import Seen, Step, state_to_dict, step
from shared.privacy.plan import Release
from shared.protocol import (
    Header,
    MeasureTask,
    StatisticsTask,
    TrainingTerms,
    TrainTask,
)

PATIENCE: Final = 3  # rounds in a row without a quorum before a run ends


def run_rounds(job: Job, desk: Desk, state: State) -> Ending:
    """From a state to the end of the run: finished, budget exhausted, or nobody answers.

    The end is the ledger's last line, once: a run that is resumed after it rests there.
    """
    keep_best(state, desk.folder)
    if state.round < 0:
        state = popularity_round(job, desk, state)
    while (stopped := _stopped(job, state)) is None:
        state = training_round(job, desk, state)
    if state.stopped is None:
        desk.ledger.append([conclude(state, stopped, desk.folder).event()], head=max(0, state.round))
        state = _close(desk, replace(state, stopped=stopped))
    return conclude(state, stopped, desk.folder)


def _stopped(job: Job, state: State) -> Stopped | None:
    """Why there is no further round; None = there is one."""
    if state.stopped is not None:
        return state.stopped
    if state.failures >= PATIENCE:
        return "no quorum"
    if state.round >= job.config.rounds:
        return "finished"
    return None if can_answer(job, state, "update") else "budget exhausted"


def popularity_round(job: Job, desk: Desk, state: State) -> State:
    """Round 0: the one-off private popularity, a strong prior that costs little."""
    if not can_answer(job, state, "statistics"):
        # None planned; or paid for by a try that was interrupted, and lost with it.
        return replace(state, round=0)
    task = StatisticsTask(_header(job, desk, 0, "statistics"))
    state, answers = ask(job, desk, state, task)
    if answers.enough:
        sigma = job.plan.sum_sigma("statistics", len(answers.survivors))
        state = replace(state, prior=log_popularity(answers.total, job.plan.statistics.steps, sigma))
    desk.ledger.append([], head=0)
    return _close(desk, replace(state, round=0))


def training_round(job: Job, desk: Desk, state: State) -> State:
    """One round: train, apply, measure, decide, write down.

    Measured as scheduled; and when nobody can answer another, so that the budget's last model is not an unknown one.
    """
    began = time.monotonic()
    number = state.round + 1
    state, answers = train(job, desk, state, number)
    trained = time.monotonic() - began
    policy, measured, taken = state.policy, None, Step(state.policy, state.controller, "none", "not measured")
    measuring: Answers | None = None
    last = number == job.config.rounds or not can_answer(job, state, "update")
    if answers.enough and (last or measured_round(job.config, number)) and can_answer(job, state, "measurement"):
        state, measured, measuring = measure(job, desk, state, number)
        state = replace(state, best=better(state.best, number, policy, _seen(measured)[0]))
        taken = decide(job, desk, state, number, measured, last=last)
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
        "epsilon": epsilon_so_far(job.plan, state),
        **traffic(answers, measuring),
        "train_seconds": round(trained, 3),
        "seconds": round(time.monotonic() - began, 3),
    }
    state = replace(state, policy=taken.policy, controller=taken.state)
    write_row(desk.folder / "rounds.jsonl", row)
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
    units = job.counted(len(answers.survivors)) * job.users_per_client
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
    return state, estimate(job.plan, answers.total, job.counted(len(answers.survivors)), k, job.items, rng), answers


def decide(job: Job, desk: Desk, state: State, number: int, measured: Measurement | None, *, last: bool) -> Step:
    """Let the controller move the policy, and write down what it saw and why it moved."""
    recall, covered = _seen(measured)
    taken = Step(state.policy, state.controller, "none", "the report was aborted: too few answers")
    if measured is not None and job.config.policy.controller == "static":
        taken = Step(state.policy, state.controller, "hold", "the controller is static")
    elif measured is not None and last:
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


def _header(job: Job, desk: Desk, number: int, kind: Release) -> Header:
    attempt = desk.attempts.get((number, kind), 0) + 1
    return Header(job.run, number, attempt, job.plan, job.catalogue, job.encoder)


def _close(desk: Desk, state: State) -> State:
    state = replace(state, ledgers=desk.ledgers())
    save_state(state, desk.folder / "checkpoint.safetensors")
    keep_best(state, desk.folder)
    return state
