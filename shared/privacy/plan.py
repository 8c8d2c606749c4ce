"""The privacy plan: the frozen, public contract that couples participation, clipping, noise and accounting.

Nothing else may couple them, so the accountant can only be told what really runs. Adjacency is zero-out: one unit's
whole contribution is replaced by zeros; enrolment, participation and dropout are public. The budget is one total
``rho`` (zCDP), split by public shares between the kinds of release.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Literal, cast

from shared.privacy import accounting

Unit = Literal["user", "interaction"]
Trust = Literal["local", "distributed", "central"]
Kind = Literal["simulation", "deployment"]
Release = Literal["update", "measurement", "statistics", "profile", "trending"]

RELEASES: Final[tuple[Release, ...]] = ("update", "measurement", "statistics", "profile", "trending")
ADJACENCY: Final = "zero-out"
# The proof of the integer noise, docs/privacy.md. Per coordinate a sum of shares is a discrete Gaussian up to a factor
# e^(+-TAU), and that is the rounding of a real one of ROUNDING less variance (grid units squared) up to e^(+-ROUNDED).
# All coordinates of a plan together stay below ETA, which every printed epsilon includes.
ROUNDING: Final = 2.0
TAU: Final = 1e-16
ROUNDED: Final = 3e-17
ETA: Final = 1e-6


@dataclass(frozen=True)
class Mechanism:
    """How one kind of release is bounded and noised; all public.

    Attributes:
        participations: K, the largest number of releases of this kind by one client over the plan.
        clip: largest L2 norm of one unit's contribution, in the vector's own unit.
        steps: integer grid points per clip norm.
        noise_multiplier: sigma of the *sum* over the smallest honest set, per clip norm; 0 = no noise.
        inner_steps: noisy local steps behind one release (trust local), else 1.
        sensitivity: L2 sensitivity of the sum per clip norm: 1 for unit user (a whole contribution becomes zero), 2 for
            unit interaction (without one event a clipped contribution becomes another clipped one).
    """

    participations: int
    clip: float
    steps: int
    noise_multiplier: float
    inner_steps: int = 1
    sensitivity: float = 1.0

    @property
    def rho(self) -> float:
        """What one release costs its unit, in zCDP."""
        return accounting.rho_of(self.noise_multiplier / self.sensitivity, self.inner_steps)

    @property
    def claimed_multiplier(self) -> float:
        """Sigma per sensitivity of the real-valued Gaussian that integer noise is the rounding of."""
        variance = self.noise_multiplier * self.noise_multiplier - ROUNDING / (self.steps * self.steps)
        return math.sqrt(max(variance, 0.0)) / self.sensitivity

    @property
    def claimed_rho(self) -> float:
        """As :attr:`rho`, of that Gaussian: printed claims rest on it."""
        return accounting.rho_of(self.claimed_multiplier, self.inner_steps)


@dataclass(frozen=True)
class PrivacyPlan:
    """What is promised, and every public number that the promise rests on. Built by ``calibration.make_plan``.

    Attributes:
        kind: "simulation" (oracle values exist beside it) or "deployment".
        unit: whose data one contribution is.
        trust: who adds the noise.
        epsilon: the target against everybody; None = no differential privacy at all.
        delta: the target delta.
        population: clients that may take part, public.
        smallest_cohort: fewer survivors than this and the round is aborted (and charged).
        collusion: share of a smallest cohort that may work with the server before the claim weakens.
        rounds: training rounds planned.
        sampling: probability that a client is in a cohort, by a coin of its own for every exchange (trust central);
            None = cohorts are chosen in any other way, and nothing is claimed from chance.
        update, measurement, statistics, profile, trending: the five kinds of release.
    """

    kind: Kind
    unit: Unit
    trust: Trust
    epsilon: float | None
    delta: float
    population: int
    smallest_cohort: int
    collusion: float
    rounds: int
    sampling: float | None
    update: Mechanism
    measurement: Mechanism
    statistics: Mechanism
    profile: Mechanism
    trending: Mechanism

    def mechanism(self, release: Release) -> Mechanism:
        """The mechanism of one kind of release."""
        return cast(Mechanism, getattr(self, release))

    @property
    def honest(self) -> int:
        """h: honest survivors that make up the noise."""
        return honest_of(self.smallest_cohort, self.collusion)

    @property
    def colluders(self) -> int:
        """Clients of a smallest cohort that may work with the server before the claim weakens."""
        return max(0, self.smallest_cohort - self.honest)

    def share_sigma(self, release: Release) -> float:
        """Standard deviation, in grid units, of the noise that *one client* adds to one release.

        distributed: ``sigma / sqrt(h)``, so that h honest survivors make up sigma. central: 0, the server adds it.
        local: all of it for everything but updates, whose noise the local optimizer adds at every step.
        """
        mechanism = self.mechanism(release)
        sigma = mechanism.noise_multiplier * mechanism.steps
        if self.trust == "distributed":
            return sigma / math.sqrt(self.honest)
        if self.trust == "central" or release == "update":
            return 0.0
        return sigma

    def sum_sigma(self, release: Release, survivors: int) -> float:
        """Standard deviation, in grid units, of the noise in a sum over ``survivors`` clients.

        Without the noise inside local updates (trust local), whose scale depends on the learning rate.
        """
        mechanism = self.mechanism(release)
        if self.trust == "central":
            return mechanism.noise_multiplier * mechanism.steps
        return self.share_sigma(release) * math.sqrt(survivors)

    def spent(self, used: Mapping[Release, int]) -> float:
        """``rho`` of a unit that took part in ``used`` releases of each kind."""
        return sum(used[kind] * self.mechanism(kind).rho for kind in RELEASES if used.get(kind, 0))

    def claimed(self, used: Mapping[Release, int]) -> float:
        """As :meth:`spent`, for the printed claim."""
        return sum(used[kind] * self.mechanism(kind).claimed_rho for kind in RELEASES if used.get(kind, 0))

    def events(self, counts: Mapping[Release, int], rate: float = 1.0) -> tuple[accounting.Sampled, ...]:
        """What an accountant is told of ``counts`` releases of each kind, in which a unit takes part at ``rate``."""
        made = [(self.mechanism(kind), counts[kind]) for kind in RELEASES if counts.get(kind, 0)]
        return tuple(accounting.Sampled(m.claimed_multiplier, rate, count * m.inner_steps) for m, count in made)

    def full(self) -> dict[Release, int]:
        """The participations that the plan allows, by kind."""
        return {kind: self.mechanism(kind).participations for kind in RELEASES}

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of :func:`plan_to_dict`: what a client pins."""
        return _digest(self)


def unscheduled(unit: Unit) -> Mechanism:
    """The mechanism of a kind of release that a plan has none of; it allows nothing."""
    return Mechanism(0, 1.0, 1 << 16, 0.0, sensitivity=2.0 if unit == "interaction" else 1.0)


def plan_to_dict(plan: PrivacyPlan) -> dict[str, Any]:
    """A plan in plain JSON types, as ledgers, tasks and digests have it.

    A plan without trending says nothing of it: it is then, byte for byte, what it was before there was any.
    """
    said = asdict(plan)
    if plan.trending == unscheduled(plan.unit):
        del said["trending"]
    return said


@lru_cache(maxsize=64)
def _digest(plan: PrivacyPlan) -> str:
    """Cached: every client of a process compares it on every task."""
    return hashlib.sha256(json.dumps(plan_to_dict(plan), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Claims:
    """The printed epsilons of a plan or a spend at its delta; None = no claim (not even a large one).

    Attributes:
        everyone: against everybody up to the tolerated collusion, the server included.
        recipients: against those who see what the server publishes, cohorts included.
        recipients_amplified: against those of them who see neither cohorts nor anything that depends on their size.
        server: against the server alone.
        if_others_collude: what is left if everybody else belongs to the server.
    """

    everyone: float | None
    recipients: float | None
    recipients_amplified: float | None
    server: float | None
    if_others_collude: float | None

    @property
    def largest(self) -> float | None:
        """The largest printed claim; what a summary calls epsilon. Under central trust: against recipients only."""
        given = [e for e in (self.everyone, self.recipients, self.server) if e is not None]
        return max(given) if given else None


@dataclass(frozen=True)
class Target:
    """What a plan is made from: the promise wanted and the schedule. All public.

    Attributes:
        shares: the part of the total ``rho`` per kind of release; sums to 1; a kind that is missing has none.
        update_dimension: number of model parameters, for the integer grid.
        clip: clip norm of an update.
        update_participations: K.
        measurement_participations: measurements one client may take part in.
        local_steps: local iterations per update (they matter to the accounting under trust local only).
        users: units in all, 0 = one a client; delta must be below 1/users.
        per_client: units of one client at most, 0 = not known; a cohort's sum must fit the modulus.
        sampling: as in :class:`PrivacyPlan`.
        profile_dimension: numbers in the one-off profile release, 0 = none.
        trending_participations: refreshes of what is trending that one client may take part in.
        trending_dimension: numbers in one of them, 0 = none.
        cohort: clients in one sum at most, 0 = the whole population.
    """

    kind: Kind
    unit: Unit
    trust: Trust
    epsilon: float | None
    delta: float
    population: int
    smallest_cohort: int
    collusion: float
    rounds: int
    update_participations: int
    measurement_participations: int
    shares: Mapping[Release, float]
    update_dimension: int
    clip: float
    local_steps: int = 1
    users: int = 0
    per_client: int = 0
    sampling: float | None = None
    profile_dimension: int = 0
    trending_participations: int = 0
    trending_dimension: int = 0
    cohort: int = 0


def honest_of(smallest_cohort: int, collusion: float) -> int:
    """``ceil((1 - collusion) * smallest_cohort)``, fewer than all (each knows its own share), at least one."""
    return max(1, min(math.ceil((1.0 - collusion) * smallest_cohort - 1e-9), smallest_cohort - 1))


def printed(bound: Callable[[float], float], delta: float) -> float:
    """An upper bound of epsilon, given as a function of delta, that includes what integer arithmetic may add."""
    return bound(delta * math.exp(-ETA)) + 2.0 * ETA


def claims(
    plan: PrivacyPlan, used: Mapping[Release, int] | None = None, exchanges: Mapping[Release, int] | None = None
) -> Claims:
    """The printed claims for a unit that took part ``used`` times; None = everything that the plan allows.

    Args:
        plan: the plan.
        used: releases of the unit, by kind.
        exchanges: exchanges that a cohort was drawn for, by kind, aborted and repeated ones included; needed for the
            amplified claim alone. None = as many as planned.

    Formal guarantees: each number is an upper bound at ``plan.delta`` for the party it names. Trust central gives none
    against the server, and the sum's noise is the server's own. If all others collude, a distributed share alone is
    left. The amplified claim counts every exchange, whoever was drawn, each with coins of its own.
    """
    if plan.epsilon is None:
        return Claims(None, None, None, None, None)
    counts = plan.full() if used is None else used
    epsilon = _spent_epsilon(plan, counts)
    if plan.trust == "central":
        amplified = None
        if plan.sampling is not None:
            events = plan.events(plan.full() if exchanges is None else exchanges, plan.sampling)
            amplified = printed(lambda delta: accounting.epsilon_sampled(events, delta), plan.delta) if events else 0.0
        return Claims(None, epsilon, amplified, server=None, if_others_collude=None)
    alone = epsilon
    if plan.trust == "distributed":
        # One share has variance sigma^2 / h: its rho is h times as large. The zCDP conversion serves: the PLD of such a
        # Gaussian would need a grid of millions of points to say "hundreds" a little more precisely.
        alone = accounting.epsilon_by_zcdp(plan.honest * plan.spent(counts), plan.delta)
    return Claims(epsilon, epsilon, None, server=epsilon, if_others_collude=alone)


def epsilon_by_kind(plan: PrivacyPlan, used: Mapping[Release, int] | None = None) -> dict[str, float] | None:
    """The epsilon each kind of release would have alone at ``plan.delta``; they do not add up, their ``rho`` do."""
    if plan.epsilon is None:
        return None
    counts = plan.full() if used is None else used
    return {kind: _spent_epsilon(plan, {kind: counts[kind]}) for kind in RELEASES if counts.get(kind, 0)}


def _spent_epsilon(plan: PrivacyPlan, counts: Mapping[Release, int]) -> float:
    rho = plan.claimed(counts)
    return printed(lambda delta: accounting.epsilon_by_pld(rho, delta), plan.delta) if rho else 0.0
