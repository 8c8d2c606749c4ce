"""What a person may order about the policy, and what comes of it; pure, so that an auditor replays it from the ledger.

The rules, a clause each in :func:`apply_order`:

1. ``approve`` puts the waiting proposal in force, ``reject`` drops it; both name it by its id, so that nobody answers
   another one than they saw. Nothing is approved while the policy is frozen.
2. ``freeze`` keeps every controller away from the policy, ``thaw`` lets it back. Devices do the same either way, so the
   version stays.
3. ``rollback`` puts an earlier version's content in force, as a new version: history only grows. It names the version
   that was in force when it was ordered, and drops a waiting proposal, which was made for another policy. A frozen
   policy stays frozen.
4. What does not fit is refused with a sentence, and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, cast, get_args

from shared.errors import ProtocolError
from shared.policy.recall_policy import RecallPolicy, policy_from_dict, policy_to_dict

OrderKind = Literal["approve", "reject", "freeze", "thaw", "rollback"]
Outcome = Literal["approved", "rejected", "frozen", "thawed", "rolled back", "refused"]

LONGEST: Final[Mapping[str, int]] = {"id": 100, "who": 100, "when": 40, "why": 500, "proposal": 40}  # characters
_NUMBERS: Final = ("version", "seen")
_NEEDS: Final[Mapping[OrderKind, tuple[str, ...]]] = {
    "approve": ("proposal",),
    "reject": ("proposal",),
    "freeze": (),
    "thaw": (),
    "rollback": ("version", "seen"),
}


@dataclass(frozen=True)
class Order:
    """What a person wants.

    Attributes:
        id: its name; none is dealt with twice.
        kind: what to do.
        who, when, why: as the person said it; nothing proves it but the right to write into the run's folder.
        proposal: which proposal is answered (approve, reject).
        version: which version is to come back (rollback).
        seen: the version in force when the order was given (rollback).
    """

    id: str
    kind: OrderKind
    who: str
    when: str
    why: str
    proposal: str | None = None
    version: int | None = None
    seen: int | None = None


@dataclass(frozen=True)
class Proposal:
    """A controller's move that waits for a person.

    Attributes:
        id: eight hexadecimal digits of a hash of what is proposed.
        round: in which it was made.
        base: the version in force, which stays until a person approves.
        policy: what is wanted.
        memory: the controller's memory once it is in force, as JSON.
        decision, reason: the controller's.
    """

    id: str
    round: int
    base: int
    policy: RecallPolicy
    memory: Mapping[str, Any]
    decision: str
    reason: str


@dataclass(frozen=True)
class Ruling:
    """What comes of an order.

    Attributes:
        outcome: what was done.
        reason: one sentence: what changed, or why nothing did.
        policy: in force from now on.
        pending: the proposal that waits from now on.
        proposal: the one that was approved, rejected or dropped.
    """

    outcome: Outcome
    reason: str
    policy: RecallPolicy
    pending: Proposal | None
    proposal: Proposal | None = None


def propose(
    round_: int, in_force: RecallPolicy, wanted: RecallPolicy, memory: Mapping[str, Any], decision: str, reason: str
) -> Proposal:
    """A controller's step, put aside until a person approves it.

    Args:
        round_: of the decision.
        in_force: the policy that stays.
        wanted: the policy that the controller would have put in force.
        memory: the controller's memory after the step, as JSON.
        decision, reason: the step's.
    """
    what = json.dumps([round_, in_force.version, policy_to_dict(wanted), reason], sort_keys=True)
    name = hashlib.sha256(what.encode()).hexdigest()[:8]
    return Proposal(name, round_, in_force.version, wanted, memory, decision, reason)


def waiting(proposal: Proposal) -> str:
    """The sentence for rounds in which nothing else is decided."""
    return f"proposal {proposal.id} of round {proposal.round} waits for a person's approval"


def apply_order(
    order: Order, policy: RecallPolicy, pending: Proposal | None, versions: Mapping[int, RecallPolicy]
) -> Ruling:
    """Carry out one order, whole or not at all; the rules are on top of this module.

    Args:
        order: as :func:`order_from_dict` checks it.
        policy: in force.
        pending: the proposal that waits.
        versions: every version that was ever in force; see :func:`versions_of`.
    """
    if order.kind in {"approve", "reject"}:
        return _answer(order, policy, pending)
    if order.kind == "rollback":
        return _roll_back(order, policy, pending, versions)
    freeze = order.kind == "freeze"
    if policy.frozen == freeze:
        reason = "the policy is frozen already" if freeze else "the policy is not frozen"
        return Ruling("refused", reason, policy, pending)
    outcome: Outcome = "frozen" if freeze else "thawed"
    what = "no controller moves it" if freeze else "the controller may move it again"
    reason = f"version {policy.version} {outcome}: {what}"
    return Ruling(outcome, reason, replace(policy, frozen=freeze), pending)


def _answer(order: Order, policy: RecallPolicy, pending: Proposal | None) -> Ruling:
    if pending is None:
        gone = "it was answered, dropped by a rollback, or never made"
        return Ruling("refused", f"proposal {order.proposal} does not wait: {gone}", policy, None)
    if order.proposal != pending.id:
        return Ruling("refused", f"the proposal that waits is {pending.id}, not {order.proposal}", policy, pending)
    if order.kind == "reject":
        return Ruling(
            "rejected", f"proposal {pending.id} dropped: version {policy.version} stays", policy, None, pending
        )
    if policy.frozen:
        return Ruling("refused", "the policy is frozen: thaw it before anything is approved", policy, pending)
    after = replace(pending.policy, version=policy.version + 1, frozen=False)
    reason = f"proposal {pending.id} approved: version {policy.version} -> {after.version}"
    return Ruling("approved", reason, after, None, pending)


def _roll_back(
    order: Order, policy: RecallPolicy, pending: Proposal | None, versions: Mapping[int, RecallPolicy]
) -> Ruling:
    wanted, seen = cast(int, order.version), order.seen
    if seen != policy.version:
        reason = f"version {policy.version} is in force, not {seen} as when the order was given"
    elif wanted == policy.version:
        reason = f"version {wanted} is in force already"
    elif wanted not in versions:
        reason = f"version {wanted} was never in force; known are {', '.join(map(str, sorted(versions)))}"
    else:
        back = replace(versions[wanted], version=policy.version + 1, frozen=policy.frozen)
        dropped = "" if pending is None else f"; proposal {pending.id} dropped"
        reason = f"version {policy.version} -> {back.version}, as it was at version {wanted}{dropped}"
        return Ruling("rolled back", reason, back, None, pending)
    return Ruling("refused", reason, policy, pending)


def with_version(versions: Mapping[int, RecallPolicy], policy: RecallPolicy) -> dict[int, RecallPolicy]:
    """The versions and one more, none of them frozen: freezing is not part of what a version is."""
    return {**versions, policy.version: replace(policy, frozen=False)}


def versions_of(events: Iterable[Mapping[str, Any]], in_force: RecallPolicy) -> dict[int, RecallPolicy]:
    """Every version that was in force, from a ledger's events.

    Without a seed a killed round is decided again: the later word counts, and what is newer than ``in_force`` was not.

    Raises:
        ProtocolError: a line whose policy cannot be read.
    """
    versions: dict[int, RecallPolicy] = {}
    for event in events:
        if event["type"] in {"decision", "order"}:
            for name in ("before", "after"):
                versions = with_version(versions, policy_from_dict(event[name]))
    older = {number: policy for number, policy in versions.items() if number < in_force.version}
    return with_version(older, in_force)


def order_to_dict(order: Order) -> dict[str, Any]:
    """Plain JSON types; inverse of :func:`order_from_dict`."""
    return asdict(order)


def order_from_dict(raw: object) -> Order:
    """An order from JSON, every field checked.

    Raises:
        ProtocolError: names the field, its value and what would be right.
    """
    names = {f.name for f in fields(Order)}
    if not isinstance(raw, Mapping) or set(raw) != names:
        raise ProtocolError(f"order: expected exactly the fields {sorted(names)}")
    kind = raw["kind"]
    if kind not in get_args(OrderKind):
        raise ProtocolError(f"order.kind: {str(kind)[:40]!r}, must be one of {', '.join(get_args(OrderKind))}")
    needs = _NEEDS[kind]
    for name, longest in LONGEST.items():
        if name != "proposal" or name in needs:
            _check_text(name, raw[name], longest)
    for name in _NUMBERS:
        if name in needs and (type(raw[name]) is not int or raw[name] < 1):
            raise ProtocolError(f"order.{name}: {str(raw[name])[:40]!r}, must be a version's number, 1 or more")
    for name in ("proposal", *_NUMBERS):
        if name not in needs and raw[name] is not None:
            raise ProtocolError(f"order.{name}: {str(raw[name])[:40]!r}, means nothing to {kind}; must be null")
    return Order(**cast(dict[str, Any], raw))


def _check_text(name: str, value: object, longest: int) -> None:
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ProtocolError(
            f"order.{name}: {ascii(value)[:60]}, must be at most {longest} printable characters on one line"
        )


def proposal_to_dict(proposal: Proposal) -> dict[str, Any]:
    """Plain JSON types; inverse of :func:`proposal_from_dict`."""
    return {**asdict(proposal), "policy": policy_to_dict(proposal.policy), "memory": dict(proposal.memory)}


def proposal_from_dict(raw: object) -> Proposal:
    """A proposal read back from a checkpoint or a ledger.

    Raises:
        ProtocolError: it is no proposal.
    """
    names = {f.name for f in fields(Proposal)}
    if not isinstance(raw, Mapping) or set(raw) != names:
        raise ProtocolError(f"proposal: expected exactly the fields {sorted(names)}")
    texts = all(isinstance(raw[name], str) for name in ("id", "decision", "reason"))
    numbers = all(type(raw[name]) is int for name in ("round", "base"))
    if not (texts and numbers and isinstance(raw["memory"], Mapping)):
        raise ProtocolError(
            "proposal: id, decision and reason are text, round and base whole numbers, memory a mapping"
        )
    return Proposal(**cast(dict[str, Any], {**raw, "policy": policy_from_dict(raw["policy"])}))
