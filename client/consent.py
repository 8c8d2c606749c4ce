"""Consent: what a person, or who speaks for one, allows. One file, ``consent.toml``, on the client's own side.

The gate (``client/gate.py``) holds every task against it. What breaks a clause is declined; the clause goes to the
client's own ledger, the server hears ``declined``. Epsilons are of zero-concentrated differential privacy at the
file's ``delta`` (Bun and Steinke 2016, Proposition 1.3), over everything that the ledger of this client has paid for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from shared.config import Section, read_toml, validate
from shared.files import write_atomically
from shared.history import KINDS, History
from shared.policy.recall_policy import GROUPS
from shared.privacy.accounting import epsilon_by_zcdp
from shared.privacy.plan import RELEASES, Mechanism, PrivacyPlan, Release, Trust, Unit

MISSING: Final = "no consent.toml"
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Consent(Section):
    """What a client may take part in. The defaults are careful; a value outside its bounds is refused when read."""

    enabled: bool = Field(True, description="false = takes part in nothing; recommending goes on")
    epsilon_per_round: float = Field(
        4.0, gt=0, le=1000, description="above 0, at most 1000: most that all releases of one round, retries too, cost"
    )
    epsilon_per_period: float = Field(
        10.0, gt=0, le=1000, description="above 0, at most 1000: most that all releases of the last period_days cost"
    )
    period_days: int = Field(365, ge=1, le=36_500, description="days, 1 to 36500, today included")
    epsilon_lifetime: float = Field(
        20.0, gt=0, le=1000, description="above 0, at most 1000: most that everything in this ledger costs"
    )
    delta: float = Field(1e-6, gt=0, lt=1, description="above 0, below 1: the delta of the three epsilons")
    allow_without_privacy: bool = Field(
        False,
        description="plans that promise no privacy at all; no cap holds for them, and none can be kept by others after",
    )
    smallest_noise: float = Field(
        0.5, ge=0, le=1e6, description="0 to 1e6: least noise in the sum, standard deviation per sensitivity, a release"
    )
    smallest_own_noise: float = Field(
        0.0, ge=0, le=1e6, description="0 to 1e6: least noise that this client adds itself, standard deviation per clip"
    )
    largest_clip: float = Field(
        1.0, gt=0, le=1e6, description="above 0, at most 1e6: largest length of one unit's contribution, its own unit"
    )
    smallest_cohort: int = Field(
        10, ge=0, le=1_000_000_000, description="0 to 1e9: least clients in a sum, where one hides its parts"
    )
    unit: tuple[Unit, ...] = Field(
        ("user",), min_length=1, description='whose data a plan protects: "user", "interaction" (one event only)'
    )
    trust: tuple[Trust, ...] = Field(
        ("local", "distributed"),
        min_length=1,
        description='who adds the noise: "local", "distributed", "central" (the server, which may not)',
    )
    servers: tuple[Key, ...] = Field(
        (), description="servers' keys, 64 hex digits each; none = the first one that is taken part with, no other"
    )
    roster_key: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="key of a registrar that must have signed who is in a sum, 64 hex digits; none = no such demand",
    )
    features: tuple[Literal["text", "lexical", "category", "popularity"], ...] = Field(
        GROUPS, description="feature groups that a task may switch on, be it in a policy that it only scores"
    )
    behaviour: tuple[Literal["view", "purchase", "rating", "dwell", "not_interested"], ...] = Field(
        KINDS, description="kinds of behaviour that may be used; others are left out here, and nobody hears of it"
    )


def read_consent(path: Path) -> Consent:
    """A ``consent.toml``.

    Raises:
        ConfigError: names the file, the key, its value and what would be right; an unknown key gets a suggestion.
    """
    return validate(Consent, read_toml(path), str(path))


def write_consent(consent: Consent, path: Path) -> None:
    """Write a ``consent.toml`` that explains itself: every key with its meaning and bounds.

    Raises:
        OSError: the disk refuses; an old file stays as it was then.
    """
    lines = ["# What this client takes part in. A task that breaks a line is declined; the server does not hear why."]
    for name, value in consent.model_dump(mode="json").items():
        # JSON's spelling of texts, numbers, booleans and lists of texts is TOML's.
        lines += ["", f"# {Consent.model_fields[name].description}", f"{name} = {json.dumps(value)}"]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def consent_to(plan: PrivacyPlan, features: Sequence[str] = GROUPS) -> Consent:
    """The narrowest consent under which all of a plan can be carried out, by any server, with all kinds of behaviour.

    For simulated people, who agree to their own run's plan. The three caps are the cost of the whole plan: a round that
    is tried again and again may use up all participations, and all rounds may fall into one period.
    """
    used = [kind for kind in RELEASES if plan.mechanism(kind).participations]
    private = plan.epsilon is not None
    # A little above what it costs: sums of many rounds are rounded.
    cap = epsilon_by_zcdp(plan.spent(plan.full()), plan.delta) * (1.0 + 1e-6) if private else 1.0
    return Consent(
        epsilon_per_round=cap,
        epsilon_per_period=cap,
        epsilon_lifetime=cap,
        delta=plan.delta,
        allow_without_privacy=not private,
        smallest_noise=min((noise_of(plan.mechanism(kind)) for kind in used), default=0.0),
        smallest_own_noise=min((own_noise(plan, kind) for kind in used), default=0.0),
        largest_clip=max((plan.mechanism(kind).clip for kind in used), default=1.0),
        smallest_cohort=plan.smallest_cohort,
        unit=(plan.unit,),
        trust=(plan.trust,),
        features=tuple(group for group in GROUPS if group in features),
    )


def noise_of(mechanism: Mechanism) -> float:
    """Standard deviation of the noise in the sum, per sensitivity, as if one release were one step."""
    return mechanism.noise_multiplier / mechanism.sensitivity / math.sqrt(mechanism.inner_steps)


def own_noise(plan: PrivacyPlan, release: Release) -> float:
    """Standard deviation, per clip, of what one client adds itself to a release; a local update's is in every step."""
    mechanism = plan.mechanism(release)
    return mechanism.noise_multiplier if plan.trust == "local" else plan.share_sigma(release) / mechanism.steps


def permitted(histories: Iterable[History], behaviour: Sequence[str]) -> tuple[History, ...]:
    """Histories without the kinds of behaviour that may not be used.

    Rows of such a kind are left out. A row is one user's whole business with one item, so what it tells of another
    kind is blanked: dwell becomes 0, a rating becomes none. How often is counted over all kinds and stays.
    """
    if set(behaviour) >= set(KINDS):
        return tuple(histories)
    codes = [KINDS.index(kind) for kind in behaviour]
    return tuple(_without(history, np.isin(history.kind, codes), behaviour) for history in histories)


def _without(history: History, kept: NDArray[np.bool_], behaviour: Sequence[str]) -> History:
    columns: dict[str, Any] = {field.name: getattr(history, field.name)[kept] for field in fields(History)}
    left = History(**columns)
    dwell = left.dwell if "dwell" in behaviour else np.zeros_like(left.dwell)
    rating = left.rating if "rating" in behaviour else np.full_like(left.rating, np.nan)
    return replace(left, dwell=dwell, rating=rating)
