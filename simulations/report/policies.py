"""What a run's policy was, who changed it and why: versions, decisions, orders of persons, prices, shadow scores.

Pure functions of a run's records. A record's ``policy`` is the one of its round, its ``decision`` made the policy after
it, its ``orders`` were carried out before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from simulations.report import charts
from simulations.report.folder import Json, Run, dig, mapping, number, strings

Changes = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Version:
    """One policy version in force: since when, what changed, and why it came."""

    version: str
    since: int
    until: int
    decision: str
    reason: str
    changes: Changes
    decisions: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Decision:
    """One line of the decision log: a controller's, after its round, or a person's, before it."""

    when: str
    version: str
    decision: str
    who: str
    reason: str


@dataclass(frozen=True)
class Proposal:
    """The move that waited for a person after the last round; ``changes`` against the policy of that round."""

    id: str
    round: str
    reason: str
    changes: Changes


@dataclass(frozen=True)
class Score:
    """A neighbouring policy's recall minus that of the policy in force, as one report saw it."""

    round: int
    name: str
    difference: str
    interval: str
    verdict: str
    svg: Markup


def flat(policy: Json, prefix: str = "") -> dict[str, object]:
    """Name nested fields with dots: ``{"weights": {"text": 5.0}}`` becomes ``{"weights.text": 5.0}``.

    Prices per bucket, a number for each of thousands, become how many buckets pay, and the range in logits.
    """
    fields: dict[str, object] = {}
    for key, value in policy.items():
        name = f"{prefix}{key}"
        if key == "exposure_prices":
            fields |= {f"{name}.{part}": amount for part, amount in prices(policy).items() if part != "of"}
        else:
            fields |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return fields


def prices(policy: Json) -> dict[str, float]:
    """Prices per bucket: how many buckets pay, of how many, the lowest and the highest price in logits.

    Args:
        policy: as JSON; ``exposure_prices`` is in hundredths of a logit, empty = nobody pays.
    """
    given = policy.get("exposure_prices")
    known = [number(price) or 0.0 for price in given] if isinstance(given, list) else []
    paid = [price / 100 for price in known if price > 0]
    return {
        "buckets paying": len(paid),
        "of": len(known),
        "lowest": min(paid, default=0.0),
        "highest": max(paid, default=0.0),
    }


def prices_text(policy: Json) -> str:
    """As "12 of 8192 buckets pay, 0.05 to 1.20 logits", or "nobody pays"."""
    said = prices(policy)
    if not said["buckets paying"]:
        return "nobody pays"
    many = f"{said['buckets paying']:.0f} of {said['of']:.0f} buckets pay"
    return f"{many}, {said['lowest']:.2f} to {said['highest']:.2f} logits"


def changes(before: Json, after: Json) -> Changes:
    """Rows (field, before, after) of what differs between two policies as JSON; the version is no field."""
    old, new = flat(before), flat(after)
    fields = [name for name in [*old, *(name for name in new if name not in old)] if name != "version"]
    return tuple(
        (name, _written(old.get(name)), _written(new.get(name))) for name in fields if old.get(name) != new.get(name)
    )


def versions(run: Run) -> tuple[Version, ...]:
    """List the policy versions in the order in which they ran, each with the decision or the order that made it.

    Freezing makes no version, so what an order froze or thawed is in the log only.
    """
    spans: list[list[Json]] = []
    for record in run.rounds:
        if not record.get("policy"):
            continue
        if spans and _version(spans[-1][0]) == _version(record):
            spans[-1].append(record)
        else:
            spans.append([record])
    found = []
    for place, span in enumerate(spans):
        before = spans[place - 1][-1] if place else None
        decision, reason = _origin(before, span[0])
        found.append(
            Version(
                version=_version(span[0]),
                since=span[0]["round"],
                until=span[-1]["round"],
                decision=decision,
                reason=reason,
                changes=changes(mapping((before or {}).get("policy")), mapping(span[0].get("policy"))),
                decisions=tuple(Counter(_decision(record) for record in span if _decision(record) != "none").items()),
            )
        )
    return tuple(found)


def decisions(run: Run) -> tuple[Decision, ...]:
    """List every decision of a controller and every order of a person, in order."""
    found = []
    for record in run.rounds:
        found += [
            Decision(f"before {record['round']}", str(order.get("version") or "?"), *_said(order))
            for order in _orders(record)
        ]
        if _decision(record) != "none":
            reason = str(record.get("reason") or "")
            found.append(Decision(str(record["round"]), _version(record), _decision(record), "controller", reason))
    return tuple(found)


def proposal(run: Run) -> Proposal | None:
    """Return the move that waited for a person after the last round; None = nothing did."""
    last = run.rounds[-1] if run.rounds else {}
    waits = mapping(last.get("pending"))
    if not waits:
        return None
    asked = changes(mapping(last.get("policy")), mapping(waits.get("policy")))
    return Proposal(str(waits.get("id")), str(waits.get("round")), str(waits.get("reason")), asked)


def prices_now(run: Run) -> str:
    """Say which buckets pay for exposure after the last round; empty for a run that never had prices per bucket."""
    policies = {record["round"]: mapping(record.get("policy")) for record in run.rounds}
    if not any(prices(policy)["of"] for policy in policies.values()):
        return ""
    last, most = max(policies), max(policies, key=lambda place: (prices(policies[place])["buckets paying"], place))
    said = prices_text(policies[last])
    return said if last == most else f"{said}; most in round {most}, where {prices_text(policies[most])}"


def scores(run: Run) -> tuple[Score, ...]:
    """List what neighbouring policies scored on the devices, newest report first."""
    found = []
    for record, names, differences in _reports(run):
        for place, difference in enumerate(differences):
            name = names[place] if place < len(names) else "the policy in force again"
            value, low, high = (number(dig(difference, key)) for key in ("value", "low", "high"))
            if value is not None and low is not None and high is not None:
                found.append((record["round"], name, value, low, high))
    widest = max((abs(edge) for *_, low, high in found for edge in (low, high)), default=0.0)
    return tuple(
        Score(
            round_,
            name,
            _signed(value),
            f"{_signed(low)} to {_signed(high)}",
            "better" if low > 0 else "worse" if high < 0 else "cannot be told",
            charts.whisker(value, low, high, extent=widest, label=f"{name}: {_signed(value)}"),
        )
        for round_, name, value, low, high in sorted(found, key=lambda score: -score[0])
    )


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # nothing is not negative


def _reports(run: Run) -> Iterator[tuple[Json, tuple[str, ...], list[object]]]:
    """Records whose report scored neighbours, with the neighbours' names and their scores."""
    for record in run.rounds:
        given = dig(record, "estimate", "shadows")
        if isinstance(given, list):
            names = strings(record.get("neighbours"))
            yield record, names, given


def _origin(before: Json | None, first: Json) -> tuple[str, str]:
    """What made a version, (decision, reason): an order before its first round, or else the decision before it."""
    for order in _orders(first):
        if order.get("outcome") in {"approved", "rolled back"} and str(order.get("version")) == _version(first):
            outcome, who, reason = _said(order)
            return outcome, f"{who}: {reason}"
    if before is None:
        return "start", "The policy that the run began with."
    return str(before.get("decision") or "none"), str(before.get("reason") or "no reason was logged")


def _orders(record: Json) -> tuple[Json, ...]:
    given = record.get("orders")
    return tuple(order for order in given if isinstance(order, dict)) if isinstance(given, list) else ()


def _said(order: Json) -> tuple[str, str, str]:
    """An order as (outcome, who, reason), with the person's own words behind the reason."""
    who, why = order.get("who"), order.get("why")
    reason = str(order.get("reason") or "no reason was logged")
    asked = f"order to {order.get('order')}: " if order.get("outcome") == "refused" and order.get("order") else ""
    return str(order.get("outcome")), str(who or "a file"), f"{asked}{reason}" + (f" (“{why}”)" if why else "")


def _version(record: Json) -> str:
    version = dig(record, "policy", "version")
    return "?" if version is None else str(version)


def _decision(record: Json) -> str:
    return str(record.get("decision") or "none")


def _written(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    known = number(value)
    return str(value) if known is None else f"{known:g}"
