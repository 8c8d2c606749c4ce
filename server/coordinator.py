"""The round loop: one round, top to bottom.

A round's intent is in the ledger before anything is sent, its result after; the checkpoint closes it. Whatever kills
the process in between, ``resume`` goes on from the last checkpoint with the same plan and the true spend.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from server.aggregation import apply, log_popularity, mean_update
from server.asking import ask, can_answer
from server.checkpoint import State, Stopped, save_state
from server.deciding import recall_seen, settle
from server.desk import Desk
from server.ending import Ending, better, conclude, keep_best
from server.evaluation import Measurement, estimate
from server.exchange import Answers
from server.job import Job, measured_round, refreshed_round
from server.oversight import oversee, refuse_rest
from server.posterior import given_out, known_of, learn
from server.rows import Row, epsilon_so_far, traffic, write_row
from server.statistics import read_statistics
from server.trending import read_trending
from server.warm_start import with_contexts
from shared.encoder.spec import unpack
from shared.policy.control import Decided, neighbour_knobs, neighbours
from shared.policy.memory import Step
from shared.policy.orders import Proposal
from shared.policy.recall_policy import policy_to_dict
from shared.privacy.plan import Release
from shared.protocol import (
    Header,
    MeasureTask,
    ProfileTask,
    StatisticsTask,
    TrainingTerms,
    TrainTask,
    TrendingTask,
    layout_of,
)

PATIENCE: Final = 3  # rounds in a row without a quorum before a run ends


def run_rounds(job: Job, desk: Desk, state: State) -> Ending:
    """From a state to the end of the run: finished, budget exhausted, nobody answers, no contexts to read histories by.

    The end is the ledger's last line, once: a run that is resumed after it rests there.
    """
    keep_best(state, desk.folder)
    if state.round < 0:
        state = popularity_round(job, desk, state)
    while (stopped := _stopped(job, state)) is None:
        # Persons' orders take effect between rounds.
        state = oversee(desk, state, close=lambda state: _close(desk, state))
        state = training_round(job, desk, state)
    if state.stopped is None:
        refuse_rest(desk.folder, stopped)
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
    if job.encoder.kind == "linear" and not unpack(job.encoder, state.parameters)["context"].any():
        return "no contexts"  # every vector would be zero: updates would be paid for, and teach nothing
    return None if can_answer(job, state, "update") else "budget exhausted"


def popularity_round(job: Job, desk: Desk, state: State) -> State:
    """Round 0: the one-off private statistics, and what is read with their help: a prior, activity groups, contexts."""
    # Not planned; or paid for by a try that was interrupted, before or after its checkpoint.
    if can_answer(job, state, "statistics"):
        state = statistics_exchange(job, desk, state)
    if state.prior.any() or state.peak > 0:
        state = profile_exchange(job, desk, state)
    desk.ledger.append([], head=0)
    return _close(desk, replace(state, round=0))


def statistics_exchange(job: Job, desk: Desk, state: State) -> State:
    """Round 0, first half: popularity, a strong prior that costs little, and activity groups."""
    state, answers = ask(job, desk, state, StatisticsTask(_header(job, desk, 0, "statistics")))
    if not answers.enough:
        return state
    said = read_statistics(job.plan, answers.total, len(answers.survivors))
    prior, peak = log_popularity(said.popularity, 1, said.noise), float(said.popularity.max())
    state = replace(state, prior=prior, peak=max(0.0, peak) / _units(job, answers), activity=said.activity)
    # They are asked for once: a kill while profiles are summed must not lose them.
    return _close(desk, state)


def profile_exchange(job: Job, desk: Desk, state: State) -> State:
    """Round 0, second half: the one-off second moment of profiles, which contexts are read from (encoder linear)."""
    if not can_answer(job, state, "profile"):
        return state
    known = known_of(state)
    task = ProfileTask(_header(job, desk, 0, "profile"), job.width, known.typical, state.prior)
    state, answers = ask(job, desk, state, task)
    if not answers.enough:
        return state
    moment = answers.total / job.plan.profile.steps
    units = _units(job, answers)
    parameters = with_contexts(job.encoder, state.parameters, moment, known, job.public, job.bucket, job.width, units)
    return replace(state, parameters=parameters)


def training_round(job: Job, desk: Desk, state: State) -> State:
    """One round: train, apply, refresh what is trending, measure, decide, write down.

    Measured as scheduled; and when nobody can answer another, so that the budget's last model is not an unknown one.
    """
    began = time.monotonic()
    number = state.round + 1
    state, answers = train(job, desk, state, number)
    trained = time.monotonic() - began
    refreshing: Answers | None = None
    if answers.enough and refreshed_round(job.config, number) and can_answer(job, state, "trending"):
        state, refreshing = refresh(job, desk, state, number)
    policy, measured = state.policy, None
    decided = Decided(Step(policy, state.controller, "none", "not measured"))
    measuring: Answers | None = None
    last = number == job.config.rounds or not can_answer(job, state, "update")
    if answers.enough and (last or measured_round(job.config, number)) and can_answer(job, state, "measurement"):
        state, measured, measuring = measure(job, desk, state, number)
        state = replace(state, best=better(state.best, number, policy, recall_seen(measured)))
        decided = settle(job, desk, state, number, measured, last=last)
    elif not answers.enough:
        why = "too few answers: the round was aborted, charged, and changed nothing"
        decided = Decided(replace(decided.step, reason=why))
    pending = decided.proposal or state.pending
    desk.ledger.append([], head=number)
    state = replace(state, round=number, failures=0 if answers.enough else state.failures + 1)
    row = {
        "round": number,
        "policy": policy_to_dict(policy),
        "decision": decided.step.decision,
        "reason": decided.step.reason,
        "neighbours": list(_raced(job, state, measured)),
        "orders": [dict(order) for order in state.orders],
        "pending": None if pending is None else _waiting(pending),
        "estimate": None if measured is None else measured.to_dict(),
        "cannot_tell": {} if measured is None else dict(measured.cannot_tell),
        "oracle": None if measured is None else desk.oracle(state, measured),
        **({} if refreshing is None else {"trending": list(state.trending)}),
        "epsilon": epsilon_so_far(job.plan, state),
        **traffic(answers, refreshing, measuring),
        "train_seconds": round(trained, 3),
        "seconds": round(time.monotonic() - began, 3),
    }
    state = replace(state, policy=decided.step.policy, controller=decided.step.memory, pending=pending, orders=())
    write_row(desk.folder / "rounds.jsonl", row)
    state = _close(desk, state)
    desk.tell(row)
    return state


def train(job: Job, desk: Desk, state: State, number: int) -> tuple[State, Answers]:
    """Send the model, sum the updates, take a server step."""
    section = job.config.training
    terms = TrainingTerms(section.loss, section.learning_rate, section.context, section.targets, section.negatives)
    task = TrainTask(
        _header(job, desk, number, "update"), state.policy, terms, job.rules, state.parameters, state.prior
    )
    state, answers = ask(job, desk, state, task)
    if not answers.enough:
        return state, answers
    units = _units(job, answers)
    mean = mean_update(answers.total, job.plan.update.clip, job.plan.update.steps, units)
    if job.encoder.kind == "linear":
        noise = job.update_noise(len(answers.survivors)) / units
        parameters, optimizer = learn(
            job.encoder,
            state.optimizer,
            state.parameters,
            mean,
            noise=noise,
            known=known_of(state),
            people=units,
            text=job.bucket_text,
        )
    else:
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


def refresh(job: Job, desk: Desk, state: State, number: int) -> tuple[State, Answers]:
    """Ask what people came to lately; what stands out of the noise is trending until the next refresh that comes."""
    task = TrendingTask(_header(job, desk, number, "trending"), job.config.trending.window_days, job.items)
    state, answers = ask(job, desk, state, task)
    if not answers.enough:
        return state, answers
    found = read_trending(job.plan, answers.total, len(answers.survivors))
    return replace(state, trending=tuple(job.ids[item] for item in found)), answers


def measure(job: Job, desk: Desk, state: State, number: int) -> tuple[State, Measurement | None, Answers]:
    """Ask for recall and exposure under the policy in force and its neighbours; estimate them from the noisy sum."""
    header = _header(job, desk, number, "measurement")
    shadows = neighbours(job.config.policy.controller, state.policy, state.controller, job.targets)
    task = MeasureTask(
        header,
        state.policy,
        shadows,
        state.activity,
        job.rules,
        given_out(job.encoder, state),
        state.prior,
    )
    state, answers = ask(job, desk, state, task)
    if not answers.enough:
        return state, None, answers
    survivors, rng = job.counted(len(answers.survivors)), desk.rng(number, "bootstrap")
    return state, estimate(job.plan, answers.total, survivors, layout_of(task), job.items, rng), answers


def _units(job: Job, answers: Answers) -> int:
    """A public normaliser: the number of units that survivors stand for, whether or not they have a history."""
    return job.counted(len(answers.survivors)) * job.users_per_client


def _waiting(pending: Proposal) -> Row:
    """A proposal as a row shows it: without the controller's memory."""
    policy = policy_to_dict(pending.policy)
    return {
        "id": pending.id,
        "round": pending.round,
        "decision": pending.decision,
        "reason": pending.reason,
        "policy": policy,
    }


def _raced(job: Job, state: State, measured: Measurement | None) -> tuple[str, ...]:
    """What the neighbours that a report scored turn; before the controller's memory of them is renewed."""
    if measured is None:
        return ()
    return neighbour_knobs(job.config.policy.controller, state.policy, state.controller, job.targets)


def _header(job: Job, desk: Desk, number: int, kind: Release) -> Header:
    attempt = desk.attempts.get((number, kind), 0) + 1
    return Header(job.run, number, attempt, job.plan, job.catalogue, job.encoder)


def _close(desk: Desk, state: State) -> State:
    state = replace(state, ledgers=desk.ledgers())
    save_state(state, desk.folder / "checkpoint.safetensors")
    keep_best(state, desk.folder)
    return state
