"""What each person spent: the distribution, the largest, all runs together, and why clients refused."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared.audit.evidence import ClientLog, Evidence
from shared.audit.executed import Executed, Source, bound, executed, kinds_of, rho_by_client
from shared.privacy import accounting
from shared.privacy.plan import PrivacyPlan, Release

BINS: Final = 20
SAME: Final = 1e-3  # epsilons that lie closer are one
UNNAMED_DELTA: Final = 1e-6  # where no plan can be read
_CLAUSES: Final = 20  # different ones that are counted by name; a hostile ledger may hold as many as it has lines
_LONGEST: Final = 60


@dataclass(frozen=True)
class Spend:
    """Epsilons of single clients at the plan's delta, as far as they took part.

    Attributes:
        source: whose word it is: payments of the clients (charges for those without a ledger), or the server's charges.
        persons: clients that spent anything.
        least, median, most: epsilon of one client in this run, PLD upper bounds.
        cap: epsilon of a client that used up all that the plan allows; None = no privacy.
        bins: (low, high, persons) of a histogram over epsilon; one bin if all spent alike.
        participations: kind of release -> (of the client that took part most often, K).
        lifetime: largest epsilon of one client over all runs of its ledger; None = no clients' ledgers; infinite = a
            run without privacy.
        runs: different runs in the clients' ledgers.
        renewal: days of the period of consent; None = no ledger tells.
        refusals: clause -> how often clients refused for it.
    """

    source: Source
    persons: int
    least: float
    median: float
    most: float
    cap: float | None
    bins: tuple[tuple[float, float, int], ...]
    participations: Mapping[Release, tuple[int, int]]
    lifetime: float | None
    runs: int
    renewal: int | None
    refusals: Mapping[str, int]


def spend(e: Evidence) -> Spend | None:
    """What each person spent; of several runs in one client's ledger the latest. None = no ledger tells of any."""
    return spend_of(e.clients, executed(e))


def spend_of(logs: Sequence[ClientLog], runs: Sequence[Executed]) -> Spend | None:
    """As :func:`spend`, where it is known already what was executed."""
    run = next((run for run in reversed(runs) if run.exchanges), None)
    if run is None:
        return None
    rhos = sorted(rho_by_client(run.exchanges).values())
    delta, private = run.plan.delta, run.plan.epsilon is not None
    lifetimes = lifetime(logs)
    return Spend(
        source=run.source,
        persons=len(rhos),
        least=bound(min(rhos, default=0.0), delta),
        median=bound(rhos[(len(rhos) - 1) // 2] if rhos else 0.0, delta),
        most=bound(max(rhos, default=0.0), delta),
        cap=bound(run.plan.claimed(run.plan.full()), delta) if private else None,
        bins=_bins(rhos, delta),
        participations=participations(run),
        lifetime=max(lifetimes.values(), default=None),
        runs=len({payment.run for log in logs for payment in log.payments}),
        renewal=None,
        refusals=refusals(logs),
    )


def participations(run: Executed) -> dict[Release, tuple[int, int]]:
    """How often the client that took part most often did, and how often the plan lets one, by kind of release."""
    made: dict[Release, tuple[int, int]] = {}
    for kind in kinds_of(run.exchanges):
        counts = Counter(client for ex in run.exchanges if ex.release == kind for client in ex.clients)
        made[kind] = (max(counts.values(), default=0), run.plan.mechanism(kind).participations)
    return made


def lifetime(logs: Sequence[ClientLog]) -> dict[str, float]:
    """Client -> epsilon of everything that its ledgers paid for, at the smallest delta of its runs.

    A run whose plan cannot be read counts with the price that its payments name.
    """
    rhos: dict[str, float] = defaultdict(float)
    deltas: dict[str, float] = {}
    for log in logs:
        plans = {pin.run: pin.plan for pin in log.pins}
        counts = Counter((payment.client, payment.run, payment.release, payment.rho) for payment in log.payments)
        for (client, run, release, stated), count in counts.items():
            plan = plans.get(run)
            rhos[client] += count * _price(plan, release, stated)
            if plan is not None:
                deltas[client] = min(deltas.get(client, 1.0), plan.delta)
    other = min(deltas.values(), default=UNNAMED_DELTA)
    return {client: bound(rho, deltas.get(client, other)) for client, rho in rhos.items()}


def _price(plan: PrivacyPlan | None, release: Release, stated: float | None) -> float:
    if plan is None:
        return math.inf if stated is None else stated
    return math.inf if plan.epsilon is None else plan.mechanism(release).claimed_rho


def refusals(logs: Sequence[ClientLog]) -> dict[str, int]:
    """Clause -> refusals, the most frequent first; names in it (of runs, servers, catalogues) are left out."""
    counts = Counter(_clause(refusal.clause) for log in logs for refusal in log.refusals)
    named = counts.most_common(_CLAUSES)
    rest = counts.total() - sum(count for _, count in named)
    return dict(named) | ({"other": rest} if rest else {})


def _clause(said: str) -> str:
    """What comes before the first colon, less the name of a run or a catalogue; printable and short."""
    head = re.split(r"[:;]", said, maxsplit=1)[0].strip()
    for word in ("run", "catalogue"):
        if head.startswith(f"{word} "):
            head = word
    return "".join(letter if letter.isprintable() else "?" for letter in head[:_LONGEST]) or "unnamed"


def _bins(rhos: Sequence[float], delta: float) -> tuple[tuple[float, float, int], ...]:
    """Equal steps of epsilon from the least to the most of sorted ``rhos``; the last one includes its upper end."""
    if not rhos or not math.isfinite(rhos[-1]):
        return ()

    def epsilon(rho: float) -> float:
        return accounting.epsilon_exact(rho, delta)

    low, high = epsilon(rhos[0]), epsilon(rhos[-1])
    if high - low < SAME:
        return ((low, high, len(rhos)),)
    edges = [low + (high - low) * place / BINS for place in range(BINS + 1)]
    below = [0, *(bisect_left(rhos, edge, key=epsilon) for edge in edges[1:-1]), len(rhos)]
    return tuple((edges[place], edges[place + 1], below[place + 1] - below[place]) for place in range(BINS))
