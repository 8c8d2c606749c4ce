"""White-box check of ``seal`` on fixed vectors: what it adds must be N_Z(0, s^2) of the plan, and nothing else.

Fixed rows go through the same clipping and the same ``seal`` that a client's rows do. The same noise twice shows what
is not noise, to the integer; fresh noise, with that taken off, is held against the distribution that the plan promises:
by its variance and by a chi-square test over bins of equal probability. All tests together raise a false alarm once in
a million; at this number of draws they see a deviation that is off by two percent.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from client import release
from server import asking
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.policy.recall_policy import RecallPolicy
from shared.privacy.noise import NoiseSource
from shared.privacy.plan import RELEASES, Mechanism, PrivacyPlan, Release
from shared.protocol import TrainingTerms
from simulations.seeding import Seed, generator, noise

ALARM: Final = 1e-6  # chance that honest code fails, all tests together
LENGTH: Final = 50_000  # numbers in a fixed vector
BINS: Final = 64
_TESTS: Final = 2  # a kind of release: variance and chi-square
_EXACT: Final = 512.0  # grid units: above, sums of probabilities are a normal's, up to 1e-7 of each
_SPEC: Final = EncoderSpec(16, 64, 512, "linear")  # of the model whose local steps are looked at; a size like any other
_LOCAL_FITS: Final = 4

Source = Callable[[str], NoiseSource]  # the same name twice draws the same words


def white_box(
    plan: PrivacyPlan, *, seed: Seed = None, tell: Callable[[str], None] = lambda _sentence: None
) -> dict[str, Any]:
    """Section "white_box" of ``attack.json``.

    Args:
        plan: the run's own, from its ledger.
        seed: of the noise drawn here; None = another every time.
        tell: progress.

    Returns:
        ``outcome`` and ``releases``: each with ``sigma`` and ``measured`` (standard deviations in grid units),
        ``chi_square_p`` and ``variance_p`` (two-sided), ``draws``, ``outcome`` and ``why`` ("" = nothing is wrong).

    Formal guarantees:
        Code whose noise is the plan's fails with probability at most ``ALARM``.
    """
    root = secrets.randbits(62) if seed is None else seed
    kinds = [kind for kind in RELEASES if plan.mechanism(kind).participations]
    found = []
    for kind in kinds:
        tell(f"white box: {kind}, {len(VECTORS)} fixed vectors through seal")
        found.append(_one(plan, kind, partial(noise, root, "white box", kind), len(kinds)))
    failed = any(one["outcome"] == "fail" for one in found)
    return {"outcome": "fail" if failed else "pass", "alarm": ALARM, "releases": found}


def _one(plan: PrivacyPlan, kind: Release, source: Source, kinds: int) -> dict[str, Any]:
    """One kind of release; its two tests share the false alarms with those of all others."""
    mechanism = plan.mechanism(kind)
    if plan.trust == "local" and kind == "update":
        sigma, why = mechanism.noise_multiplier * mechanism.steps * math.sqrt(mechanism.inner_steps), ""
        drawn = _local_noise(mechanism, source)
    else:
        sigma = plan.share_sigma(kind)
        why, drawn = _sealed_noise(mechanism, sigma, source)
        if plan.trust == "central":
            sigma = plan.sum_sigma(kind, plan.smallest_cohort)
            why = why or ("" if not drawn.any() else "under trust central a client adds noise of its own")
            drawn = used_by(asking, "discrete_gaussian")(sigma, LENGTH * len(VECTORS), source("server"))
    chi_square, variance = _p_of_bins(drawn, sigma), _p_of_variance(drawn, sigma)
    if min(chi_square, variance) < ALARM / (_TESTS * kinds):
        why = why or "the noise is not the plan's"
    return {
        "release": kind,
        "sigma": sigma,
        "measured": math.sqrt(float(np.mean(np.square(drawn, dtype=np.float64)))),
        "chi_square_p": chi_square,
        "variance_p": variance,
        "draws": len(drawn),
        "outcome": "fail" if why else "pass",
        "why": why,
    }


def used_by(module: ModuleType, name: str) -> Any:  # noqa: ANN401 - whatever stands there
    """What a module calls by a name: looked up where it is used, so that what is looked at is what runs."""
    return vars(module)[name]


def _ones(clip: float) -> NDArray[np.float64]:
    return np.full((1, LENGTH), 10.0 * clip)


def _one_nan(clip: float) -> NDArray[np.float64]:
    rows = np.concatenate([_ones(clip), np.zeros((1, LENGTH))])
    rows[0, 17] = np.nan
    return rows


def _huge(_clip: float) -> NDArray[np.float64]:
    return np.where(np.arange(LENGTH) % 2, 1e300, -1e300)[None]


# clip -> (units, LENGTH) real rows; then the entries that their sum has on the grid, in parts of ``steps``: even
# places, odd places.
VECTORS: Final[dict[str, tuple[Callable[[float], NDArray[np.float64]], tuple[float, float]]]] = {
    "zeros": (lambda _clip: np.zeros((1, LENGTH)), (0.0, 0.0)),
    "ones": (_ones, (LENGTH**-0.5, LENGTH**-0.5)),
    "one NaN": (_one_nan, (0.0, 0.0)),
    "huge": (_huge, (-(LENGTH**-0.5), LENGTH**-0.5)),
}


def _sealed_noise(mechanism: Mechanism, sigma: float, source: Source) -> tuple[str, NDArray[np.int64]]:
    """What is wrong with the part that is not noise ("" = nothing); and the noise of all vectors, one after another."""
    why, parts = "", []
    for name, (rows_of, expected) in VECTORS.items():
        rows = rows_of(mechanism.clip)
        same = [_sealed(each, mechanism, sigma, source("twice")) for each in (rows, np.zeros_like(rows))]
        fixed = same[0] - same[1]
        wrong = _wrong_part(fixed, mechanism.steps, expected)
        why = why or (f"vector {name!r}: {wrong}" if wrong else "")
        parts.append(_sealed(rows, mechanism, sigma, source(name)) - fixed)
    repeated = sigma > 0 and any(np.array_equal(parts[0], other) for other in parts[1:])
    return why or ("the same noise was drawn twice" if repeated else ""), np.concatenate(parts)


def _sealed(rows: NDArray[np.float64], mechanism: Mechanism, sigma: float, source: NoiseSource) -> NDArray[np.int64]:
    """As ``client.release.release`` does it."""
    grid = used_by(release, "clip_to_grid")(rows, mechanism.clip, mechanism.steps)
    return release.seal(grid, mechanism, sigma, source).astype(np.int64)


def _wrong_part(fixed: NDArray[np.int64], steps: int, expected: tuple[float, float]) -> str:
    """Whether a clipped vector is where it must be: truncated towards zero, so at most one unit inside."""
    squared = sum(
        int(value) ** 2 * int(count) for value, count in zip(*np.unique(fixed, return_counts=True), strict=True)
    )
    if squared > steps**2:
        return f"its norm is {math.sqrt(squared) / steps:.4g} clips, at most 1 is allowed"
    exact = np.tile(np.array(expected) * steps, len(fixed) // 2)
    off = np.abs(exact - fixed)
    return "" if (off <= 1.0 + 1e-9).all() else f"an entry is off by {off.max():.4g} grid units"


def _local_noise(mechanism: Mechanism, source: Source) -> NDArray[np.int64]:
    """What local steps add when there is nobody to learn from, on the grid; at learning rate 1."""
    from client.model import Items  # noqa: PLC0415 - torch and opacus, which nothing else here needs
    from client.training import fit_locally_private  # noqa: PLC0415 - as above

    rng = generator(0, "white box")
    items = Items(
        {_SPEC.reads: rng.normal(size=(_SPEC.buckets, _SPEC.text_width)).astype(np.float32)},
        np.arange(_SPEC.buckets),
        np.zeros(_SPEC.buckets, np.float32),
    )
    policy = RecallPolicy(
        version=1,
        similarity={"text": "dot", "lexical": "cosine", "category": "cosine"},
        weights={"text": 1.0, "lexical": 1.0, "category": 1.0, "popularity": 1.0},
        features=("text",),
        depth=10,
        local_iterations=mechanism.inner_steps,
        exposure_price=0.0,
        diversity=0.0,
        exploration=0.0,
        k=10,
    )
    parts = []
    for number in range(_LOCAL_FITS):
        drawn = source(f"fit {number}")
        update = fit_locally_private(
            _SPEC,
            initial_parameters(_SPEC, rng),
            items,
            policy,
            TrainingTerms("squared", 1.0, 16, 16, 16),
            [],
            [],
            [],
            clip=mechanism.clip,
            noise_multiplier=mechanism.noise_multiplier,
            noise=drawn,
        )
        parts.append(release.seal(update[None], mechanism, 0.0, drawn, private=True))
    return np.concatenate(parts).astype(np.int64)


def _p_of_variance(drawn: NDArray[np.integer], sigma: float) -> float:
    """Two-sided: squares of Gaussians over their variance add up to a chi-square."""
    if sigma == 0:
        return float(not drawn.any())
    total = float(np.sum(np.square(drawn / sigma)))
    half = len(drawn) / 2.0
    return min(1.0, 2.0 * min(float(special.gammainc(half, total / 2)), float(special.gammaincc(half, total / 2))))


def _p_of_bins(drawn: NDArray[np.integer], sigma: float) -> float:
    """Pearson's test against N_Z(0, sigma^2), over bins that begin and end between integers."""
    if sigma == 0:
        return float(not drawn.any())
    edges = np.unique(np.round(sigma * special.ndtri(np.arange(1, BINS) / BINS)))
    expected = np.diff(np.concatenate([[0.0], _below(edges, sigma), [1.0]])) * len(drawn)
    counts = np.bincount(np.searchsorted(edges, drawn), minlength=len(expected))
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    return float(special.gammaincc((len(expected) - 1) / 2.0, statistic / 2.0))


def _below(edges: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """P(x <= edge) under N_Z(0, sigma^2)."""
    if sigma > _EXACT:
        return np.asarray(special.ndtr((edges + 0.5) / sigma), np.float64)
    reach = math.ceil(12.0 * sigma)
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray((np.cumsum(weight) / weight.sum())[edges.astype(int) + reach], np.float64)
