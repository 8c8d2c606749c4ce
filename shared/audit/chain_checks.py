"""Clause 7, the ledger: append-only, chained, signed, in order, whole; and what both sides wrote fits together.

Each check is one function of the evidence, pure. What ties the two sides to each other is in ``reconcile.py``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from shared.audit.evidence import Charge, Evidence, Payment, Sealed, ServerLog, Sum
from shared.audit.findings import Finding, Place, Value
from shared.audit.reconcile import reconcile_findings
from shared.audit.verdicts import SHOWN, Wrong, judged, ledger
from shared.policy.replay import replay

FINISHED: Final = "finished"
_WHERE: Final = re.compile(r"(decision|order) of round (\d{1,16}):")
_Record = Charge | Sum | Payment | Sealed


def chain_findings(e: Evidence) -> list[Finding]:
    """Everything under clause 7."""
    made = [_chain_server(e), _chain_client(e), _keys_server(e), *_keys_client(e)]
    made += _of_server(e.server) if e.server else [ledger(check, "cannot tell") for check in _SERVER_ONLY]
    made += [_order_client(e), *_replays(e), *reconcile_findings(e)]
    read = (*([e.server.file] if e.server else []), *(log.file for log in e.clients[:SHOWN]))
    # What passes was seen in the ledgers as a whole.
    return [
        one if one.places or one.outcome != "pass" else replace(one, places=tuple(Place(file) for file in read))
        for one in made
    ]


_SERVER_ONLY: Final = ("order", "gaps", "tail-server", "decisions")


def _of_server(server: ServerLog) -> list[Finding]:
    return [_order(server), *_gaps(server), _tail(server), _decisions(server)]


def _chain_server(e: Evidence) -> Finding:
    server = e.server
    if server is None:
        return ledger("chain-server", "cannot tell")
    if server.broken is not None:
        place = Place(server.file, (server.lines + 1,))
        return ledger("chain-server", "fail", (place,), line=server.lines + 1, why=server.broken)
    return ledger("chain-server", "pass", lines=server.lines, heads=len(server.heads))


def _chain_client(e: Evidence) -> Finding:
    if not e.clients:
        return ledger("chain-client", "cannot tell")
    wrong = [
        Wrong(log.file, log.lines + 1, {"file": log.file, "line": log.lines + 1, "why": log.broken})
        for log in e.clients
        if log.broken is not None
    ]
    lines, heads = sum(log.lines for log in e.clients), sum(len(log.heads) for log in e.clients)
    return judged("chain-client", wrong, ledgers=len(e.clients), lines=lines, heads=heads)


def _keys_server(e: Evidence) -> Finding:
    """Who signed: a ledger only names a key, whoever holds it; an auditor's own list says whose it is."""
    own = e.server.key if e.server else None
    expected = e.keys.get("server")
    if e.server is None or own is None or expected is None:
        return ledger("keys-server", "cannot tell", key=own)
    wrong = [] if own == expected else [Wrong(e.server.file, 1, {"key": own, "expected": expected})]
    if wrong:
        return ledger("keys-server", "fail", (Place(e.server.file, (1,)),), key=own, expected=expected)
    return ledger("keys-server", "pass", key=own)


def _keys_client(e: Evidence) -> list[Finding]:
    known = {name: key for name, key in e.keys.items() if name != "server"}
    if not known:
        return [ledger("keys-client", "cannot tell", ledgers=len(e.clients))] if e.clients else []
    seen: set[str] = set()
    wrong: list[Wrong] = []
    for client, key, file, line in _signers(e, known):
        seen.add(client)
        if key != known[client]:
            wrong.append(Wrong(file, line, {"client": client, "key": key, "expected": known[client]}))
    if not seen:
        return [ledger("keys-client", "cannot tell", ledgers=len(e.clients))]
    listed = {*known.values()}
    strange = [log for log in e.clients if log.key not in listed and not any(p.client in known for p in log.payments)]
    made = [judged("keys-client", wrong, clients=len(seen))]
    if strange:
        places = tuple(Place(log.file) for log in strange[:SHOWN])
        made.append(ledger("keys-client-unlisted", "cannot tell", places, count=len(strange)))
    return made


def _signers(e: Evidence, known: Mapping[str, str]) -> Iterable[tuple[str, str | None, str, int]]:
    """(client, key, file, line) where a client whose key the auditor knows is under some key, once for each key."""
    told: set[tuple[str, str | None, str]] = set()
    for log in e.clients:
        for payment in log.payments:
            name = payment.client, log.key, log.file
            if payment.client in known and name not in told:
                told.add(name)
                yield payment.client, log.key, log.file, payment.line
    for one in e.server.sums if e.server else ():
        for receipt, clients in one.receipts:
            for client in clients:
                name = client, receipt.key, ""
                if client in known and name not in told and e.server:
                    told.add(name)
                    yield client, receipt.key, e.server.file, one.line


def _order(server: ServerLog) -> Finding:
    """Rounds never go back; a round that is asked again says so, and counts its attempts."""
    latest, retries = 0, 0
    attempts: defaultdict[tuple[int, str], int] = defaultdict(int)
    wrong = []
    for one in server.charges:
        name = one.round, one.release
        attempts[name] += 1
        retries += one.attempt > 1
        if one.round < latest or one.attempt != attempts[name]:
            wrong.append(_at(server.file, one, attempt=one.attempt))
        latest = max(latest, one.round)
    return judged("order", wrong, charges=len(server.charges), retries=retries)


def _order_client(e: Evidence) -> Finding:
    """No client answers an earlier round of a run after a later one."""
    wrong, count = [], 0
    for log in e.clients:
        latest: dict[tuple[str, str], int] = {}
        for one in log.payments:
            count += 1
            name = one.client, one.run
            before = latest.get(name, 0)
            if one.round < before:
                wrong.append(_at(log.file, one, client=one.client))
            latest[name] = max(one.round, before)
    return judged("order-client", wrong, payments=count) if e.clients else ledger("order-client", "cannot tell")


def _gaps(server: ServerLog) -> list[Finding]:
    """Every charge has its result, unless the run was killed between the two; no round is missing; none uncharged."""
    asked = {(one.round, one.attempt, one.release): one.line for one in server.charges}
    answered = {(one.round, one.attempt, one.release): one.line for one in server.sums}
    unasked = [
        _at(server.file, one)
        for one in server.sums
        if not asked.get((one.round, one.attempt, one.release), one.line) < one.line
    ]
    finished = any(event.get("stopped") == FINISHED for _, event in server.ends)
    open_ = [
        (one, after)
        for one, after in zip(server.charges, [*server.charges[1:], None], strict=False)
        if answered.get((one.round, one.attempt, one.release), 0) < one.line
    ]
    wrong = [_at(server.file, one) for one, after in open_ if not _killed(one, after, finished=finished)]
    rounds = {one.round for one in server.charges if one.release == "update"} - {0}
    made = [judged("gaps", wrong, rounds=len(rounds), killed=len(open_))]
    if len(rounds) < max(rounds, default=0):
        first = next(number for number in range(1, len(rounds) + 2) if number not in rounds)
        lines = [one.line for one in server.charges if one.round > first][:1]
        place = (Place(server.file, tuple(lines)),)
        made.append(ledger("gaps-rounds", "fail", place, round=first, count=max(rounds) - len(rounds)))
    return [*made, judged("result-unasked", unasked)] if unasked else made


def _killed(one: Charge, after: Charge | None, *, finished: bool) -> bool:
    """Whether a kill explains a charge without a result: the run ends there, or asks the round again and says so.

    A one-off release of round 0 is paid for then, and cannot be asked for again: the run goes on without it.
    """
    if after is None:
        return not finished
    return after.attempt > 1 if after.round == one.round else one.round == 0


def _tail(server: ServerLog) -> Finding:
    """The run's last words are its ``end`` and a signed head: what was cut off behind them cannot have been there."""
    last = max((one.line for one in server.heads), default=0)
    unsigned = server.lines - last
    if not server.ends:
        return ledger("tail-server", "cannot tell", (Place(server.file, (server.lines,)),), unsigned=unsigned)
    end = server.ends[0][0]
    late = [line for line in range(end + 1, min(server.lines, end + 8) + 1) if line != last or last > end + 1]
    if late:
        return ledger("tail-server", "fail", (Place(server.file, tuple(late[:5])),), count=server.lines - end)
    if unsigned:
        return ledger("tail-server", "cannot tell", (Place(server.file, (server.lines,)),), unsigned=unsigned)
    return ledger("tail-server", "pass")


def _replays(e: Evidence) -> list[Finding]:
    """Nothing is asked, summed, paid or sealed twice under one name, in whatever ledger."""
    made: list[Wrong] = []
    charges, payments = 0, 0
    if server := e.server:
        charges = len(server.charges)
        made += _twice("charge", ((server.file, one, (one.round, one.attempt, one.release)) for one in server.charges))
        made += _twice("task", ((server.file, one, one.task) for one in server.charges))
        made += _twice("sum", ((server.file, one, (one.round, one.attempt, one.release)) for one in server.sums))
    made += _twice(
        "payment",
        (
            (log.file, one, (one.client, one.run, one.round, one.attempt, one.release))
            for log in e.clients
            for one in log.payments
        ),
    )
    made += _twice("task", ((log.file, one, (one.client, one.task)) for log in e.clients for one in log.payments))
    made += _twice(
        "sealed",
        (
            (log.file, one, (one.client, one.run, one.round, one.attempt, one.release))
            for log in e.clients
            for one in log.results
        ),
    )
    payments = sum(len(log.payments) for log in e.clients)
    return [judged("replays", made, charges=charges, payments=payments)]


def _twice(what: str, named: Iterable[tuple[str, _Record, Hashable]]) -> list[Wrong]:
    """Records whose name came before."""
    seen: set[Hashable] = set()
    wrong = []
    for file, one, name in named:
        if name in seen:
            wrong.append(_at(file, one, what=what))
        seen.add(name)
    return wrong


def _decisions(server: ServerLog) -> Finding:
    """Every decision about the policy follows from what its line says was seen."""
    events = [event for _, event in server.events]
    try:
        wrong = replay(events)
    except (ArithmeticError, LookupError, MemoryError, RecursionError, RuntimeError) as error:
        wrong = [f"cannot be replayed: {type(error).__name__}"]
    if wrong:
        places = (Place(server.file, _lines_of(server, wrong)),)
        return ledger("decisions", "fail", places, what=wrong[0][:300], count=len(wrong))
    kinds = [event.get("type") for event in events]
    return ledger("decisions", "pass", decisions=kinds.count("decision"), orders=kinds.count("order"))


def _lines_of(server: ServerLog, sentences: Iterable[str]) -> tuple[int, ...]:
    """Lines of the decisions and orders that sentences of a replay speak of."""
    named = {(m[1], int(m[2])) for m in map(_WHERE.match, sentences) if m}
    found = [line for line, event in server.events if (event.get("type"), event.get("round")) in named]
    return tuple(found[:5])


def _at(file: str, one: _Record, **values: Value) -> Wrong:
    """The place of a record."""
    return Wrong(file, one.line, {"round": one.round, "release": one.release, **values})
