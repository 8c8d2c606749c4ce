"""How a policy, its changes and its history read; for the terminal and ``--json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from server.oversight import LEDGER, Standing
from shared.policy.orders import Proposal
from shared.policy.recall_policy import policy_to_dict
from shared.policy.replay import replay
from shared.privacy.chain import read_ledger
from simulations.report.policies import changes

Row = dict[str, Any]


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two policies as JSON, knob by knob, as "depth: 200 -> 300"."""
    return [f"{name}: {old} -> {new}" for name, old, new in changes(before, after)]


def origins(events: Iterable[Mapping[str, Any]]) -> dict[int, Row]:
    """Where each version but the first came from: round, who, why; the later word counts.

    Args:
        events: decisions and orders, oldest first.
    """
    out: dict[int, Row] = {}
    for event in events:
        after = event["after"]["version"]
        if after == event["before"]["version"]:
            continue
        order = event.get("order")
        by = f"controller {event['controller']}" if order is None else f"{order['who']}, order {order['kind']}"
        out[after] = {"round": event["round"], "by": by, "reason": event["reason"]}
        if order is not None:
            out[after]["why"] = order["why"]
    return out


def unlike(folder: Path, stands: Standing) -> list[str]:
    """What does not replay of the ledger, as far as the checkpoint counts it; a sentence each.

    Raises:
        LedgerError: the ledger is missing or broken.
    """
    lines = islice(read_ledger(folder / LEDGER), stands.state.ledgers.get(LEDGER, 0))
    return replay(line.event for line in lines)


def overview(stands: Standing, wrong: Sequence[str]) -> Row:
    """All of ``policy show``, as JSON.

    Args:
        stands: how the policy stands.
        wrong: of :func:`unlike`.
    """
    state = stands.state
    came = origins(stands.events)
    first = {"round": 0, "by": "configuration", "reason": "the first policy"}
    return {
        "round": state.round,
        "stopped": state.stopped,
        "in_force": state.policy.version,
        "frozen": state.policy.frozen,
        "policy": policy_to_dict(state.policy),
        "versions": [
            {"version": number, **came.get(number, first), "policy": policy_to_dict(policy)}
            for number, policy in sorted(stands.versions.items())
        ],
        "proposal": None if state.pending is None else _proposal(state.pending, policy_to_dict(state.policy)),
        "orders": [_order(event) for event in stands.events if event["type"] == "order"],
        "waiting": [
            {"file": name, "order": None if order is None else order.kind} for name, order in stands.waiting.items()
        ],
        "replay": {"lines": len(stands.events), "wrong": list(wrong)},
    }


def _proposal(proposal: Proposal, in_force: Mapping[str, Any]) -> Row:
    policy = policy_to_dict(proposal.policy)
    return {
        "id": proposal.id,
        "round": proposal.round,
        "decision": proposal.decision,
        "reason": proposal.reason,
        "changes": changed(in_force, policy),
        "policy": policy,
    }


def _order(event: Mapping[str, Any]) -> Row:
    given = event["order"] or {}
    said = {name: given.get(name) for name in ("kind", "who", "when", "why")}
    return {"file": event["file"], "round": event["round"], **said, **{k: event[k] for k in ("outcome", "reason")}}


def told(view: Row, run: str) -> list[str]:
    """All of ``policy show``, as lines for a terminal.

    Args:
        view: of :func:`overview`.
        run: the folder, as the person named it.
    """
    frozen = ", frozen: no controller moves it" if view["frozen"] else ""
    ended = "" if view["stopped"] is None else f"; the run has ended ({view['stopped']})"
    lines = [f"After round {view['round']}: version {view['in_force']} is in force{frozen}{ended}.", "", "Versions"]
    before: Row | None = None
    for version in view["versions"]:
        mark = "*" if version["version"] == view["in_force"] else " "
        lines.append(f"{mark} {version['version']:3d}  round {version['round']}, {version['by']}: {version['reason']}")
        if version.get("why"):
            lines.append(f"       because: {version['why']}")
        lines += [f"       {change}" for change in ([] if before is None else changed(before, version["policy"]))]
        before = version["policy"]
    return lines + _told_proposal(view["proposal"], run) + _told_orders(view) + _told_replay(view)


def _told_proposal(proposal: Row | None, run: str) -> list[str]:
    if proposal is None:
        return ["", "No proposal waits."]
    return [
        "",
        f"Proposal {proposal['id']} of round {proposal['round']} ({proposal['decision']}): {proposal['reason']}",
        *(f"       {change}" for change in proposal["changes"]),
        f"       answer: fedrecall-sim policy approve {run} --proposal {proposal['id']}   (or reject)",
    ]


def _told_orders(view: Row) -> list[str]:
    lines = ["", "Orders"] if view["orders"] or view["waiting"] else []
    for order in view["orders"]:
        who = f"{order['who']}, {order['kind']}" if order["kind"] else ascii(order["file"])[1:-1]
        lines.append(f"  after round {order['round']}, {who}: {order['outcome']}; {order['reason']}")
    lines += [
        f"  waits: {ascii(each['file'])[1:-1]}" + ("" if each["order"] else ", which is no order")
        for each in view["waiting"]
    ]
    return lines


def _told_replay(view: Row) -> list[str]:
    lines, wrong = view["replay"]["lines"], view["replay"]["wrong"]
    if not wrong:
        return ["", f"{lines} decisions and orders, all replay."]
    return ["", f"{lines} decisions and orders; these do not replay:", *(f"  {ascii(each)[1:-1]}" for each in wrong)]
