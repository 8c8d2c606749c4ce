"""Receipts: what ties the clients' ledgers to the server's.

An answer with a vector carries the signed head of the ledger that paid for it. The server checks it, pins its key, and
sends it back with the next task, so that a client whose ledger was rewound by a backup notices before it pays twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flwr.app import RecordDict

from shared.errors import ProtocolError
from shared.privacy.ledger import Receipt
from shared.proofs import addressed, parse_receipt


def with_last_receipts(
    signed: RecordDict, cohort: Sequence[str], receipts: Mapping[str, Receipt]
) -> dict[str, RecordDict]:
    """The task for each client of a cohort: the same inner objects, and its own last receipt.

    Clients of one process share a ledger and so a receipt; they get one record, which the process answers as one batch.
    """
    made: dict[Receipt | None, RecordDict] = {}
    for client in cohort:
        last = receipts.get(client)
        if last not in made:
            made[last] = addressed(signed, last)
    return {client: made[receipts.get(client)] for client in cohort}


def checked_receipt(answer: RecordDict, last: Receipt | None, round_: int) -> Receipt:
    """The receipt in a client's answer.

    Args:
        answer: with a vector.
        last: the client's receipt before, whose key is pinned; None = this is its first.
        round_: of the task that is answered.

    Raises:
        ProtocolError: none there, a signature that does not fit, another round, another key than the pinned one, or a
            ledger that did not grow since the last one.
    """
    receipt = parse_receipt(answer)
    if receipt.round != round_:
        raise ProtocolError(f"a receipt of round {receipt.round}, expected one of round {round_}")
    if last is not None and receipt.key != last.key:
        raise ProtocolError(f"a receipt under key {receipt.key[:16]}, but this client's is {last.key[:16]}")
    if last is not None and receipt.seq <= last.seq:
        raise ProtocolError(f"a receipt at line {receipt.seq}, but the one before was at line {last.seq}")
    return receipt


def grouped(receipts: Mapping[str, Receipt]) -> list[dict[str, Any]]:
    """Plain JSON types, one entry per distinct receipt with its clients, in one order; inverse of :func:`ungrouped`."""
    clients: dict[Receipt, list[str]] = {}
    for client, receipt in sorted(receipts.items()):
        clients.setdefault(receipt, []).append(client)
    return [{**asdict(receipt), "clients": names} for receipt, names in clients.items()]


def ungrouped(groups: Iterable[Mapping[str, Any]]) -> dict[str, Receipt]:
    """Receipts by client, from a checkpoint or a result event of the ledger.

    Raises:
        KeyError, TypeError: no such groups.
    """
    out: dict[str, Receipt] = {}
    for group in groups:
        receipt = Receipt(**{name: value for name, value in group.items() if name != "clients"})
        out |= dict.fromkeys(group["clients"], receipt)
    return out
