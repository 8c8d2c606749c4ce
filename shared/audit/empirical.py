"""Clause 9: what an attack on the same code found, against what is claimed.

``attack.json`` is written by ``fedrecall-sim attack``. Lower bounds hold with the confidence that stands beside them:
one above the claim refutes it, one below proves nothing. Estimates are no bounds and decide nothing. What a file says
of itself is compared with its own numbers again, so that an outcome cannot be edited alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from shared.audit.evidence import Evidence
from shared.audit.executed import bound as upper_bound
from shared.audit.findings import Finding, Outcome, Place, Value
from shared.audit.found import claimed_of, close, found, number, plan_of, short
from shared.audit.guesses import least_epsilon
from shared.privacy.plan import RELEASES, PrivacyPlan, Release

FALSE_ALARM: Final = 1e-7  # of one test of honest noise; the eight of a run together stay below one in a million
PLAIN: Final = 0.2  # advantage of an attacker without any protection; below it the attack is broken
OFF: Final = 0.1  # of a deviation; the test behind it is much finer
WHITE_BOX: Final = {"sigma": "sigma", "measured": "measured", "p": "chi_square_p"}
MOST_BOUNDS: Final = 20  # that are looked at; an attack writes four
NEAR: Final = 0.01  # of a bound, which is searched by halving
MODES: Final = ("none", "distributed", "local")


def empirical_findings(e: Evidence) -> list[Finding]:
    """Clause 9; nothing where the auditor left it out."""
    if not e.empirical:
        return []
    if e.attack is None:
        return [found(9, "attack", "cannot tell")]
    places = (Place(e.attack_file),)
    other = _another(e, e.attack)
    if other is not None:
        return [found(9, "attack-of-this-run", "fail", places, run=other)]
    made = _part(e.attack, "made")
    parts: list[Finding] = [
        found(
            9,
            "attack-of-this-run",
            "pass",
            places,
            canaries=_whole(made.get("canaries")),
            seed=_whole(e.attack.get("seed")),
        )
    ]
    canaries = _part(e.attack, "canaries")
    plan = plan_of(e)
    delta = None if plan is None else plan.delta
    parts += [*_bounds(canaries, claimed_of(e), delta, places), *_estimates(canaries, places)]
    parts += [*_replay(_part(e.attack, "replay"), places), *_white_box(_part(e.attack, "white_box"), plan, places)]
    return [*parts, *_membership(_part(e.attack, "imia"), plan, places)]


def _another(e: Evidence, attack: Mapping[str, Any]) -> str | None:
    """The run or plan that an attack was made on, if it is not the audited one; an old one proves nothing of this."""
    plan, run = plan_of(e), None if e.server is None else e.server.run
    if run is not None and attack.get("run") != run:
        return short(attack.get("run"), 60)
    if plan is not None and attack.get("plan") != plan.digest():
        return short(attack.get("plan"), 64)
    return None


def _bounds(
    canaries: Mapping[str, Any], claimed: float | None, delta: float | None, places: Sequence[Place]
) -> Iterator[Finding]:
    caps: list[float] = []
    unread = 0
    confidence = number(canaries.get("confidence"))
    for bound in _list(canaries, "bounds")[:MOST_BOUNDS]:
        values = _bound(bound)
        lower, cap = number(values["bound"]), number(values["cap"])
        if lower is None or cap is None or claimed is None or not 0.5 < (confidence or 0.0) < 1.0 or not _counts(bound):
            unread += 1
            continue
        counted = None if delta is None or confidence is None else _counted(bound, delta, confidence)
        if counted is None:
            unread += 1  # of a method, or so many guesses, that nobody here can count again
            continue
        if not (_near(lower, counted[0]) and _near(cap, counted[1])):
            told = {"counted": counted[0], "counted_cap": counted[1]}
            yield Finding(9, "bound-as-counted", "fail", {**values, **told}, tuple(places))
        caps.append(counted[1])
        outcome: Outcome = "fail" if lower > claimed else "pass"
        yield Finding(
            9, "lower-bound", outcome, {**values, "claimed": claimed, "confidence": confidence}, tuple(places)
        )
    if unread or not caps:
        yield found(9, "lower-bound", "cannot tell", places)
    if not caps or claimed is None:
        return
    check = "power" if max(caps) >= claimed else "power-below"
    yield found(9, check, "pass", places, cap=max(caps), claimed=claimed)


def _bound(bound: Mapping[str, Any]) -> dict[str, Value]:
    return {
        "method": short(bound.get("method")),
        "view": short(bound.get("view")),
        "bound": number(bound.get("epsilon")),
        "canaries": _whole(bound.get("canaries")),
        "guesses": _whole(bound.get("guesses")),
        "right": _whole(bound.get("right")),
        "cap": number(bound.get("power_cap")),
        "assumes": short(bound.get("assumes"), 300),
    }


def _counts(bound: Mapping[str, Any]) -> bool:
    """Whether right <= guesses <= canaries: anything else was never counted."""
    right, guesses, canaries = (_whole(bound.get(name)) for name in ("right", "guesses", "canaries"))
    return right is not None and guesses is not None and canaries is not None and 0 <= right <= guesses <= canaries


def _counted(bound: Mapping[str, Any], delta: float, confidence: float) -> tuple[float, float] | None:
    """The bound and its power cap again, from how many guesses were right; None = they cannot be told."""
    canaries, guesses, right = (_whole(bound.get(name)) or 0 for name in ("canaries", "guesses", "right"))
    method = short(bound.get("method"))
    made = [least_epsilon(method, canaries, guesses, count, delta, confidence) for count in (right, guesses)]
    return None if made[0] is None or made[1] is None else (made[0], made[1])


def _near(told: float, counted: float) -> bool:
    return abs(told - counted) <= NEAR * max(counted, 0.1)


def _estimates(canaries: Mapping[str, Any], places: Sequence[Place]) -> Iterator[Finding]:
    for estimate in _list(canaries, "estimates"):
        value = number(estimate.get("epsilon"))
        if value is not None:
            method, view = short(estimate.get("method")), short(estimate.get("view"))
            yield found(9, "estimate", "pass", places, method=method, view=view, estimate=value)


def _replay(part: Mapping[str, Any], places: Sequence[Place]) -> Iterator[Finding]:
    """Record and replay on neighbouring data: one user gone changes that user's part, by its clip at most."""
    checked, said = _whole(part.get("checked")), part.get("outcome")
    largest, allowed = number(part.get("largest_change")), number(part.get("allowed"))
    differences = part.get("differences")
    if not checked or largest is None or allowed is None or not isinstance(differences, list):
        yield found(9, "record-replay", "cannot tell", places)
        return
    values: dict[str, Value] = {"checked": checked, "largest": largest, "allowed": allowed}
    if said == "pass" and largest <= allowed * (1.0 + 1e-9) and not differences:
        yield Finding(9, "record-replay", "pass", values, tuple(places))
        return
    values["differences"] = "; ".join(short(one, 100) for one in differences[:3])
    yield Finding(9, "record-replay", "fail", values, tuple(places))


def _white_box(part: Mapping[str, Any], plan: PrivacyPlan | None, places: Sequence[Place]) -> Iterator[Finding]:
    """The noise that the code at hand draws has the deviation and the shape that the plan names, in all it pays for."""
    releases = _list(part, "releases")
    planned = {} if plan is None else _planned(plan)
    if not releases or not set(planned).issubset(short(one.get("release")) for one in releases):
        yield found(9, "white-box", "cannot tell", places)
        return
    wrong = [one for one in releases if not _honest(one, planned)]
    if part.get("outcome") != "pass" and not wrong:
        wrong = releases  # the file says that something failed and not what
    if wrong:
        numbers = {name: number(wrong[0].get(key)) for name, key in WHITE_BOX.items()}
        yield found(9, "white-box", "fail", places, release=short(wrong[0].get("release")), **numbers)
        return
    names = ", ".join(short(one.get("release")) for one in releases[:8])
    yield found(9, "white-box", "pass", places, releases=names)


def _planned(plan: PrivacyPlan) -> dict[str, float]:
    """Kind of release -> deviation of the noise that one call of the code must draw, grid units."""

    def sigma(kind: Release) -> float:
        if plan.trust == "local" and kind == "update":
            made = plan.update
            return made.noise_multiplier * made.steps * math.sqrt(made.inner_steps)
        return plan.sum_sigma(kind, plan.smallest_cohort) if plan.trust == "central" else plan.share_sigma(kind)

    return {kind: sigma(kind) for kind in RELEASES if plan.mechanism(kind).participations}


def _honest(one: Mapping[str, Any], planned: Mapping[str, float]) -> bool:
    """Whether one kind of release passed, by its own numbers and by the plan's too."""
    p, sigma, measured = (number(one.get(key)) for key in ("chi_square_p", "sigma", "measured"))
    spread = number(one.get("variance_p", 1.0))
    if one.get("outcome") != "pass" or sigma is None or measured is None:
        return False
    if p is None or spread is None or min(p, spread) < FALSE_ALARM:
        return False
    if not close(sigma, planned.get(short(one.get("release")), sigma)):
        return False
    return abs(measured - sigma) <= OFF * sigma


def _membership(part: Mapping[str, Any], plan: PrivacyPlan | None, places: Sequence[Place]) -> Iterator[Finding]:
    """What the server sees tells members apart no better than epsilon allows, and plainly without protection."""
    rows = {short(row.get("mode")): row for row in _list(part, "modes")}
    plain = rows.get("none")
    shown = None if plain is None else number(plain.get("low"))
    if plain is None or shown is None or shown < PLAIN:
        yield found(9, "membership", "cannot tell", places)
    else:
        yield Finding(9, "membership-open", "pass", _advantage(plain), tuple(places))
    for mode in MODES[1:]:
        row = rows.get(mode)
        if row is None:
            continue
        values = _advantage(row)
        low, implied = number(values["low"]), _implied(row, plan)
        if low is None:
            yield found(9, "membership", "cannot tell", places)
        elif (shown is not None and shown >= PLAIN) or (implied is not None and low > implied):
            outcome: Outcome = "fail" if implied is not None and low > implied else "pass"
            yield Finding(9, "membership", outcome, {"mode": mode, **values, "implied": implied}, tuple(places))


def _implied(row: Mapping[str, Any], plan: PrivacyPlan | None) -> float | None:
    """The largest advantage that epsilon allows: what the file says, and never more than the plan's own noise does.

    One item more or less of a user moves a clipped contribution by up to twice the clip: four times the rho.
    """
    stated = number(row.get("implied"))
    if plan is None or plan.epsilon is None:
        return stated
    if row.get("mode") == "distributed":
        plan = replace(plan, update=replace(plan.update, inner_steps=1))
    rounds = min(_whole(row.get("rounds")) or plan.rounds, plan.rounds)
    rho = plan.claimed({"update": max(1, rounds)}) * (1.0 if plan.unit == "interaction" else 4.0)
    epsilon = upper_bound(rho, plan.delta)
    most = min(1.0, math.tanh(epsilon / 2.0) + 2.0 * plan.delta / (1.0 + math.exp(min(epsilon, 700.0))))
    return most if stated is None else min(stated, most)


def _advantage(row: Mapping[str, Any]) -> dict[str, Value]:
    return {name: number(row.get(name)) for name in ("advantage", "low", "high")}


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name)
    return part if isinstance(part, Mapping) else {}


def _list(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = content.get(name)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15 else None
