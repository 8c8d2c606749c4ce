"""The gate: a client decides for itself whether it takes part.

What it knows is what its own ledger says: the plan it pinned and the participations it has already paid for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import DeclinedError, LedgerError
from shared.privacy.calibration import plan_from_dict
from shared.privacy.ledger import Line
from shared.privacy.participation import remaining
from shared.privacy.plan import PrivacyPlan, Release

Spend = dict[tuple[str, Release], int]  # (client, kind of release) -> intents so far


@dataclass(frozen=True)
class Gate:
    """What was pinned when the ledger began.

    Attributes:
        run: the run that the participations count for.
        plan: the first plan accepted; its digest must not change.
        catalogue: version of the catalogue on this side.
    """

    run: str
    plan: PrivacyPlan
    catalogue: str


def admit(gate: Gate, spend: Spend, client: str, release: Release, *, run: str, plan: str, catalogue: str) -> None:
    """Let a task pass or refuse it.

    Args:
        gate: what was pinned.
        spend: intents so far, counted from the ledger.
        client: who is asked.
        release: what for.
        run, plan, catalogue: what the task claims (plan and catalogue by digest).

    Raises:
        DeclinedError: with the clause; the clause goes to the client's ledger, never to the server.
    """
    if run != gate.run:
        raise DeclinedError(f"run {run!r} is not the run {gate.run!r} that this ledger belongs to")
    if plan != gate.plan.digest():
        raise DeclinedError("the plan changed: a client keeps to the first plan it accepted")
    if catalogue != gate.catalogue:
        raise DeclinedError(f"catalogue {catalogue[:12]} is not here; this client has {gate.catalogue[:12]}")
    limit = gate.plan.mechanism(release).participations
    if remaining(spend.get((client, release), 0), limit) == 0:
        raise DeclinedError(f"{release}: all {limit} participations are used up")


def gate_of(genesis: Line) -> Gate:
    """The gate that a ledger's first line pins.

    Raises:
        LedgerError: the line pins nothing.
        PlanError: it pins a plan that is none.
    """
    event = genesis.event
    try:
        return Gate(event["run"], plan_from_dict(event["plan"]), event["catalogue"])
    except KeyError as error:
        raise LedgerError(f"the ledger's first line does not name {error}") from error


def count_spend(lines: Iterable[Line]) -> Spend:
    """Intents by client and kind: what was paid for, whether or not a result followed."""
    spend: Spend = {}
    for line in lines:
        if line.event["type"] == "intent":
            key = (line.event["client"], line.event["release"])
            spend[key] = spend.get(key, 0) + 1
    return spend
