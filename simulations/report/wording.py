"""Numbers and privacy claims in words: the sentences that a report or a comparison prints.

Every claim names its unit, adjacency and trust; an epsilon is rounded up, never down, because it is an upper bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from simulations.report.folder import Json, Run, dig, mapping, number, strings

UNITS = {
    "user": "per user (a person's whole history)",
    "interaction": "per interaction (one event of a person, not the person)",
}
ADJACENCIES = {"zero-out": "zero-out adjacency: what is protected may be replaced by nothing"}
TRUSTS = {
    "local": "trust: local, each client adds all of the noise itself",
    "distributed": "trust: distributed, each client adds a share of the noise before anything is summed",
    "central": "trust: central, the server adds the noise, so readers of results are protected and the server is not",
}
STOPS = {
    "finished": "Finished",
    "budget exhausted": "Stopped: budget exhausted",
    "no quorum": "Stopped: too few clients answered",
    "no contexts": "Stopped: no contexts to read histories by",
    "interrupted": "Interrupted",
}


@dataclass(frozen=True)
class Privacy:
    """What a run promises, in words.

    ``state`` is "claimed" (an epsilon stands), "spending" (a run without a summary: spent so far), "none" (no
    differential privacy at all) or "unknown" (nothing recorded). ``epsilon`` is None in the last two.
    """

    state: str
    epsilon: float | None
    unit: str
    trust: str
    sentence: str
    claims: tuple[tuple[str, str], ...]
    covers: str
    not_covered: tuple[str, ...]
    tuning: bool | None
    secure_aggregation: str
    unmasked: bool


def fixed(value: object, digits: int = 3) -> str:
    """Write a number with fixed digits; an em dash for what is missing."""
    known = number(value)
    return "—" if known is None else f"{known:.{digits}f}"


def upper(value: object) -> str:
    """Write an epsilon: two digits, rounded up; "none" for a missing claim."""
    known = number(value)
    return "none" if known is None else f"{math.ceil(known * 100 - 1e-7) / 100:.2f}"


def count(value: object) -> str:
    """Write a whole number with thin thousands; an em dash for what is missing."""
    known = number(value)
    return "—" if known is None else f"{known:,.0f}".replace(",", "\u2009")


def duration(seconds: object) -> str:
    """Write seconds for a person: "0.8 s", "3 min 12 s", "2 h 05 min"."""
    known = number(seconds)
    if known is None:
        return "—"
    if known < 60:
        return f"{known:.1f} s" if known < 10 else f"{known:.0f} s"
    minutes, rest = divmod(round(known), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def data_size(value: object) -> str:
    """Write bytes in decimal units: "812 B", "4.2 MB"."""
    known = number(value)
    if known is None:
        return "—"
    for unit in ("B", "kB", "MB", "GB"):
        if known < 1000:
            return f"{known:.0f} {unit}" if unit == "B" else f"{known:.1f} {unit}"
        known /= 1000
    return f"{known:.1f} TB"


def small(value: object) -> str:
    """Write a delta: "1e-5"."""
    known = number(value)
    return "not recorded" if known is None else f"{known:g}".replace("e-0", "e-")


def privacy(run: Run) -> Privacy:
    """Put the run's privacy claim into words; the summary speaks first, the configuration fills in."""
    summary = mapping(run.summary)
    state, epsilon = _state(run)
    unit = _word(run, "unit")
    trust = _word(run, "trust")
    tuning = summary.get("covers_tuning")
    secure = str(summary.get("secure_aggregation") or "not recorded")
    return Privacy(
        state=state,
        epsilon=epsilon,
        unit=unit,
        trust=trust,
        sentence=_sentence(run, state, epsilon),
        claims=_claims(summary) if state == "claimed" else (),
        covers=str(summary.get("covers") or ""),
        not_covered=strings(summary.get("not_covered")),
        tuning=tuning if isinstance(tuning, bool) else None,
        secure_aggregation=secure,
        unmasked=secure.startswith("ideal"),
    )


def _word(run: Run, key: str) -> str:
    value = mapping(run.summary).get(key) or dig(run.config, "privacy", key)
    return value if isinstance(value, str) else "not recorded"


def _state(run: Run) -> tuple[str, float | None]:
    """The claim's state and its epsilon; under central trust only recipients are promised anything."""
    configured = dig(run.config, "privacy", "epsilon")
    if run.summary is not None:
        claims = mapping(run.summary.get("epsilon_claims"))
        found = [number(run.summary.get("epsilon")), number(claims.get("everyone")), number(claims.get("recipients"))]
        stated = next((epsilon for epsilon in found if epsilon is not None), None)
        return ("none", None) if stated is None else ("claimed", stated)
    spent = [number(dig(record, "epsilon", "everyone")) for record in run.rounds]
    known = [epsilon for epsilon in spent if epsilon is not None]
    if known:
        return "spending", max(known)
    return ("none" if configured == "none" else "unknown"), None


def _sentence(run: Run, state: str, epsilon: float | None) -> str:
    if epsilon is None:
        return ""
    summary = mapping(run.summary)
    unit, trust, adjacency = (_word(run, key) for key in ("unit", "trust", "adjacency"))
    delta = summary.get("delta") or dig(run.config, "privacy", "delta")
    participations = number(summary.get("participations"))
    parts = [
        f"ε = {upper(epsilon)} at δ = {small(delta)}",
        UNITS.get(unit, f"unit {unit}"),
        ADJACENCIES.get(adjacency, f"adjacency {adjacency}"),
        TRUSTS.get(trust, f"trust {trust}"),
    ]
    if participations is not None:
        parts.append(f"each client in at most {count(participations)} rounds")
    lead = "Spent so far: " if state == "spending" else ""
    accountant = summary.get("accountant")
    tail = f" Accountant: {accountant}." if accountant else " No accountant is recorded."
    other = mapping(summary.get("second_accountant"))
    if other:
        tail += f" Second accountant, {other['name']}: PRV {upper(other['prv'])}, RDP {upper(other['rdp'])}."
    return lead + "; ".join(parts) + "." + tail


def _claims(summary: Json) -> tuple[tuple[str, str], ...]:
    """Rows (against whom, epsilon) of the claim, the collusion case last."""
    said = mapping(summary.get("epsilon_claims"))
    names = {
        "everyone": "everybody who sees what is released",
        "recipients": "recipients of models and reports",
        "recipients_amplified": "recipients who see neither cohorts nor their sizes",
        "server": "the server",
    }
    rows = [(names[key], upper(said[key])) for key in names if key in said]
    if said.get("recipients_amplified") is None:  # only Poisson cohorts under trust central have such a claim
        rows = [row for row in rows if row[0] != names["recipients_amplified"]]
    if "epsilon_if_others_collude" in summary:
        alone = summary["epsilon_if_others_collude"]
        rows.append(("the server, if every other client belongs to it", upper(alone)))
    return tuple(rows)
