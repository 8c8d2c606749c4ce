"""Canary users: how much of a run's claim can be seen from outside, in one run of the plan.

Each canary is in or out by a fair coin. In, it wishes a fixed direction far beyond the clip in every release that the
plan allows it; out, it takes part with zeros (zero-out adjacency). Everything from there on is the code that runs:
``clip_to_grid``, the client's share by ``seal``, the sum modulo 2^32, the server's own noise under trust central, the
local optimizer under trust local, and the server's step from a sum to the next model. The attacker is the one of the
claim: it knows all canaries, and subtracts what everybody but the smallest honest set added.

Two views: "all rounds", all sums of all kinds of release, as the server sees them; and "final model", which alone is
given away. A canary's score is the inner product of its direction with what is seen, kinds weighted by what the plan's
noise leaves of them. How many guesses are made depends on the plan alone, so no number is chosen on the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.release import seal
from server.aggregation import OptimizerState, apply, initial_optimizer, mean_update
from server.job import Job, initial_state, layout_of_reports
from server.posterior import known_of, learn
from shared.encoder.profile import profile_length
from shared.encoder.spec import Floats
from shared.errors import ConfigError
from shared.privacy.clipping import clip_to_grid
from shared.privacy.noise import NoiseSource, discrete_gaussian
from shared.privacy.plan import RELEASES, Mechanism, PrivacyPlan, Release, claims
from shared.recall.report import HISTORY_BINS
from shared.secagg.masks import from_words, to_words
from simulations.attack.bounds import (
    ASSUMES,
    METHODS,
    Method,
    gaussian_estimate,
    guessed_right,
    guesses_for,
    lower_bound,
    power_cap,
)
from simulations.attack.directions import Directions, combined, draw_directions, products, rows_of
from simulations.seeding import Seed, generator, noise

CONFIDENCE: Final = 0.95
FEWEST: Final = 50
MOST: Final = 100_000
LOUD: Final = 16.0  # clip norms that a canary asks for, so that a clip that lets more through shows
SHARES: Final = 1_000_000_000  # noisy numbers drawn share by share; beyond, one draw stands for the shares left
_AT_ONCE: Final = 32  # rows in memory at a time
ESTIMATE: Final = "An estimate, not a bound: a clean run may show more than its claim."

Step = Callable[[OptimizerState, Floats, Floats], tuple[Floats, OptimizerState]]
Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Server:
    """How a server makes models of sums.

    Attributes:
        step: (optimizer's state, parameters, mean update) -> parameters and state after.
        start: initial parameters; the last of them are those that an update changes.
        people: public number of units that a mean is over.
    """

    step: Step
    start: Floats
    people: int


@dataclass(frozen=True)
class _Game:
    """One kind of release with its canaries.

    Attributes:
        plan, kind: whose mechanism.
        directions: one a canary.
        inside: (m,) the coins.
        noise: (round, client) -> source of a share.
        budget: noisy numbers to draw share by share.
    """

    plan: PrivacyPlan
    kind: Release
    directions: Directions
    inside: NDArray[np.bool_]
    noise: Callable[[int, int], NoiseSource]
    budget: int

    @property
    def mechanism(self) -> Mechanism:
        return self.plan.mechanism(self.kind)

    @property
    def apart(self) -> float:
        """Clip norms between in and out: without an event another contribution is left, at worst the opposite."""
        return self.mechanism.sensitivity

    @property
    def wishes(self) -> Wide:
        """(m,) clip norms that each canary contributes."""
        return np.where(self.inside, 1.0, 1.0 - self.apart)

    @property
    def looks(self) -> int:
        """Noisy looks at a canary: releases, and local steps in them."""
        return self.mechanism.participations * self.mechanism.inner_steps

    @property
    def distance(self) -> float:
        """Clip norms between in and out over all looks."""
        return self.looks * self.apart

    @property
    def variance(self) -> float:
        """Of an inner product over all looks: noise, and the coins of the canaries that there is no room for."""
        crowd = max(0.0, len(self.inside) / self.directions.dimension - 1.0) * self.distance**2 / 4.0
        return max(self.looks * self.mechanism.noise_multiplier**2 + crowd, 1e-9)

    @property
    def signal(self) -> float:
        """Squared distance of in from out, in standard deviations."""
        return self.distance**2 / self.variance


def canary_audit(
    plan: PrivacyPlan,
    dimensions: Mapping[Release, int],
    *,
    canaries: int = 5000,
    seed: Seed = None,
    server: Server | None = None,
    confidence: float = CONFIDENCE,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Section "canaries" of ``attack.json``.

    Args:
        plan: the run's own, so that its claim is the one that is tested.
        dimensions: numbers in one release of each kind; a kind that is missing is not looked at, which only lowers a
            bound.
        canaries: how many at most; no more than an update has numbers, or they would hide one another.
        seed: of coins, directions and noise; None = from the operating system.
        server: for the final model; None = plain averaging (McMahan et al. 2017) from zeros.
        confidence: of each bound by itself.
        tell: told what is being done.

    Raises:
        ConfigError: too few canaries to say anything, or too many to draw.
    """
    if not FEWEST <= canaries <= MOST:
        raise ConfigError(f"canaries = {canaries}: must lie between {FEWEST} and {MOST}")
    games = _games(plan, dimensions, canaries, seed)
    scores, final = np.zeros(len(games[0].inside)), None
    for game in games:
        tell(f"canaries: {game.kind}, {game.mechanism.participations} releases of {game.directions.dimension} numbers")
        sums = _sums(game)
        scores += _score(game, sums.sum(axis=0))
        if game.kind == "update":
            tell("canaries: the final model")
            final = _final_scores(game, sums, server)
    views = {"all rounds": (scores, sum(game.signal for game in games))}
    if final is not None:
        # Rounds without the canaries bring noise and nothing else.
        part = plan.update.participations / max(plan.rounds, plan.update.participations)
        views["final model"] = (final, games[0].signal * part)
    tell("canaries: bounds")
    count = len(views) * len(METHODS)
    inside = games[0].inside
    return {
        "claimed": claims(plan).largest,
        "delta": plan.delta,
        "confidence": confidence,
        "together": max(0.0, 1.0 - count * (1.0 - confidence)),  # of all bounds at once (Bonferroni)
        "bounds": [
            _bound(plan, method, view, seen, math.sqrt(signal), inside, confidence)
            for view, (seen, signal) in views.items()
            for method in METHODS
        ],
        "estimates": [
            {"method": "gdp", "view": view, "epsilon": gaussian_estimate(seen, inside, plan.delta), "note": ESTIMATE}
            for view, (seen, _) in views.items()
        ],
    }


def dimensions_of(job: Job) -> dict[Release, int]:
    """Numbers in one release of each kind of a run."""
    layout = layout_of_reports(job.config, job.encoder.buckets)
    sizes: dict[Release, int] = {
        "update": job.encoder.trained,
        "measurement": layout.length,
        "statistics": job.encoder.buckets + HISTORY_BINS,
        "profile": profile_length(job.width + job.encoder.text_width) if job.width else 0,
        "trending": job.items,
    }
    return {kind: size for kind, size in sizes.items() if size and job.plan.mechanism(kind).participations}


def server_of(job: Job, seed: Seed = None) -> Server:
    """A run's own way from sums to models."""
    section, people = job.config.training, len(job.clients) * job.users_per_client
    state = initial_state(job, generator(seed, "canaries", "model"))
    if job.encoder.kind != "linear":
        return Server(
            partial(apply, section.server_optimizer, section.server_learning_rate, section.warmup),
            state.parameters,
            people,
        )
    # A grid unit is the least that a sum is off by; of no noise at all nothing could be solved.
    mechanism = job.plan.update
    deviation = max(job.update_noise(_members(job.plan)), mechanism.clip / mechanism.steps) / people
    known, text = known_of(state), job.bucket_text

    step = partial(learn, job.encoder, noise=deviation, known=known, people=people, text=text)
    return Server(step, state.parameters, people)


def _games(plan: PrivacyPlan, dimensions: Mapping[Release, int], canaries: int, seed: Seed) -> list[_Game]:
    """One a kind of release, updates first; the coins are the same in all."""
    kinds = [kind for kind in RELEASES if dimensions.get(kind, 0) and plan.mechanism(kind).participations]
    if not kinds:
        raise ConfigError("canaries: the plan allows no release whose length is known; there is nothing to look at")
    rng, room = generator(seed, "canaries"), max(FEWEST, dimensions[kinds[0]])  # updates, where there are any
    canaries = min(canaries, room)
    inside = rng.integers(0, 2, canaries).astype(bool)
    whole = sum(dimensions[kind] * plan.mechanism(kind).participations for kind in kinds)
    return [
        _Game(
            plan,
            kind,
            draw_directions(canaries, dimensions[kind], rng),
            inside,
            partial(noise, seed, "canary", kind),
            SHARES * dimensions[kind] * plan.mechanism(kind).participations // whole,
        )
        for kind in kinds
    ]


def _members(plan: PrivacyPlan) -> int:
    """Clients whose noise the attacker cannot subtract; under trust local it sees each one's vector by itself."""
    return 1 if plan.trust == "local" else plan.honest


def _sums(game: _Game) -> NDArray[np.int64]:
    """(participations, d) sums as the server has them, without the shares of all that collude."""
    plan, mechanism, size = game.plan, game.mechanism, game.directions.dimension
    sigma, rounds, members = plan.share_sigma(game.kind), mechanism.participations, _members(plan)
    drawn = max(1, min(members, game.budget // (rounds * size), len(game.inside)))
    words = np.zeros((rounds, size), np.uint32)
    private = plan.trust == "local" and game.kind == "update"
    for client, part in enumerate(np.array_split(np.arange(len(game.inside)), drawn)):
        total = None if private else _clipped(game, part)
        for number in range(rounds):
            source = game.noise(number, client)
            rows = _by_local_steps(game, part, source) if total is None else total
            words[number] += to_words(seal(rows, mechanism, sigma, source, private=private))
    if members > drawn and sigma:
        # A sum of shares is a discrete Gaussian of the summed variance (docs/privacy.md): one draw for all the rest.
        nobody, rest = np.zeros((1, size), np.int32), sigma * math.sqrt(members - drawn)
        for number in range(rounds):
            words[number] += to_words(seal(nobody, mechanism, rest, game.noise(number, drawn)))
    sums = from_words(words)
    if plan.trust == "central":
        for number in range(rounds):
            sums[number] += discrete_gaussian(plan.sum_sigma(game.kind, members), size, game.noise(number, -1))
    return sums


def _wished(game: _Game, part: NDArray[np.integer]) -> Iterator[Wide]:
    """The unclipped rows of canaries, a chunk at a time."""
    for start in range(0, len(part), _AT_ONCE):
        which = part[start : start + _AT_ONCE]
        yield rows_of(game.directions, which) * (LOUD * game.mechanism.clip * game.wishes[which])[:, None]


def _clipped(game: _Game, part: NDArray[np.integer]) -> NDArray[np.int32]:
    """(1, d) sum of one client's units on the grid, each clipped; the same in every round."""
    total = np.zeros((1, game.directions.dimension), np.int64)
    for rows in _wished(game, part):
        total += clip_to_grid(rows, game.mechanism.clip, game.mechanism.steps).sum(axis=0, dtype=np.int64)
    return total.astype(np.int32)


def _by_local_steps(game: _Game, part: NDArray[np.integer], source: NoiseSource) -> Wide:
    """(1, d) real row of one client under trust local, private already."""
    from simulations.attack.local_steps import private_change  # noqa: PLC0415 - torch and opacus, for this trust alone

    return private_change(partial(_wished, game, part), game.directions.dimension, game.mechanism, source)


def _score(game: _Game, total: NDArray[np.integer]) -> Wide:
    """(m,) log odds that each canary is in, but for a constant; what canaries add on average is known, and taken off.

    Args:
        total: (d,) sum of all releases of a kind.
    """
    average = np.full(len(game.inside), game.looks * (1.0 - game.apart / 2.0))
    left = total / game.mechanism.steps - combined(game.directions, average)
    return np.asarray(products(game.directions, left) * game.distance / game.variance)


def _final_scores(game: _Game, sums: NDArray[np.int64], server: Server | None) -> Wide:
    """(m,) scores on the last model alone; rounds that no canary is in come between, with the noise of a sum."""
    size, mechanism = game.directions.dimension, game.mechanism
    server = server or Server(partial(apply, "fedavg", 1.0, 0), np.zeros(size, np.float32), len(game.inside))
    rounds = max(game.plan.rounds, len(sums))
    present = {round(place): number for number, place in enumerate(np.linspace(0, rounds - 1, len(sums)))}
    parameters, state = server.start, initial_optimizer(size)
    empty = np.zeros((1, size), np.int32)
    deviation = mechanism.noise_multiplier * mechanism.steps * math.sqrt(mechanism.inner_steps)
    for place in range(rounds):
        if place in present:
            total = sums[present[place]]
        else:
            total = seal(empty, mechanism, deviation, game.noise(place, -2)).astype(np.int64)
        mean = mean_update(total, mechanism.clip, mechanism.steps, server.people)
        parameters, state = server.step(state, parameters, mean)
    return products(game.directions, (parameters - server.start)[-size:].astype(np.float64))


def _bound(
    plan: PrivacyPlan,
    method: Method,
    view: str,
    scores: Wide,
    mu: float,
    inside: NDArray[np.bool_],
    confidence: float,
) -> dict[str, Any]:
    """One bound, beside what it can show at most and what it rests on."""
    canaries, delta = len(inside), plan.delta
    guesses = guesses_for(method, min(mu, 30.0), canaries, delta, confidence, claims(plan).largest)
    right = guessed_right(scores, inside, guesses)
    return {
        "method": method,
        "view": view,
        "epsilon": lower_bound(method, canaries, guesses, right, delta, confidence),
        "canaries": canaries,
        "guesses": guesses,
        "right": right,
        "power_cap": power_cap(canaries, guesses, confidence, delta=delta, method=method),
        "assumes": ASSUMES[method],
    }
