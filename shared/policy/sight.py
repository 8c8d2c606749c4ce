"""What a controller knows: what it sees of a measured round, and what it aims at. All of it stands in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shared.errors import ProtocolError


@dataclass(frozen=True)
class Seen:
    """One number with its 95 % half width; what the controller knows of a metric."""

    value: float
    half_width: float


@dataclass(frozen=True)
class Sight:
    """A measured round as the controller sees it; None = it cannot be told.

    Attributes:
        recall: recall@k.
        coverage: coverage@k, a share of the catalogue.
        effective: effective coverage@k, a share of the catalogue: what was shown often enough to be told from noise.
        gap: of ndcg@10 between the best and the worst served activity group.
        shadows: recall@k under each neighbouring policy minus that under the policy in force; empty = not asked.
        exposures: noisy counts per bucket.
        exposure_sigma: standard deviation of the noise in each of them.
        lists: places in all lists together, as estimated: what exposures add up to.
        active: items seen from which a user belongs to the most active third, as the statistics say; 0 = unknown.
    """

    recall: Seen | None
    coverage: Seen | None = None
    effective: Seen | None = None
    gap: Seen | None = None
    shadows: tuple[Seen, ...] = ()
    exposures: tuple[int, ...] | None = None
    exposure_sigma: float = 0.0
    lists: float = 0.0
    active: int = 0


@dataclass(frozen=True)
class Targets:
    """What is aimed at; from the configuration and the plan.

    Attributes:
        recall: recall@k.
        coverage: share of the catalogue that lists are to reach.
        items: size of the catalogue.
        fairness: how much of recall the gap between activity groups is worth; 0 = it is reported only.
        shadows: neighbouring policies in every report; 0 unless the controller is ``shadow``.
        iterations_fixed: local steps are no knob: the plan accounts for them (trust local), or a second one changes
            nothing (encoder linear with a learning rate of 1 or more).
    """

    recall: float
    coverage: float
    items: int
    fairness: float = 0.0
    shadows: int = 0
    iterations_fixed: bool = False


def text_of(seen: Seen) -> str:
    """A number with its bar, for a reason."""
    return f"{seen.value:.3f} +- {seen.half_width:.3f}"


def sight_to_dict(sight: Sight) -> dict[str, Any]:
    """Plain JSON types; inverse of :func:`sight_from_dict`."""
    lists = {"shadows": [asdict(seen) for seen in sight.shadows]}
    return {**asdict(sight), **lists, "exposures": None if sight.exposures is None else list(sight.exposures)}


def sight_from_dict(raw: Mapping[str, Any]) -> Sight:
    """A sight read back from a ledger.

    Raises:
        ProtocolError: it is none.
    """
    try:
        exposures = raw["exposures"]
        return Sight(
            **{name: _seen(raw[name]) for name in ("recall", "coverage", "effective", "gap")},
            shadows=tuple(Seen(**seen) for seen in raw["shadows"]),
            exposures=None if exposures is None else tuple(int(count) for count in exposures),
            exposure_sigma=float(raw["exposure_sigma"]),
            lists=float(raw["lists"]),
            active=int(raw["active"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"what the controller saw cannot be read: {type(error).__name__}: {error}") from error


def _seen(raw: Mapping[str, float] | None) -> Seen | None:
    return None if raw is None else Seen(**raw)
