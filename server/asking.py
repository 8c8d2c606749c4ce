"""Asking a cohort for one release: whom, on what record, under masks or not, and what is written down of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from flwr.app import RecordDict

from server.checkpoint import State, charge, used_by
from server.desk import Desk
from server.evaluation import with_distinct
from server.exchange import Answers, Post, exchange, nobody
from server.job import Job
from server.receipts import checked_receipt, with_last_receipts
from server.rows import intent_event, result_event
from server.secure import Session, secure_exchange
from shared.privacy.ledger import Receipt
from shared.privacy.noise import TAIL, NoiseSource, discrete_gaussian
from shared.privacy.participation import cohort_of, eligible, number_eligible, toss
from shared.privacy.plan import Release
from shared.proofs import sign_task, stamp
from shared.protocol import (
    MESSAGE_TYPES,
    MeasureTask,
    Task,
    layout_of,
    release_of,
    task_digest,
    task_record,
    vector_length,
)
from shared.sessions import Invitation, invitation_digest, invitation_record


def ask(job: Job, desk: Desk, state: State, task: Task) -> tuple[State, Answers]:
    """Intent to the ledger, task to a cohort, answers summed, result to the ledger."""
    kind, header = release_of(task), task.header
    # Under central trust the server is the one that draws noise, so its intent names the source.
    noise = desk.noise(header.round, kind) if job.plan.trust == "central" else None
    cohort = _cohort(job, desk, state, kind, header.round, noise)
    record = task_record(task)
    desk.ledger.append([intent_event(job.plan, task, task_digest(record), cohort, noise)])
    state = charge(state, cohort, kind)
    answers = asked(job, desk, state, task, record, cohort) if cohort else nobody(vector_length(task))
    if noise is not None:
        # The server's own noise is drawn once, on the sum, before anything else looks at it.
        total = answers.total
        if isinstance(task, MeasureTask):
            total = with_distinct(layout_of(task), job.plan.measurement.steps, total)
        drawn = discrete_gaussian(job.plan.sum_sigma(kind, len(answers.survivors)), len(total), noise)
        answers = replace(answers, total=total + drawn)
    desk.ledger.append([result_event(job.plan, task, answers)])
    aborted = state.aborted + (not answers.enough)
    return replace(state, aborted=aborted, receipts={**state.receipts, **answers.receipts}), answers


def can_answer(job: Job, state: State, kind: Release) -> bool:
    """Whether enough clients have a participation left; asking fewer would charge them for nothing."""
    left = number_eligible(job.nodes, used_by(state, kind), job.plan.mechanism(kind).participations)
    return left > 0 and min(left, job.cohort_size) >= job.plan.smallest_cohort


def asked(job: Job, desk: Desk, state: State, task: Task, record: RecordDict, cohort: Sequence[str]) -> Answers:
    """Under masks, unless every vector is private on its own (trust local) or a simulation idealises the sum."""
    kind, header, signer, tip = release_of(task), task.header, desk.ledger.signer, desk.ledger.tip
    post = Post(desk.grid, job.nodes, str(header.round), job.config.cohort.deadline)
    tasks = with_last_receipts(sign_task(record, signer, tip), cohort, state.receipts)
    receipt_of, length, largest = partial(_receipt_of, state, header.round), vector_length(task), _largest(job, kind)
    if job.plan.trust == "local" or not desk.masked:
        smallest, route = job.plan.smallest_cohort, MESSAGE_TYPES[kind]
        return exchange(post, tasks, route, receipt_of=receipt_of, length=length, largest=largest, smallest=smallest)
    invitation = invitation_record(Invitation(kind, header, task_digest(record)))
    name = invitation_digest(invitation)
    signed = RecordDict({**invitation, "server": stamp(name, signer, tip)})
    session = Session(
        name=bytes.fromhex(name),
        smallest=max(1, job.plan.smallest_cohort),
        colluders=job.plan.colluders,
        registered=desk.registered,
        message_type=MESSAGE_TYPES[kind],
        length=length,
        largest=largest,
    )
    return secure_exchange(post, session, with_last_receipts(signed, cohort, state.receipts), tasks, receipt_of)


def _cohort(job: Job, desk: Desk, state: State, kind: Release, round_: int, noise: NoiseSource | None) -> list[str]:
    used, limit = used_by(state, kind), job.plan.mechanism(kind).participations
    if job.plan.sampling is not None and noise is not None:
        # The amplified claim rests on these coins, so they come from where the noise comes from.
        return toss(eligible(job.clients, used, limit), job.plan.sampling, noise.words)
    return cohort_of(job.clients, used, limit, job.cohort_size, desk.rng(round_, kind))


def _receipt_of(state: State, round_: int, client: str, answer: RecordDict) -> Receipt:
    return checked_receipt(answer, state.receipts.get(client), round_)


def _largest(job: Job, kind: Release) -> float:
    """No honest entry is larger: every unit at its clip, noise at its tail; local steps add up to more, below 2^30."""
    if job.plan.trust == "local" and kind == "update":
        return 2.0**30
    return job.users_per_client * job.plan.mechanism(kind).steps + TAIL * job.plan.share_sigma(kind)
