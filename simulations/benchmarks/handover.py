"""The users, items and parameters of the benchmark of client updates, and the same for a peer.

Seeded throughout, so that every process of one benchmark has the same. Users have ten different items each, popular
ones more often (Zipf); parameters are random, so that no gradient is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.batch import Batch, draw
from client.model import Items, Problem, gather
from client.strategy import Way
from client.training import fit
from shared.encoder.spec import EncoderSpec, Floats, Kind, unpack
from shared.history import DAY, KINDS, History, stacked
from shared.policy.recall_policy import RecallPolicy
from shared.protocol import TrainingTerms
from simulations.benchmarks.peers.models import TEXT_WEIGHT
from simulations.benchmarks.peers.task import Arrays, PeerTask, Terms
from simulations.seeding import client_randomness

SEED: Final = 20_261_129
POINTS: Final = 10  # interactions of a user
_COMPACT, _TEXT = 32, 384  # widths of the public vectors that the projections read
_RATE: Final = 0.5


@dataclass(frozen=True)
class Case:
    """One row of the benchmark.

    Attributes:
        kind: of the encoder.
        rank, buckets: its sizes; there are as many items as buckets.
        steps: local steps.
        users: in all.
        cohort: of a round.
    """

    kind: Kind
    rank: int
    buckets: int
    steps: int
    users: int = 1000
    cohort: int = 100

    @property
    def spec(self) -> EncoderSpec:
        """The encoder."""
        return EncoderSpec(_COMPACT if self.kind == "linear" else _TEXT, self.rank, self.buckets, self.kind)


@dataclass(frozen=True)
class Material:
    """What :func:`client.training.fit` takes, for all users of a case."""

    case: Case
    parameters: Floats
    items: Items
    policy: RecallPolicy
    training: TrainingTerms
    histories: list[History]


def material(case: Case) -> Material:
    """Everything of a case."""
    rng = np.random.default_rng([SEED, case.rank, case.buckets])
    spec = case.spec
    groups = {spec.reads: _unit(rng, case.buckets, spec.text_width)}
    popular = 1.0 / np.arange(1, case.buckets + 1)
    prior = np.log(popular / popular.sum()).astype(np.float32)
    return Material(
        case,
        rng.normal(0.0, 0.1, spec.size).astype(np.float32),
        Items(groups, np.arange(case.buckets), prior),
        _policy(case),
        TrainingTerms("softmax", _RATE, context=4, targets=3, negatives=3),
        [_history(rng, popular / popular.sum()) for _ in range(case.users)],
    )


def contributions(made: Material, users: slice, round_: int, *, way: Way | None = None) -> Iterator[Floats]:
    """The unclipped rows of some users in one round, in chunks: the product's own training, its own way by default."""
    key = client_randomness(SEED).key
    histories = made.histories[users]
    keys = [key(str(user), round_) for user in range(users.start, users.stop)]
    nothing = np.zeros(len(made.items.bucket), np.bool_)
    barred = [nothing] * len(histories)
    spec, training = made.case.spec, made.training
    return fit(spec, made.parameters, made.items, made.policy, training, histories, keys, barred, way=way)


def peer_task(made: Material, terms: Terms) -> PeerTask:
    """The same model, users and draws of round 1 for a peer; vectors and splits are worked out for it."""
    parts = unpack(made.case.spec, made.parameters)
    if made.case.kind == "linear":
        vectors, wanted = _decoded(made)
        return PeerTask(terms, {"target.weight": parts["target"]}, [vectors[:, None], wanted[:, None]])
    parameters = {
        "projection.weight": parts["projection"].T,
        "identity.weight": parts["identity"],
        "bias.weight": parts["bias"][:, None],
        "behaviour.weight": parts["behaviour"][None],
    }
    problem = Problem(made.case.spec, made.items, made.policy, made.training)
    visits = [gather(problem, visit) for visit in _visits(made)]
    names = ("text", "bucket", "behaviour", "offset", "target", "negative")
    return PeerTask(terms, parameters, [np.stack([getattr(visit, n).numpy() for visit in visits], 1) for n in names])


def peer_sum(kind: Kind, arrays: Arrays) -> Floats:
    """A peer's sum, by the names of its parameters, as the flat vector of ours."""
    if kind == "linear":
        return np.ravel(arrays["target.weight"])
    parts = [arrays["projection.weight"].T] + [arrays[f"{name}.weight"] for name in ("identity", "bias", "behaviour")]
    return np.concatenate([np.ravel(part) for part in parts])


def _decoded(made: Material) -> tuple[Floats, Floats]:
    """(users, rank) vectors and (users, buckets) histories at length one: all that the linear encoder learns from.

    By the formulas of docs/encoder.md and not by the code that is measured.
    """
    parts = unpack(made.case.spec, made.parameters)
    context = made.items.groups["compact"] @ parts["projection"] + parts["context"]
    vectors = np.array([context[history.item].sum(0) for history in made.histories], np.float32)
    wanted = np.zeros((len(vectors), made.case.buckets), np.float32)
    for row, history in zip(wanted, made.histories, strict=True):
        row[history.item] = len(history) ** -0.5
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), wanted


def _visits(made: Material) -> list[Batch]:
    """What each local step of round 1 sees of all users."""
    key = client_randomness(SEED).key
    keys = [key(str(user), 1) for user in range(len(made.histories))]
    nothing = [np.zeros(len(made.items.bucket), np.bool_)] * len(keys)
    shape = Problem(made.case.spec, made.items, made.policy, made.training).shape
    seen = stacked(made.histories)
    return [draw(seen, keys, nothing, made.case.buckets, shape, visit=step) for step in range(made.case.steps)]


def _policy(case: Case) -> RecallPolicy:
    return RecallPolicy(
        version=1,
        similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
        weights={"text": TEXT_WEIGHT, "lexical": 0.0, "category": 0.0, "popularity": 1.0},
        features=("text", "popularity"),
        depth=200,
        local_iterations=case.steps,
        exposure_price=0.0,
        diversity=0.0,
        exploration=0.0,
        k=20,
    )


def _history(rng: np.random.Generator, popular: NDArray[np.float64]) -> History:
    liked = len(KINDS) - 1  # all kinds but the last, "not interested"
    return History(
        item=rng.choice(len(popular), POINTS, replace=False, p=popular).astype(np.int32),
        kind=rng.integers(0, liked, POINTS).astype(np.int8),
        count=rng.integers(1, 4, POINTS).astype(np.float32),
        dwell=rng.uniform(0.0, 1.0, POINTS).astype(np.float32),
        rating=np.where(rng.random(POINTS) < 0.5, np.nan, rng.random(POINTS)).astype(np.float32),
        time=np.sort(rng.uniform(0.0, 365.0, POINTS)) * DAY,
        held_out=np.zeros(POINTS, np.bool_),
    )


def _unit(rng: np.random.Generator, rows: int, width: int) -> Floats:
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
