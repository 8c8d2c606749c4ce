"""The server's whole state in one file, written atomically after every round.

One safetensors file: arrays, and the rest as JSON in its metadata. A kill leaves the old file or the new one, never
half.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from server.aggregation import OptimizerState
from server.receipts import grouped, ungrouped
from shared.encoder.spec import Floats
from shared.errors import FedrecallError, RunError
from shared.files import write_atomically
from shared.policy.memory import Memory, memory_from_dict, memory_to_dict
from shared.policy.orders import Proposal, proposal_from_dict, proposal_to_dict
from shared.policy.recall_policy import RecallPolicy, policy_from_dict, policy_to_dict
from shared.policy.sight import Seen
from shared.privacy.ledger import Receipt
from shared.privacy.plan import RELEASES, Claims, PrivacyPlan, Release, claims

Stopped = Literal["finished", "budget exhausted", "no quorum", "no contexts"]
Used = Mapping[Release, Mapping[str, int]]  # kind -> client -> intents that the server knows of; zeros are left out


@dataclass(frozen=True)
class Best:
    """The measured round that an early end would keep; ``server/ending.py`` has the rule.

    Attributes:
        round: which.
        policy: under which it was measured.
        recall: its private estimate.
        highest: the highest private estimate so far, which later rounds are compared with.
    """

    round: int
    policy: RecallPolicy
    recall: Seen
    highest: Seen


@dataclass(frozen=True)
class State:
    """What the server knows after a round.

    Attributes:
        round: last round finished; 0 = statistics only, -1 = nothing yet.
        parameters: the model.
        optimizer: the server optimizer's moments.
        prior: log private popularity.
        policy: in force for the next round.
        controller: the controller's memory.
        used: participations charged so far, by kind of release and client.
        failures: rounds in a row without a quorum.
        updates: client updates that went into the model.
        ledgers: lines of each ledger at this point, by name.
        receipts: the last one of each client.
        stopped: why the run has ended, as the ledger says; None = it goes on.
        best: the round to keep if the run ends early; None = nothing was measured yet.
        exchanges: cohorts drawn so far, by kind of release.
        aborted: exchanges of which nothing came, or of which nobody knows what came.
        pending: a move that waits for a person's approval.
        orders: what persons ordered since the last row, as ``rounds.jsonl`` will hold it.
        activity: history lengths at which the middle and the high activity group begin; (0, 0) = not known.
        peak: mean entry of the most popular bucket over histories at length one; 0 = not known.
        trending: raw ids of what is trending, hottest first, as the last refresh found it.
    """

    round: int
    parameters: Floats
    optimizer: OptimizerState
    prior: Floats
    policy: RecallPolicy
    controller: Memory
    used: Used = field(default_factory=dict)
    failures: int = 0
    updates: int = 0
    ledgers: dict[str, int] = field(default_factory=dict)
    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    stopped: Stopped | None = None
    best: Best | None = None
    exchanges: Mapping[Release, int] = field(default_factory=dict)
    aborted: int = 0
    pending: Proposal | None = None
    orders: tuple[Mapping[str, Any], ...] = ()
    activity: tuple[int, int] = (0, 0)
    peak: float = 0.0
    trending: tuple[str, ...] = ()


def save_state(state: State, path: Path) -> None:
    """Write atomically: a new file, synced, then renamed over the old one.

    Raises:
        OSError: the disk is full or read-only; the old checkpoint is untouched then.
    """
    public = {
        "round": state.round,
        "step": state.optimizer.step,
        "policy": policy_to_dict(state.policy),
        "controller": memory_to_dict(state.controller),
        "used": _used_to_lists(state.used),
        "failures": state.failures,
        "updates": state.updates,
        "ledgers": state.ledgers,
        "receipts": grouped(state.receipts),
        "stopped": state.stopped,
        "best": _best_to_dict(state.best),
        "exchanges": dict(state.exchanges),
        "aborted": state.aborted,
        "pending": None if state.pending is None else proposal_to_dict(state.pending),
        "orders": [dict(order) for order in state.orders],
        "activity": list(state.activity),
        "peak": state.peak,
        "trending": list(state.trending),
    }
    arrays = {
        "parameters": state.parameters,
        "prior": state.prior,
        "first": state.optimizer.first,
        "second": state.optimizer.second,
    }
    write_atomically(path, save(arrays, metadata={"state": json.dumps(public, sort_keys=True)}))


def load_state(path: Path) -> State:
    """Read a checkpoint.

    Raises:
        RunError: there is none, or it is broken.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            public = json.loads(file.metadata()["state"])
            arrays = {name: file.get_tensor(name) for name in ("parameters", "prior", "first", "second")}
        state = State(
            round=public["round"],
            parameters=arrays["parameters"],
            optimizer=OptimizerState(public["step"], arrays["first"], arrays["second"]),
            prior=arrays["prior"],
            policy=policy_from_dict(public["policy"]),
            controller=memory_from_dict(public["controller"]),
            used=_used_from(public["used"]),
            failures=public["failures"],
            updates=public["updates"],
            ledgers=public["ledgers"],
            receipts=ungrouped(public["receipts"]),
            stopped=public["stopped"],
            best=_best_from_dict(public["best"]),
            exchanges=public["exchanges"],
            aborted=public["aborted"],
            pending=None if public["pending"] is None else proposal_from_dict(public["pending"]),
            orders=tuple(public["orders"]),
            activity=_activity(public["activity"]),
            peak=float(public["peak"]),
            trending=_ids(public.get("trending", [])),  # checkpoints were written before there was any
        )
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, FedrecallError) as error:
        raise RunError(f"{path}: no readable checkpoint ({error})") from error
    first, second = state.optimizer.first.shape, state.optimizer.second.shape
    if first != second or len(first) != 1 or first > state.parameters.shape:
        raise RunError(f"{path}: no readable checkpoint (the optimizer's moments are not those of the parameters)")
    return state


def charge(state: State, clients: list[str], release: Release) -> State:
    """The state after ``clients`` were asked for one release of a kind: the server charges when it asks."""
    before = used_by(state, release)
    counts = {**before, **{client: before.get(client, 0) + 1 for client in clients}}
    exchanges = {**state.exchanges, release: state.exchanges.get(release, 0) + 1}
    return replace(state, used={**state.used, release: counts}, exchanges=exchanges)


def claims_so_far(plan: PrivacyPlan, state: State) -> tuple[Claims, dict[Release, int]]:
    """The printed claims for the client asked most often, and how often that was, by kind.

    An aborted exchange shows that its cohort was too small for something, so nothing is amplified any more.
    """
    most: dict[Release, int] = {kind: max(used_by(state, kind).values(), default=0) for kind in RELEASES}
    spent = claims(plan, most, state.exchanges)
    return (replace(spent, recipients_amplified=None) if state.aborted else spent), most


def used_by(state: State, release: Release) -> Mapping[str, int]:
    """Participations charged so far for one kind of release, by client; who was never asked for it is not in it."""
    return state.used.get(release, {})


def _used_to_lists(used: Used) -> dict[Release, dict[int, list[str]]]:
    """Clients that were asked as often, as one entry: there are few such numbers, however many clients."""
    lists: dict[Release, dict[int, list[str]]] = {}
    for kind, counts in used.items():
        for client, count in sorted(counts.items()):
            lists.setdefault(kind, {}).setdefault(count, []).append(client)
    return lists


def _used_from(lists: Mapping[Release, Mapping[str, list[str]]]) -> Used:
    """Inverse of :func:`_used_to_lists`, whose numbers JSON makes text."""
    return {
        kind: {client: int(count) for count, clients in sorts.items() for client in clients}
        for kind, sorts in lists.items()
    }


def _activity(raw: list[int]) -> tuple[int, int]:
    low, high = raw
    return low, high


def _ids(raw: list[str]) -> tuple[str, ...]:
    if type(raw) is not list or any(type(one) is not str for one in raw):
        raise TypeError("trending: not a list of item ids")
    return tuple(raw)


def _best_to_dict(best: Best | None) -> dict[str, Any] | None:
    if best is None:
        return None
    return {
        "round": best.round,
        "policy": policy_to_dict(best.policy),
        "recall": asdict(best.recall),
        "highest": asdict(best.highest),
    }


def _best_from_dict(raw: dict[str, Any] | None) -> Best | None:
    if raw is None:
        return None
    return Best(raw["round"], policy_from_dict(raw["policy"]), Seen(**raw["recall"]), Seen(**raw["highest"]))
