"""Clients that one process answers as a batch: what the server says to one of them is no other's business."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from client.host import answer_all
from shared.privacy.ledger import read_ledger
from shared.protocol import is_declined, parse_sealed, vector_length

BEHIND = "this ledger is behind"


def clauses(host):
    return {
        line.event["client"]: line.event["clause"] for line in read_ledger(host.path) if line.event["type"] == "decline"
    }


def told(record, **receipt):
    """The same task with another word on this client's last receipt; all else is the same objects."""
    return RecordDict({**record, "receipt": ConfigRecord(receipt)})


@pytest.mark.parametrize("kind", ["update", "measurement", "statistics", "profile", "trending"])
def test_a_receipt_said_of_one_client_changes_no_bit_of_another(kind, host, task, history, message):
    histories = [history(seed, 20) for seed in range(4)]
    asked_for = task(kind)
    record = message(asked_for)
    alone = answer_all(host(histories, name="alone"), dict.fromkeys(("1", "4"), record))
    one = host(histories)
    asked = {"1": record, "2": told(record, seq=9, tip="e" * 64), "3": told(record, seq=-1, tip=""), "4": record}
    answers = answer_all(one, asked)
    assert [client for client in asked if is_declined(answers[client])] == ["2", "3"]
    assert {client: spend.used for client, spend in one.gate.spends.items()} == {c: {("run", kind): 1} for c in "14"}
    for client in ("1", "4"):
        here, there = (parse_sealed(said[client], vector_length(asked_for)) for said in (answers, alone))
        assert np.array_equal(here, there)
    assert clauses(one)["2"].startswith(BEHIND)
    assert clauses(one)["3"].startswith("ProtocolError: receipt.seq")


def test_whose_consent_alone_declines_pays_nothing_and_the_others_pay(host, task, history, message, consent):
    careful, easy = consent(largest_clip=0.1), consent()
    consents = {"1": easy, "2": careful, "3": replace_of(easy), "5": careful}  # of 4 there is none
    one = host([history(seed) for seed in range(5)], consents=consents)
    answers = answer_all(one, dict.fromkeys("12345", message(task())))
    assert [client for client in "12345" if not is_declined(answers[client])] == ["1", "3"]
    assert set(one.gate.spends) == {"1", "3"}
    assert {client: clause[:20] for client, clause in clauses(one).items()} == {
        "2": "consent.largest_clip",
        "4": "no consent.toml",
        "5": "consent.largest_clip",
    }


def replace_of(consent):
    """Another object that says the same."""
    return consent.model_copy()


@pytest.mark.parametrize("kind", ["update", "statistics", "profile", "trending"])
@pytest.mark.parametrize("who", [0, 3])
def test_who_is_replaced_by_nothing_changes_no_bit_of_the_others(kind, who, host, task, plan, history, message):
    """Zero-out adjacency, bit for bit: before noise only that user's own vector moves."""
    histories = [history(seed, 45 if seed == who else 8 + seed) for seed in range(6)]
    gone = [history(0, 0, 0) if seed == who else one for seed, one in enumerate(histories)]
    record = message(task(kind, plan=plan(epsilon=None)))
    vectors = []
    for number, those in enumerate((histories, gone)):
        answers = answer_all(host(those, name=f"h{number}"), dict.fromkeys("123456", record))
        vectors.append([answers[client].array_records["sealed"]["vector"].numpy() for client in "123456"])
    same = [np.array_equal(here, there) for here, there in zip(*vectors, strict=True)]
    assert same == [number != who for number in range(6)]
