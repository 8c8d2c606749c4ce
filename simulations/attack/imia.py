"""Interaction membership inference (IMIA): is this item in that user's history, going by what the server sees?

For every user tried, a fair coin leaves one item in the history or takes it out; the server guesses which. It is as
strong as there is: it knows the model, the rest of the history and everybody else's, and subtracts what it expects;
what is left to it is to tell one contribution from another. Of what a client draws by chance (splits, negatives) it
knows how it is drawn. It sees the updates of all rounds, as

- ``none``: every user's own update, as plain federated learning has it;
- ``distributed``: the noised sums of the run (under trust central those that recipients see);
- ``local``: every user's own update with all of the noise in it.

Without protection it must guess nearly always right, or the attack is broken. With it, its advantage (how much more
often it is right than wrong) is at most what epsilon implies: ``(e^eps - 1 + 2 delta) / (e^eps + 1)``.
Intervals take guesses as independent; among users of one sum they are not quite. The verdict needs no such thing: right
guesses are hardly more than binomial at that advantage (Steinke et al. 2023, Theorem 5.2).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client import contributions as computing
from client import release
from shared.history import NOT_INTERESTED, History
from shared.privacy import accounting
from shared.privacy.clipping import clip_to_grid
from shared.privacy.noise import NoiseSource, discrete_gaussian
from shared.privacy.plan import PrivacyPlan, printed
from shared.protocol import TrainTask
from simulations.attack.bounds import clopper_pearson
from simulations.attack.subject import Subject, tasks_of
from simulations.seeding import Seed, clock, generator, key, noise

TRIALS: Final = 400  # users tried, at most
FEWEST: Final = 40  # trials below which even an attack that is always right would show too little
CHANCE_TRIALS: Final = 80  # with an encoder whose updates rest on chance: each takes many draws
DRAWS: Final = 12  # of what the server expects, where that rests on chance
SEEN: Final = 6  # different draws among the updates that it sees
TOLD: Final = 0.01  # part of the entries, those that differ most for their spread, that it then goes by
LOCALLY: Final = 100  # under trust local each takes Opacus a moment a round
LOCAL_ROUNDS: Final = 4
LARGEST: Final = 20_000_000  # numbers in all contributions of one side
PLAIN: Final = 0.2  # advantage without protection, at least, or the attack is broken
CONFIDENCE: Final = 0.95

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Game:
    """The users tried, and what is decided before anything is seen.

    Attributes:
        users: their names.
        whole, without: their histories with the item and without.
        inside: (users,) bool, the coins.
        rounds: updates that a user contributes.
        root: seed of everything drawn here.
    """

    users: tuple[str, ...]
    whole: tuple[History, ...]
    without: tuple[History, ...]
    inside: NDArray[np.bool_]
    rounds: int
    root: int

    def first(self, count: int) -> Game:
        """The same game among the first users only."""
        part = slice(count)
        return replace(
            self,
            users=self.users[part],
            whole=self.whole[part],
            without=self.without[part],
            inside=self.inside[part],
        )


def imia(
    subject: Subject, *, seed: Seed = None, tell: Callable[[str], None] = lambda _sentence: None
) -> dict[str, Any]:
    """Section "imia" of ``attack.json``.

    Args:
        subject: the run.
        seed: of coins, items and noise; None = others every time.
        tell: progress.

    Returns:
        ``outcome`` ("cannot tell" = the attack does not even work without protection) and ``modes``, each with
        ``advantage``, its Clopper-Pearson interval ``low`` to ``high`` at 95 %, ``implied`` (None = nothing bounds it)
        with the ``epsilon`` that it comes of, ``trials`` and ``rounds``.
    """
    task = tasks_of(subject)["update"]
    if not isinstance(task, TrainTask):
        raise TypeError("an update is asked for by a training task")
    game = new_game(subject, task, secrets.randbits(62) if seed is None else seed)
    plan, modes = subject.job.plan, []
    if not game.users:
        return {"outcome": "cannot tell", "modes": []}
    for mode, play in (("none", _plain), ("distributed", _summed), ("local", _local)):
        tell(f"interaction membership, mode {mode}")
        right, played = play(subject, task, game)
        modes.append(_said(mode, right, played, plan))
    return {"outcome": judged(modes), "modes": modes}


def new_game(subject: Subject, task: TrainTask, root: int) -> Game:
    """Users with at least two items that training sees; of each, one such item and a coin.

    Fewer than :data:`TRIALS` where contributions are so long that they would fill the memory; where there are few
    users, each is there several times, with items and coins of its own every time.
    """
    rng = generator(root, "imia")
    users, histories = subject.world.users, subject.world.histories
    trials = TRIALS if subject.job.encoder.kind == "linear" else CHANCE_TRIALS
    most = max(20, min(trials, LARGEST // subject.job.encoder.trained))
    able = [n for n, history in enumerate(histories) if len(_seen(history)) >= 2]
    times = math.ceil(FEWEST / len(able)) if able else 0
    chosen = sorted((n, time) for time in range(times) for n in rng.permutation(able)[:most].tolist())[:most]
    whole = [histories[n] for n, _ in chosen]
    return Game(
        users=tuple(f"{users[n]}/{time}" for n, time in chosen),
        whole=tuple(whole),
        without=tuple(_dropped(history, int(rng.choice(_seen(history)))) for history in whole),
        inside=rng.random(len(chosen)) < 0.5,
        rounds=task.header.plan.update.participations,
        root=root,
    )


def implied(plan: PrivacyPlan, rounds: int) -> tuple[float, float] | None:
    """The largest advantage that the noise of so many updates allows, and the epsilon behind it; None without noise.

    Under unit user a claim speaks of a history and of nothing in its place. One item more or less makes one clipped
    contribution of another, so it moves by up to twice the clip: four times the rho.
    """
    if plan.epsilon is None:
        return None
    rho = plan.claimed({"update": rounds}) * (1.0 if plan.unit == "interaction" else 4.0)
    epsilon = printed(lambda delta: accounting.epsilon_by_pld(rho, delta), plan.delta)
    # tanh(x / 2) = (e^x - 1) / (e^x + 1), which does not overflow.
    return min(1.0, math.tanh(epsilon / 2.0) + 2.0 * plan.delta / (1.0 + math.exp(min(epsilon, 700.0)))), epsilon


def judged(modes: Sequence[dict[str, Any]]) -> str:
    """More than epsilon implies fails; an attack that does not work without protection says nothing."""
    if any(one["implied"] is not None and one["low"] > one["implied"] for one in modes):
        return "fail"
    plain = next(one for one in modes if one["mode"] == "none")
    return "pass" if plain["low"] >= PLAIN else "cannot tell"


def _said(mode: str, right: int, game: Game, plan: PrivacyPlan) -> dict[str, Any]:
    trials = len(game.users)
    low, high = clopper_pearson(right, trials, CONFIDENCE)
    if mode == "distributed":
        # One noise a sum, whatever local steps the run takes under trust local.
        plan = replace(plan, update=replace(plan.update, inner_steps=1))
    bound = None if mode == "none" else implied(plan, game.rounds)
    return {
        "mode": mode,
        "advantage": 2.0 * right / trials - 1.0,
        "low": 2.0 * low - 1.0,
        "high": 2.0 * high - 1.0,
        "implied": None if bound is None else bound[0],
        "epsilon": None if bound is None else bound[1],
        "trials": trials,
        "rounds": game.rounds,
    }


def _plain(subject: Subject, task: TrainTask, game: Game) -> tuple[int, Game]:
    """Every user's own updates, neither clipped nor noised."""
    seen = np.asarray(np.mean(_seen_rows(subject, task, game), axis=0), np.float64)
    expected = _expected(subject, task, game, lambda rows: rows)
    return _right(_scores(seen, expected, 0.0), game), game


def _summed(subject: Subject, task: TrainTask, game: Game) -> tuple[int, Game]:
    """The sum of clipped contributions and of the noise of as many shares as the plan takes for honest, each round."""
    plan = subject.job.plan if subject.job.plan.trust != "local" else replace(subject.job.plan, trust="distributed")
    mechanism, share = plan.update, plan.share_sigma("update")

    def clipped(rows: Rows) -> NDArray[np.int32]:
        return clip_to_grid(rows, mechanism.clip, mechanism.steps)

    passes = [clipped(rows) for rows in _seen_rows(subject, task, game)]
    users, length = passes[0].shape
    others = math.sqrt(max(0, plan.honest - users)) * share
    if plan.trust == "central":
        others = plan.sum_sigma("update", plan.smallest_cohort)
    total = np.zeros(length, np.int64)
    for round_ in range(game.rounds):
        for place, row in enumerate(passes[round_ % len(passes)]):
            # Whoever colludes takes its share of the noise off again: no more than the honest ones' is left.
            sigma = share if place < plan.honest else 0.0
            total += release.seal(row[None], mechanism, sigma, noise(game.root, "imia", round_, place))
        total += discrete_gaussian(others, length, noise(game.root, "imia", round_, "others"))
    expected = _expected(subject, task, game, clipped)
    left = total / game.rounds - expected.middle.sum(axis=0)
    variance = (mechanism.noise_multiplier * mechanism.steps) ** 2 / game.rounds
    if expected.spread.any():
        return _right(np.einsum("ij,j->i", expected.weights(variance), left), game), game
    # Without chance the coins of all users are guessed at once: everybody's contribution explains a part of the sum.
    apart = (expected.one - expected.other) / 2
    together = apart @ apart.T + np.eye(users) * (variance + 1e-9 * float(np.square(apart).sum()) / users)
    return _right(np.linalg.solve(together, apart @ left), game), game


def _local(subject: Subject, task: TrainTask, game: Game) -> tuple[int, Game]:
    """Every user's own update under trust local: clipped and noised at each local step by the client's optimizer."""
    played = replace(game.first(LOCALLY), rounds=min(game.rounds, LOCAL_ROUNDS))
    plan = subject.job.plan
    if plan.trust != "local":
        # The same noise in every vector as the run has in its sums, in one local step.
        plan = replace(plan, trust="local")
        task = replace(task, policy=replace(task.policy, local_iterations=1))
    task = replace(task, header=replace(task.header, plan=plan))
    mechanism = plan.update
    grid = mechanism.steps / mechanism.clip
    seen = np.zeros((len(played.users), subject.job.encoder.trained))
    for round_ in range(played.rounds):
        rows = _rows(subject, task, played, _histories(played), f"round {round_}", private=True)
        seen += [release.seal(row[None], mechanism, 0.0, _NONE, private=True) for row in rows]
    expected = _expected(subject, task, played, lambda rows: _shortened(rows, mechanism.clip) * grid)
    variance = (mechanism.noise_multiplier * mechanism.steps) ** 2 * mechanism.inner_steps / played.rounds
    return _right(_scores(seen / played.rounds, expected, variance), played), played


@dataclass(frozen=True)
class Expected:
    """What the server expects of each user's contribution, (users, length) each.

    Attributes:
        one, other: its mean with the item and without.
        spread: its variance by chance; zeros where it rests on none.
    """

    one: Rows
    other: Rows
    spread: Rows

    @property
    def middle(self) -> Rows:
        """Neither nearer to the one nor to the other."""
        return (self.one + self.other) / 2

    def weights(self, noise: float) -> Rows:
        """How much an entry says of the item, given the variance of the noise in it; a linear discriminant."""
        apart = self.one - self.other
        if not self.spread.any():
            return apart
        # Few draws say little of a spread: it is moved towards the user's mean.
        variance = self.spread + 0.1 * self.spread.mean(axis=1, keepdims=True) + noise + 1e-30
        says = np.square(apart) / variance
        kept = says >= np.quantile(says, 1.0 - TOLD, axis=1, keepdims=True)
        return np.asarray(np.where(kept, apart / variance, 0.0), np.float64)


def _scores(seen: Rows, expected: Expected, noise: float) -> Rows:
    """One a user: above 0 = rather with the item."""
    return np.asarray(np.einsum("ij,ij->i", seen - expected.middle, expected.weights(noise)), np.float64)


def _none(_count: int) -> NDArray[np.uint64]:
    raise RuntimeError("a private row is only rounded: no noise is drawn for it")


_NONE: Final = NoiseSource("none", _none)


def _right(scores: Rows, game: Game) -> int:
    """How often the sign of the score says what the coin said; the threshold is fixed before anything is seen."""
    return int(np.count_nonzero((scores > 0) == game.inside))


def _histories(game: Game) -> list[History]:
    """What the users do have, after the coins."""
    return [one if inside else other for inside, one, other in zip(game.inside, game.whole, game.without, strict=True)]


def _draws(subject: Subject, most: int) -> int:
    """How many different contributions a history can make; the linear encoder's rest on no chance."""
    return 1 if subject.job.encoder.kind == "linear" else most


def _seen_rows(subject: Subject, task: TrainTask, game: Game) -> list[Rows]:
    """The users' contributions in so many rounds, each by chance of its own."""
    passes = _draws(subject, min(game.rounds, SEEN))
    return [_rows(subject, task, game, _histories(game), f"users {number}") for number in range(passes)]


def _expected(subject: Subject, task: TrainTask, game: Game, shape: Callable[[Rows], NDArray[Any]]) -> Expected:
    """What the server expects, by draws of its own of what chance there is; ``shape`` is what happens to a row then."""
    draws = _draws(subject, DRAWS)
    one, other, squares = (np.zeros((len(game.users), subject.job.encoder.trained)) for _ in range(3))
    for histories, mean in ((game.whole, one), (game.without, other)):
        for number in range(draws):
            rows = shape(_rows(subject, task, game, histories, f"server {number}")).astype(np.float64)
            np.add(mean, rows / draws, out=mean)
            squares += np.square(rows) / (2 * draws)
    spread = squares - (np.square(one) + np.square(other)) / 2
    return Expected(one, other, np.maximum(spread, 0.0) if draws > 1 else np.zeros_like(one))


def _rows(
    subject: Subject,
    task: TrainTask,
    game: Game,
    histories: Sequence[History],
    whose: str,
    *,
    private: bool = False,
) -> Rows:
    """Contributions of the users, each as a client of its own, by the clients' code; (users, length)."""
    of = dict(zip(game.users, histories, strict=True))
    people = computing.People(
        users=lambda client: (client,),
        histories=lambda client: (of[client],),
        ages=lambda _client: (None,),
        catalogue=subject.world.catalogue,
        key=lambda user, round_: key(game.root, "imia", whose, user, round_),
        rng=lambda user, round_: generator(game.root, "imia", whose, user, round_),
        noise=lambda client: noise(game.root, "imia", whose, client),
        today=clock(0)(),  # which updates do not look at
    )
    chunks = list(computing.contributions(people, game.users, task, private=private))
    return np.concatenate(chunks).astype(np.float64)


def _shortened(rows: Rows, clip: float) -> Rows:
    """Rows no longer than the clip."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * np.minimum(1.0, clip / np.maximum(norm, 1e-300)), np.float64)


def _seen(history: History) -> NDArray[np.intp]:
    """Rows that training sees as something that the user did want."""
    return np.flatnonzero(~history.held_out & (history.kind != NOT_INTERESTED))


def _dropped(history: History, row: int) -> History:
    return History(**{field.name: np.delete(getattr(history, field.name), row) for field in fields(History)})
