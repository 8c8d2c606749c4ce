"""What this device's ledger and consent say to its owner: epsilon spent, what left, what was declined.

Read without the ledger's lock, while another process may be writing: a last line without its newline stands for
nothing yet, and is not read. The sums are the gate's (``client/gate.py``); a test holds one against the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, Final

from client.account import Budget, Cap, Declined, Left, Released, RunSpend
from client.consent import MISSING, Consent, read_consent
from client.home import Home
from shared.errors import ConfigError, LedgerError, PlanError
from shared.printable import rounded_up
from shared.privacy.accounting import epsilon_by_zcdp
from shared.privacy.calibration import plan_from_dict
from shared.privacy.chain import Event, Line, read_ledger
from shared.privacy.plan import ADJACENCY, PrivacyPlan

ACCOUNTANT: Final = "zCDP; epsilon = rho + 2 sqrt(rho ln(1/delta)), an upper bound (Bun and Steinke 2016, Prop. 1.3)"
_UNITS: Final = {
    "user": "your whole history on this device",
    "interaction": "a single event of yours (not you: many events together may show)",
}
_NEVER: Final = (
    "Not covered: that this device is enrolled, was asked, answered or did not; other devices of yours, which have "
    "budgets of their own; whoever can open this device."
)
_BROKEN: Final = (LookupError, TypeError, ValueError, PlanError)


@dataclass
class _Account:
    """The ledger, read once; rho as paid, no delta applied yet."""

    plans: dict[str, tuple[PrivacyPlan, str]] = field(default_factory=dict)  # run -> plan, server's key
    paid: list[tuple[int, Event]] = field(default_factory=list)
    sealed: set[tuple[Any, ...]] = field(default_factory=set)
    declined: list[Declined] = field(default_factory=list)
    day: str = ""


def consent_of(home: Home) -> tuple[Consent | None, str]:
    """This device's consent, or None and why there is none: who cannot be understood has not consented."""
    if not home.consent.exists():
        return None, MISSING
    try:
        return read_consent(home.consent), ""
    except ConfigError as error:
        return None, str(error)


def left(home: Home) -> Left:
    """What left this device and what it declined.

    Raises:
        LedgerError: the ledger is broken; names the line.
    """
    consent, _ = consent_of(home)
    delta = (consent or Consent()).delta
    account = _account(home.ledger)
    released = [_released(line, event, delta, account.sealed) for line, event in account.paid]
    return Left(tuple(reversed(released)), tuple(reversed(account.declined)))


def budget(home: Home, today: date) -> Budget:
    """What was spent, against what consent allows.

    Args:
        home: the device's folder.
        today: by this device's clock, UTC, as the gate counts.

    Formal guarantees:
        Each epsilon bounds, at the delta given beside it, all releases of its span together, for the unit, the
        adjacency and the parties that ``runs`` name; rho-zCDP adds up also over releases that were chosen after seeing
        earlier ones (Bun and Steinke 2016, Lemma 2.3). Charged on intent, so never below what left.

    Edge cases:
        No ledger yet -> 0 spent. A release without privacy -> None, for good.

    Raises:
        LedgerError: the ledger is broken; names the line.
    """
    consent, why_not = consent_of(home)
    terms, account = consent or Consent(), _account(home.ledger)
    since = today.toordinal() - terms.period_days
    rounds: dict[tuple[str, int], float] = {}
    for _, event in account.paid:
        name = event["run"], event["round"]
        rounds[name] = rounds.get(name, 0.0) + _rho(event)
    recent = sum(_rho(event) for _, event in account.paid if _day(event) > since)
    spent = {
        "round": max(rounds.values(), default=0.0),
        "period": recent,
        "lifetime": sum(_rho(event) for _, event in account.paid),
    }
    runs = tuple(_run(run, *pinned, account, terms.delta) for run, pinned in account.plans.items())
    return Budget(
        taking_part=consent is not None and consent.enabled,
        why_not=why_not,
        caps=tuple(
            Cap(span, _epsilon(rho, terms.delta), getattr(terms, _cap_name(span)) if consent else None)
            for span, rho in spent.items()
        ),
        period_days=terms.period_days,
        delta=terms.delta,
        accountant=ACCOUNTANT,
        runs=runs,
        covers=_covers(runs),
    )


def told(spent: Budget) -> Iterator[str]:
    """A budget for a person: what was spent, and all that an epsilon means nothing without."""
    yield "takes part" if spent.taking_part else f"takes part in nothing{f': {spent.why_not}' if spent.why_not else ''}"
    names = {"round": "dearest round", "period": f"last {spent.period_days} days", "lifetime": "lifetime"}
    terms = _terms(spent.runs, spent.delta)
    for cap in spent.caps:
        most = "" if cap.cap is None else f" of at most {cap.cap:g}"
        yield f"{names[cap.span]}: {_spelled(cap.epsilon)}{most} ({terms})"
    for run in spent.runs:
        used = ", ".join(f"{kind} {n} of {most}" for kind, (n, most) in run.used.items())
        yield f"run {run.run}: {_spelled(run.epsilon)} ({_terms((run,), spent.delta)}); {used}"
    yield f"accountant: {spent.accountant}"
    yield from spent.covers


def _terms(runs: tuple[RunSpend, ...], delta: float) -> str:
    """Of an epsilon over some runs."""
    said = {name: dict.fromkeys(getattr(run, name) for run in runs) for name in ("unit", "adjacency", "trust")}
    return "".join(f"{name} {'/'.join(of)}, " for name, of in said.items() if of) + f"delta {delta:g}"


def _spelled(epsilon: float | None) -> str:
    return "no bound" if epsilon is None else f"epsilon {rounded_up(epsilon)}"


def _cap_name(span: str) -> str:
    return "epsilon_lifetime" if span == "lifetime" else f"epsilon_per_{span}"


def whole_lines(path: Path) -> Iterator[Line]:
    """The verified lines of a ledger that another process may be writing, without a half line at its end.

    Raises:
        LedgerError: the ledger is broken; names the line.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        complete = sum(1 for line in file if line.endswith(b"\n"))
    yield from islice(read_ledger(path), complete)


def _account(path: Path) -> _Account:
    account = _Account()
    for line in whole_lines(path):
        try:
            _take(account, line.number, line.event)
        except _BROKEN as error:
            raise LedgerError(f"{path}:{line.number}: not a line that a client writes ({error})") from error
    return account


def _take(account: _Account, number: int, event: Event) -> None:
    kind = event["type"]
    if kind == "plan":
        account.plans[event["run"]] = plan_from_dict(event["plan"]), event["server"]
    elif kind == "intent":
        _rho(event), _day(event), _task(event)
        account.paid.append((number, event))
        account.day = event["day"]
    elif kind == "result":
        account.sealed.add(_task(event))
    elif kind == "decline":
        said = event.get("release", ""), event.get("run", ""), event.get("round")
        account.declined.append(Declined(number, account.day, *said, event["clause"]))


def _released(line: int, event: Event, delta: float, sealed: set[tuple[Any, ...]]) -> Released:
    task = run, round_, attempt, release = _task(event)
    return Released(
        line=line,
        day=event["day"],
        release=release,
        run=run,
        round=round_,
        attempt=attempt,
        epsilon=_epsilon(_rho(event), delta),
        noise=event["noise_source"],
        sealed=task in sealed,
    )


def _run(run: str, plan: PrivacyPlan, server: str, account: _Account, delta: float) -> RunSpend:
    paid = [event for _, event in account.paid if event["run"] == run]
    rho = sum(_rho(event) for event in paid)
    used = _counts(event["release"] for event in paid)
    distributed = plan.trust == "distributed"
    return RunSpend(
        run=run,
        kind=plan.kind,
        server=server,
        unit=plan.unit,
        trust=plan.trust,
        adjacency=ADJACENCY,
        used={kind: (used.get(kind, 0), most) for kind, most in plan.full().items() if most},
        epsilon=_epsilon(rho, delta),
        # One share has variance sigma^2 / h: its rho is h times as large.
        if_others_collude=_epsilon(plan.honest * rho, delta) if distributed else None,
        smallest_cohort=plan.smallest_cohort,
        colluders=plan.colluders,
    )


def _covers(runs: tuple[RunSpend, ...]) -> tuple[str, ...]:
    """What the epsilons promise, a sentence each; the same sentence once."""
    if not runs:
        return ("Nothing has left this device.",)
    said = [sentence for run in runs for sentence in _promise(run)]
    return (*dict.fromkeys(said), _NEVER)


def _promise(run: RunSpend) -> tuple[str, ...]:
    if run.epsilon is None:
        return (f"Run {run.run}: no differential privacy; nothing is claimed against anybody.",)
    unit = f"Protected: {_UNITS[run.unit]}; adjacency {run.adjacency}."
    if run.trust == "local":
        return unit, "Against everybody, the server included, whoever works together: this device adds all the noise."
    if run.trust == "central":
        return unit, "Against readers of what is published. Against the server: nothing, because the noise is its own."
    few = f"at most {run.colluders} of the smallest {run.smallest_cohort} clients work with it"
    worse = "unbounded" if run.if_others_collude is None else f"epsilon {rounded_up(run.if_others_collude)}"
    return (
        unit,
        f"Against everybody, the server included, if it sees sums only and {few}; each device adds its share of noise.",
        f"Run {run.run}, if everybody else works with the server: {worse}.",
    )


def _counts(kinds: Iterable[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    for kind in kinds:
        out[kind] = out.get(kind, 0) + 1
    return out


def _task(event: Event) -> tuple[Any, ...]:
    return event["run"], event["round"], event["attempt"], event["release"]


def _rho(event: Event) -> float:
    return math.inf if event["rho"] is None else float(event["rho"])


def _day(event: Event) -> int:
    return date.fromisoformat(event["day"]).toordinal()


def _epsilon(rho: float, delta: float) -> float | None:
    return epsilon_by_zcdp(rho, delta) if math.isfinite(rho) else None
