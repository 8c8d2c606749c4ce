"""Every decision about the policy again, from the lines of a ledger alone, bit for bit.

Each decision line holds all that the controller saw and remembered; a replay decides again and compares. Between lines
it checks that nothing changed unseen: the policy, the memory and the waiting proposal that one line leaves are those
that the next begins with. What a line says of itself that no replay can check is the sight: the sums behind it are
hashed in the result lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from shared.errors import FedrecallError
from shared.policy.control import after_order, decide
from shared.policy.memory import Memory, memory_from_dict, memory_to_dict
from shared.policy.orders import Proposal, apply_order, order_from_dict, proposal_to_dict, with_version
from shared.policy.recall_policy import RecallPolicy, policy_from_dict, policy_to_dict
from shared.policy.sight import Targets, sight_from_dict

Event = Mapping[str, Any]

RULES: Final = ("controller", "targets", "approval")  # the same in every decision of a run


@dataclass(frozen=True)
class Course:
    """Where the policy stands between two lines.

    Attributes:
        policy, memory, pending: after the last line; None = no line yet, or nothing waits.
        versions: every policy that was in force.
        rules: controller, targets and approval as the first decision had them.
    """

    policy: RecallPolicy | None = None
    memory: Memory | None = None
    pending: Proposal | None = None
    versions: Mapping[int, RecallPolicy] | None = None
    rules: Mapping[str, Any] | None = None


def replay(events: Iterable[Event]) -> list[str]:
    """What does not replay, a sentence each; empty = every decision and order is what it must be.

    A decision is lost when the process dies before the checkpoint that closes its round: without a seed the round is
    run again, decided or aborted, and what comes next begins where the lost decision began. It shows by what follows:
    an intent or a decision of that round or an earlier one, or an order given before that round.

    Args:
        events: of one server's ledger, in order. Types other than "decision", "order" and "intent" are passed over; a
            ledger without its intents replays too, unless a lost decision's round was aborted when it was run again.
    """
    wrong: list[str] = []
    course = before = Course()
    decided: int | None = None
    for event in events:
        if event.get("type") == "intent" and decided is not None and _is_again(event.get("round"), decided):
            course, decided = before, None
        if event.get("type") not in {"decision", "order"}:
            continue
        where = f"{event['type']} of round {event.get('round')}"
        try:
            lost = decided is not None and event["round"] < decided + (event["type"] == "decision")
            start = before if lost else course
            after, found = (_decision if event["type"] == "decision" else _order)(start, event)
        except (FedrecallError, KeyError, TypeError, ValueError, AttributeError) as error:
            wrong.append(f"{where}: cannot be read: {type(error).__name__}: {error}")
            continue
        wrong += [f"{where}: {what}" for what in found]
        before, course = start, after
        decided = event["round"] if event["type"] == "decision" else None
    return wrong


def _is_again(round_: object, decided: object) -> bool:
    """Whether a round that a line names is one that was decided already."""
    return type(round_) is int and type(decided) is int and round_ <= decided


def _decision(course: Course, event: Event) -> tuple[Course, list[str]]:
    policy, memory = policy_from_dict(event["before"]), memory_from_dict(event["memory"])
    rules = {name: event[name] for name in RULES}
    wrong = _continued(course, event["before"], event["memory"])
    if course.policy is None and (memory != Memory(policy) or policy.version != 1):
        wrong.append("the first decision does not begin with version 1 and an empty memory")
    if course.rules not in (None, rules):
        wrong.append("controller, targets or approval are not those of the decisions before")
    decided = decide(
        event["round"],
        event["controller"],
        policy,
        memory,
        None if event["sight"] is None else sight_from_dict(event["sight"]),
        Targets(**event["targets"]),
        last=event["last"],
        pending=course.pending,
        approval=event["approval"],
    )
    step, proposal = decided.step, decided.proposal
    made = {
        "after": policy_to_dict(step.policy),
        "decision": step.decision,
        "reason": step.reason,
        "proposal": None if proposal is None else proposal_to_dict(proposal),
    }
    wrong += _compared(made, event)
    versions = with_version(with_version(course.versions or {}, policy), step.policy)
    return Course(step.policy, step.memory, proposal or course.pending, versions, course.rules or rules), wrong


def _order(course: Course, event: Event) -> tuple[Course, list[str]]:
    policy = policy_from_dict(event["before"])
    memory = course.memory or Memory(policy)
    wrong = _continued(course, event["before"], None)
    versions = with_version(course.versions or {}, policy)
    after, pending, outcome, reason = policy, course.pending, "refused", event["reason"]
    if event["order"] is not None:
        ruling = apply_order(order_from_dict(event["order"]), policy, course.pending, versions)
        after, pending, outcome, reason = ruling.policy, ruling.pending, ruling.outcome, ruling.reason
        memory = after_order(memory, ruling)
    made = {
        "after": policy_to_dict(after),
        "pending": None if pending is None else proposal_to_dict(pending),
        "memory": memory_to_dict(memory),
        "outcome": outcome,
        "reason": reason,
    }
    wrong += _compared(made, event)
    return replace(course, policy=after, memory=memory, pending=pending, versions=with_version(versions, after)), wrong


def _continued(course: Course, before: Event, memory: Event | None) -> list[str]:
    """What changed between two lines."""
    wrong = []
    if course.policy is not None and policy_to_dict(course.policy) != before:
        wrong.append("it begins with another policy than the line before left")
    if course.memory is not None and memory is not None and memory_to_dict(course.memory) != memory:
        wrong.append("it begins with another memory than the line before left")
    return wrong


def _compared(made: Mapping[str, Any], event: Event) -> list[str]:
    different = [name for name, value in made.items() if value != event[name]]
    return [f"{name} is {_short(event[name])}, a replay gives {_short(made[name])}" for name in different]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
