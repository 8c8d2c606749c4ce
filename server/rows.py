"""What a round leaves behind: its lines in the ledger and its row in ``rounds.jsonl``. Nothing private is in them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.checkpoint import State, claims_so_far
from server.exchange import Answers
from server.receipts import grouped
from shared.privacy.noise import NoiseSource
from shared.privacy.plan import PrivacyPlan, epsilon_by_kind
from shared.protocol import Task, release_of

Row = dict[str, Any]


def intent_event(plan: PrivacyPlan, task: Task, digest: str, cohort: list[str], noise: NoiseSource | None) -> Row:
    """What is asked, of whom, and what it costs each of them; written before anything is sent.

    Args:
        plan, task: what is asked; ``digest`` is the task's.
        cohort: clients charged.
        noise: the server's own source under central trust; None = the clients draw their shares.
    """
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


def result_event(plan: PrivacyPlan, task: Task, answers: Answers) -> Row:
    """What came of an intent: who answered, the noise in the sum, the sum by its hash, the clients' receipts."""
    kind = release_of(task)
    return {
        "type": "result",
        "round": task.header.round,
        "attempt": task.header.attempt,
        "release": kind,
        "survivors": len(answers.survivors),
        "declined": list(answers.declined),
        "failed": list(answers.failed),
        "sum_sigma": plan.sum_sigma(kind, len(answers.survivors)),
        "sum": hashlib.sha256(answers.total.tobytes()).hexdigest(),
        "aborted": not answers.enough,
        "why": answers.why,
        "receipts": grouped(answers.receipts),
    }


def epsilon_so_far(plan: PrivacyPlan, state: State) -> Row | None:
    """What the client asked most often has spent so far, as printed claims."""
    if plan.epsilon is None:
        return None
    spent, most = claims_so_far(plan, state)
    against = {name: value for name, value in asdict(spent).items() if name not in {"server", "if_others_collude"}}
    return {**against, "by_kind": epsilon_by_kind(plan, most)}


def traffic(trained: Answers, *others: Answers | None) -> Row:
    """Who answered the training task, and the bytes both ways over the round's exchanges."""
    made = [trained, *(one for one in others if one is not None)]
    return {
        "cohort": {
            "asked": len(trained.survivors + trained.declined + trained.failed),
            "answered": len(trained.survivors),
            "declined": len(trained.declined),
            "failed": len(trained.failed),
        },
        "bytes": {"up": sum(a.up for a in made), "down": sum(a.down for a in made)},
    }


def write_row(path: Path, row: Row) -> None:
    """Append one line, on disk on return.

    Raises:
        OSError: the disk is full or read-only.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
