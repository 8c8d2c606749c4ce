"""Clause 7, both sides: what the server charged, what clients paid, what was summed, and the receipts in between.

A server charges before it asks, and a client pays before it answers: every payment answers a charge that names its
client, and every vector in a sum was paid for. A receipt is a client's signature on its own ledger in the server's
hands: a client's ledger that lacks the line was cut, or is another one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.audit.evidence import Charge, ClientLog, Evidence, Head, Payment, Sealed, ServerLog, Sum
from shared.audit.findings import Finding, Place, Value
from shared.audit.verdicts import Wrong, judged, ledger
from shared.privacy.chain import Receipt, verify_receipt


@dataclass(frozen=True)
class _Sides:
    """Both sides, and what is looked up in them.

    Attributes:
        logs: by key; the first of several.
        heads: line -> head, by key.
    """

    server: ServerLog
    logs: Mapping[str, ClientLog]
    heads: Mapping[str, Mapping[int, Head]]


def reconcile_findings(e: Evidence) -> list[Finding]:
    """Every check that needs clients' ledgers, or both sides."""
    made = [*_key_shared(e), *_unsigned(e), *_unpaid(e), *_unpinned(e), *_sealed_once(e)]
    if e.server is None:
        return [*made, *(ledger(check, "cannot tell") for check in _BOTH)]
    logs: dict[str, ClientLog] = {}
    for log in e.clients:
        if log.key is not None:
            logs.setdefault(log.key, log)
    sides = _Sides(e.server, logs, {key: {one.line: one for one in log.heads} for key, log in logs.items()})
    return [*made, _client_ledgers(e, sides), *_receipts(sides), _payments_asked(e), _results_paid(sides)]


_BOTH = ("receipts", "tail-client", "payments-asked", "results-paid")


def _key_shared(e: Evidence) -> list[Finding]:
    """Two different ledgers under one key: two pasts of one client."""
    files: defaultdict[str, list[str]] = defaultdict(list)
    for log in e.clients:
        if log.key is not None:
            files[log.key].append(log.file)
    shared = {key: found for key, found in files.items() if len(found) > 1}
    if not shared:
        return []
    key, found = next(iter(shared.items()))
    places = tuple(Place(file) for file in found[:5])
    return [ledger("key-shared", "fail", places, key=key, count=len(shared))]


def _unsigned(e: Evidence) -> list[Finding]:
    """Payments behind a client's last signed head: the round was killed there, or the ledger was cut and chained on."""
    wrong = []
    for log in e.clients:
        last = log.heads[-1].line if log.heads else 0
        if log.payments and log.payments[-1].line > last and log.broken is None:
            wrong.append(Wrong(log.file, log.payments[-1].line))
    if not wrong:
        return []
    places = tuple(Place(one.file, (one.line,)) for one in wrong[:5])
    return [ledger("tail-client-unsigned", "cannot tell", places, file=wrong[0].file, count=len(wrong))]


def _name(one: Payment | Sealed) -> tuple[str, str, int, int, str]:
    return one.client, one.run, one.round, one.attempt, one.release


def _unpaid(e: Evidence) -> list[Finding]:
    """A client's vector without its payment before it in the same ledger."""
    wrong = []
    for log in e.clients:
        paid = {_name(one): one.line for one in log.payments}
        wrong += [
            Wrong(log.file, one.line, {"client": one.client, "round": one.round, "release": one.release})
            for one in log.results
            if not paid.get(_name(one), one.line) < one.line
        ]
    return [judged("result-unpaid", wrong)] if wrong else []


def _unpinned(e: Evidence) -> list[Finding]:
    """A payment for a run whose plan its ledger did not pin before, or pinned twice: a run is held to one plan."""
    wrong: list[Wrong] = []
    for log in e.clients:
        first: dict[str, int] = {}
        lines = [(pin.line, pin.run) for pin in log.pins if first.setdefault(pin.run, pin.line) < pin.line]
        lines += [(one.line, one.run) for one in log.payments if not first.get(one.run, one.line) < one.line]
        wrong += [Wrong(log.file, line, {"run": run}) for line, run in lines]
    return [judged("pinned", wrong)] if wrong else []


def _sealed_once(e: Evidence) -> list[Finding]:
    """No noisy vector leaves twice: under two masks, its sums could be subtracted from one another.

    Vectors without noise of their own (trust central) may well be equal, zeros are: there is nothing to say of them.
    """
    wrong, count = [], 0
    for log in e.clients:
        noisy = {_name(one) for one in log.payments if one.share_sigma > 0}
        seen: dict[str, Sealed] = {}
        for one in log.results:
            if _name(one) not in noisy:
                continue
            count += 1
            first = seen.setdefault(one.digest, one)
            if first is not one:
                wrong.append(
                    Wrong(log.file, one.line, {"client": one.client, "round": one.round, "before": first.round})
                )
    if not e.clients:
        return [ledger("sealed-once", "cannot tell")]
    return [judged("sealed-once", wrong, results=count)] if count else []


def _client_ledgers(e: Evidence, sides: _Sides) -> Finding:
    """Whoever signed a receipt has a ledger, and the auditor has it."""
    named = {receipt.key: one.line for one in sides.server.sums for receipt, _ in one.receipts}
    if not e.clients:
        return ledger("client-ledgers", "cannot tell", count=len(named))
    missing = [Wrong(sides.server.file, line, {"key": key}) for key, line in named.items() if key not in sides.logs]
    return judged("client-ledgers", missing, ledgers=len(e.clients))


@dataclass
class _Tally:
    """What a walk over all receipts finds. Not frozen: it is added to."""

    wrong: list[Wrong] = field(default_factory=list)
    cut: list[Wrong] = field(default_factory=list)
    receipts: int = 0
    compared: int = 0
    last: dict[str, tuple[str, int]] = field(default_factory=dict)  # client -> key, line of its last receipt


def _receipts(sides: _Sides) -> list[Finding]:
    tally = _Tally()
    asked = {(one.round, one.attempt, one.release): one for one in sides.server.charges}
    for one in sides.server.sums:
        _walk(one, asked.get((one.round, one.attempt, one.release)), sides, tally)
    if not tally.receipts:
        return [ledger("receipts", "cannot tell"), ledger("tail-client", "cannot tell")]
    made = [judged("receipts", tally.wrong, receipts=tally.receipts, signatures=tally.receipts)]
    if tally.compared or tally.cut:
        return [*made, judged("tail-client", tally.cut, receipts=tally.compared)]
    return [*made, ledger("tail-client", "cannot tell")]


def _walk(one: Sum, charge: Charge | None, sides: _Sides, tally: _Tally) -> None:
    """All receipts of one sum."""

    def bad(why: str) -> None:
        tally.wrong.append(Wrong(sides.server.file, one.line, {"why": why, "round": one.round}))

    cohort = frozenset(charge.cohort if charge else ())
    named: list[str] = []
    for receipt, clients in one.receipts:
        tally.receipts += 1
        named += clients
        if receipt.round != one.round:
            bad("round")
        if not cohort.issuperset(clients):
            bad("stranger")
        if why := _grown(receipt, clients, tally.last):
            bad(why)
        if why := _in_ledger(receipt, one, sides, tally):
            bad(why)
    gone = {*one.declined, *one.failed}
    if len(named) != one.survivors or not gone.isdisjoint(named):
        bad("absent")
    if len(set(named)) < len(named):
        bad("twice")


def _grown(receipt: Receipt, clients: Sequence[str], last: dict[str, tuple[str, int]]) -> str | None:
    """A client keeps its key, and its ledger grows with every answer."""
    why = None
    mine = receipt.key, receipt.seq
    for client in clients:
        key, line = last.get(client, (receipt.key, 0))
        if key != receipt.key:
            why = "key"
        elif line >= receipt.seq:
            why = why or "order"
        last[client] = mine
    return why


def _in_ledger(receipt: Receipt, one: Sum, sides: _Sides, tally: _Tally) -> str | None:
    """Whether the receipt is signed, and stands in its client's ledger; a line that was cut off is noted apart.

    A head of the same line, chain, round and signature was verified when its ledger was read.
    """
    log = sides.logs.get(receipt.key)
    head = None if log is None else sides.heads[receipt.key].get(receipt.seq)
    same = head is not None and (head.round, head.tip) == (receipt.round, receipt.tip)
    verified = same and head is not None and head.signature == receipt.signature
    if not verified and not verify_receipt(receipt):
        return "signature"
    if same:
        tally.compared += 1
        return None
    if log is None:
        return None
    if receipt.seq <= log.lines:
        return "tip"
    if log.broken is None:
        cut = Wrong(sides.server.file, one.line, {"file": log.file, "lines": log.lines, "line": receipt.seq})
        tally.cut.append(cut)
    return None


def _payments_asked(e: Evidence) -> Finding:
    """Every payment of this run answers a charge that names its client, at its price."""
    server = e.server
    if server is None or not e.clients:
        return ledger("payments-asked", "cannot tell")
    charges = {one.hash: one for one in server.charges}
    answers: defaultdict[str, list[tuple[str, Payment]]] = defaultdict(list)
    count = 0
    for log in e.clients:
        for one in log.payments:
            if one.run == server.run:
                count += 1
                answers[one.server].append((log.file, one))
    wrong = []
    for name, given in answers.items():
        charge = charges.get(name)
        cohort = frozenset(charge.cohort if charge else ())
        for file, one in given:
            if why := _unasked(one, charge, cohort, whole=server.broken is None):
                wrong.append(
                    Wrong(
                        file, one.line, {"why": why, "client": one.client, "round": one.round, "release": one.release}
                    )
                )
    if not count and not wrong:
        return ledger("payments-asked", "cannot tell")
    return judged("payments-asked", wrong, payments=count)


def _unasked(one: Payment, charge: Charge | None, cohort: frozenset[str], *, whole: bool) -> str | None:
    """What of a payment no charge explains; ``whole``: whether all of the server's ledger was read."""
    if charge is None:
        return "unknown" if whole else None
    if (one.round, one.attempt, one.release) != (charge.round, charge.attempt, charge.release):
        return "unknown"
    if one.task != charge.task:
        return "task"
    if one.client not in cohort:
        return "cohort"
    if one.rho is None or charge.rho is None:
        return None if one.rho is charge.rho else "price"
    return None if math.isclose(one.rho, charge.rho, rel_tol=1e-12) else "price"


def _results_paid(sides: _Sides) -> Finding:
    """Whoever is in a sum has a vector in its own ledger, before its receipt: survivors never outnumber results."""
    made: defaultdict[tuple[int, int, str], dict[tuple[str, str], int]] = defaultdict(dict)
    for key, log in sides.logs.items():
        for one in log.results:
            if one.run == sides.server.run:
                made[one.round, one.attempt, one.release].setdefault((key, one.client), one.line)
    wrong, sums = [], 0
    for total in sides.server.sums:
        shown = made.get((total.round, total.attempt, total.release), {})
        told = [(receipt, clients) for receipt, clients in total.receipts if receipt.key in sides.logs]
        sums += bool(told)
        for receipt, clients in told:
            # A vector that stands behind the receipt was not in the ledger when the client signed for it.
            wrong += [
                Wrong(sides.server.file, total.line, _missing(client, total))
                for client in clients
                if not shown.get((receipt.key, client), receipt.seq) < receipt.seq
                and sides.logs[receipt.key].broken is None
            ]
    return judged("results-paid", wrong, sums=sums) if sums else ledger("results-paid", "cannot tell")


def _missing(client: str, total: Sum) -> dict[str, Value]:
    return {"client": client, "round": total.round, "release": total.release}
