"""Whether a run masks its vectors, what it says about that, and what it promises before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.budget import measuring
from server.job import layout_of_reports
from server.summary import AGAINST, MASKED, UNMASKED
from shared.privacy.plan import ADJACENCY, PrivacyPlan, Trust, claims
from shared.privacy.wording import sentences
from simulations.config import SimulationConfig

Mode = Literal["real", "ideal", "not needed"]


@dataclass(frozen=True)
class Words:
    """What is said of a mode.

    Attributes:
        summary: for ``summary.json``, the table and the report; begins with the mode.
        promise: ends the promise before a run; "" where there is nothing to add.
        against: ends the sentence that says against whom the claim holds.
        not_covered: what it leaves open; "" for nothing.
    """

    summary: str
    promise: str
    against: str
    not_covered: str


def mode_of(config: SimulationConfig) -> Mode:
    """How a configuration's vectors are added up.

    Trust local needs no masks: every vector is private by itself. Ray runs the apps of a deployment, which always mask.
    """
    if config.privacy.trust == "local":
        return "not needed"
    return "real" if config.engine == "ray" else config.secure_aggregation


def words(mode: Mode, trust: Trust) -> Words:
    """The words for a mode under a trust."""
    if mode == "not needed":
        return Words(UNMASKED, "", "", "")
    if mode == "real":
        return Words(
            MASKED,
            "; vectors are masked, so the server learns sums alone",
            AGAINST,
            "",
        )
    bare = "under its own share of the noise" if trust == "distributed" else "without noise"
    return Words(
        "ideal: the same integers added up without masks, which saves time; a deployment masks them, and so does "
        "--set secure_aggregation=real",
        "; sums are not masked in this simulation (secure_aggregation = ideal; --set secure_aggregation=real masks "
        "them, more slowly), so what is claimed against the server is a deployment's",
        "; against the server as in a deployment, which masks its sums, while this simulation did not (ideal)",
        f"This simulation's own process: it added up vectors without masks (secure_aggregation = ideal), and so saw "
        f"each one {bare}; a deployment masks them.",
    )


def promise(config: SimulationConfig, plan: PrivacyPlan) -> list[str]:
    """What a run says before it begins: the target in a sentence, then the claims of its plan, one a line.

    A plan exists only if the target can be kept, so nothing is promised that is refused a moment later.
    """
    if plan.epsilon is None:
        return ["NO DIFFERENTIAL PRIVACY: privacy.epsilon is none; nothing in this run protects anybody."]
    head = (
        f"Promise: epsilon {plan.epsilon:g} per {plan.unit} (adjacency {ADJACENCY}, trust {plan.trust}, "
        f"delta {plan.delta:g}), all releases counted{words(mode_of(config), plan.trust).promise}."
    )
    users = plan.population * config.users_per_client
    tells = measuring(plan, layout_of_reports(config, config.model.buckets), users)
    return [head, *(f"  {sentence}" for sentence in sentences(plan, claims(plan))), f"  {tells}"]
