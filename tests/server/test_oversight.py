"""Orders as files: each is carried out once, whole or not at all, and written down; what does not fit is put aside."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from server.aggregation import OptimizerState
from server.checkpoint import State, load_state, save_state
from server.oversight import (
    CHECKPOINT,
    LARGEST,
    LEDGER,
    after_event,
    give_order,
    oversee,
    read_order,
    refuse_rest,
    standing,
    would_come_of,
)
from shared.config import PolicySection, first_policy
from shared.errors import ProtocolError, RunError
from shared.keys import own_key
from shared.policy.control import memory_to_dict
from shared.policy.memory import Memory
from shared.policy.orders import Order, order_to_dict, propose
from shared.policy.recall_policy import policy_to_dict
from shared.privacy.ledger import Ledger, create_ledger, open_ledger, read_ledger

POLICY = replace(first_policy(PolicySection()), version=2)
MEMORY = Memory(replace(POLICY, version=1))
WANTED = replace(POLICY, version=3, depth=300)
TURNED = replace(MEMORY, before=POLICY, knob="depth")
PENDING = propose(4, POLICY, WANTED, memory_to_dict(TURNED), "move", "coverage is low")
DECISION = {
    "type": "decision",
    "round": 2,
    "controller": "rules",
    "before": policy_to_dict(replace(POLICY, version=1, depth=70)),
    "after": policy_to_dict(POLICY),
    "reason": "recall is low",
}


@dataclass
class Desk:
    """As much of a desk as oversight uses."""

    folder: Path
    ledger: Ledger

    def close(self, state: State) -> State:
        state = replace(state, ledgers={LEDGER: self.ledger.count})
        save_state(state, self.folder / CHECKPOINT)
        return state


@pytest.fixture
def desk(tmp_path):
    key = own_key(tmp_path / "key.pem")
    ledger = create_ledger(tmp_path / LEDGER, key, {"kind": "simulation"})
    ledger.append([DECISION], head=4)
    made = Desk(tmp_path, ledger)
    yield made
    made.ledger.close()


@pytest.fixture
def state():
    nothing = np.zeros(3, np.float32)
    return State(
        round=4,
        parameters=nothing,
        optimizer=OptimizerState(0, nothing, nothing),
        prior=nothing,
        policy=POLICY,
        controller=MEMORY,
        pending=PENDING,
    )


def order(number, kind, **fields):
    fields |= {"proposal": PENDING.id} if kind in {"approve", "reject"} else {}
    return Order(f"2026-{number}-{kind}", kind, "ann", "2026-01-01T00:00:00+00:00", "because", **fields)


def look(desk, state):
    return oversee(desk, state, desk.close)


def lying(folder):
    """Every file under orders/, by folder."""
    root = folder / "orders"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def events(desk):
    return [line.event for line in read_ledger(desk.ledger.path) if line.event["type"] == "order"]


# --- carried out


def test_without_a_folder_of_orders_nothing_happens(desk, state):
    before = desk.ledger.path.read_bytes()
    assert look(desk, state) is state
    assert desk.ledger.path.read_bytes() == before
    assert not (desk.folder / "orders").exists()


def test_an_order_is_written_down_under_a_signed_head_closed_and_put_away(desk, state):
    give_order(desk.folder, order(1, "approve"))
    after = look(desk, state)
    assert (after.policy, after.controller, after.pending) == (WANTED, TURNED, None)
    assert lying(desk.folder) == ["done/2026-1-approve.json"]
    (event,) = events(desk)
    assert event == {
        "type": "order",
        "round": 4,
        "file": "2026-1-approve.json",
        "order": order_to_dict(order(1, "approve")),
        "outcome": "approved",
        "reason": f"proposal {PENDING.id} approved: version 2 -> 3",
        "before": policy_to_dict(POLICY),
        "after": policy_to_dict(WANTED),
        "pending": None,
        "memory": memory_to_dict(TURNED),
    }
    last = list(read_ledger(desk.ledger.path))[-1].event
    assert (last["type"], last["round"]) == ("head", 4)
    closed = load_state(desk.folder / CHECKPOINT)
    assert (closed.policy, closed.controller, closed.pending) == (WANTED, TURNED, None)
    assert (
        closed.orders
        == after.orders
        == (
            {
                "file": "2026-1-approve.json",
                "order": "approve",
                "who": "ann",
                "when": "2026-01-01T00:00:00+00:00",
                "why": "because",
                "outcome": "approved",
                "reason": event["reason"],
                "version": 3,
            },
        )
    )


def test_orders_are_carried_out_in_the_order_of_their_names(desk, state):
    for one in (order(3, "thaw"), order(1, "freeze"), order(2, "rollback", version=1, seen=2)):
        give_order(desk.folder, one)
    after = look(desk, state)
    assert [event["outcome"] for event in events(desk)] == ["frozen", "rolled back", "thawed"]
    assert after.policy == replace(POLICY, version=3, depth=70)
    assert after.pending is None
    assert [said["version"] for said in after.orders] == [2, 3, 3]


def test_a_version_is_found_wherever_the_ledger_has_it(desk, state):
    give_order(desk.folder, order(1, "approve"))
    state = look(desk, state)
    give_order(desk.folder, order(2, "rollback", version=1, seen=3))
    state = look(desk, state)
    give_order(desk.folder, order(3, "rollback", version=3, seen=4))
    assert look(desk, state).policy == replace(WANTED, version=5)


# --- refused


def test_a_refused_order_changes_nothing_and_says_why(desk, state):
    give_order(desk.folder, replace(order(1, "approve"), proposal="00000000"))
    after = look(desk, state)
    assert (after.policy, after.controller, after.pending) == (POLICY, MEMORY, PENDING)
    assert lying(desk.folder) == ["refused/2026-1-approve.json", "refused/2026-1-approve.txt"]
    said = (desk.folder / "orders/refused/2026-1-approve.txt").read_text()
    assert said == f"the proposal that waits is {PENDING.id}, not 00000000\n"
    (event,) = events(desk)
    assert (event["outcome"], event["before"], event["after"]) == ("refused", policy_to_dict(POLICY), event["before"])
    assert after.orders[0]["outcome"] == "refused"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"{}", "expected exactly the fields"),
        (b" " * (LARGEST + 1), f"{LARGEST + 1} bytes, an order has at most {LARGEST}"),
        (json.dumps(order_to_dict(order(1, "thaw")) | {"kind": "delete"}).encode(), "order.kind: 'delete'"),
        (json.dumps(order_to_dict(order(2, "thaw"))).encode(), "order.id: '2026-2-thaw', must be the file's name"),
    ],
)
def test_what_is_no_order_is_refused_and_the_run_goes_on(content, sentence, desk, state):
    (desk.folder / "orders").mkdir()
    (desk.folder / "orders" / "x.json").write_bytes(content)
    after = look(desk, state)
    assert replace(after, orders=(), ledgers={}) == state
    (event,) = events(desk)
    assert event["order"] is None
    assert event["reason"].startswith("not an order: ")
    assert sentence in event["reason"]
    assert lying(desk.folder) == ["refused/x.json", "refused/x.txt"]


@pytest.mark.parametrize("what", ["folder", "link", "pipe"])
def test_what_is_no_plain_file_is_never_opened(what, desk, state, tmp_path):
    path = tmp_path / "orders" / "x.json"
    path.parent.mkdir()
    secret = tmp_path / "other.json"
    secret.write_text(json.dumps(order_to_dict(replace(order(1, "freeze"), id="x"))))
    {"folder": path.mkdir, "link": lambda: path.symlink_to(secret), "pipe": lambda: os.mkfifo(path)}[what]()
    after = look(desk, state)
    assert after.policy == POLICY
    assert events(desk)[0]["reason"] == "not an order: not a plain file"
    assert {one.name for one in path.parent.iterdir()} == {"taken", "refused"}


def test_an_order_that_was_dealt_with_is_not_carried_out_again(desk, state):
    give_order(desk.folder, order(1, "freeze"))
    state = look(desk, state)
    give_order(desk.folder, order(2, "thaw"))
    state = look(desk, state)
    give_order(desk.folder, order(1, "freeze"))
    after = look(desk, state)
    assert not after.policy.frozen
    assert events(desk)[-1]["reason"] == "an order of this name was dealt with already"
    assert "refused/2026-1-freeze.json" in lying(desk.folder)


def test_orders_that_come_after_the_end_are_put_aside_unread(desk, state):
    give_order(desk.folder, order(1, "freeze"))
    refuse_rest(desk.folder, "finished")
    assert (desk.folder / "orders/refused/2026-1-freeze.txt").read_text().startswith("the run has ended (finished)")
    assert events(desk) == []


# --- killed in between


class Killed(BaseException):
    """The process is gone."""


def reopened(desk, at):
    """The ledger when a run goes on; seeded, from a checkpoint made at line ``at``."""
    desk.ledger.close()
    desk.ledger = open_ledger(desk.folder / LEDGER, own_key(desk.folder / "key.pem"), replay_from=at)


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("step", ["take", "ledger", "checkpoint", "put away"])
def test_killed_at_any_step_the_order_counts_once(step, seeded, desk, state, monkeypatch):
    state = desk.close(state)
    give_order(desk.folder, order(1, "approve"))

    def killed(*_args, **_more):
        raise Killed

    with monkeypatch.context() as patch:
        if step == "take":
            patch.setattr(Ledger, "append", killed)
        elif step == "ledger":
            patch.setattr(Desk, "close", killed)
        elif step == "checkpoint":
            patch.setattr("server.oversight._put_away", killed)
        if step == "put away":
            look(desk, state)
            done = desk.folder / "orders/done/2026-1-approve.json"
            done.rename(desk.folder / "orders/taken/2026-1-approve.json")  # the power failed before the folder's sync
        else:
            with pytest.raises(Killed):
                look(desk, state)
    state = load_state(desk.folder / CHECKPOINT)
    at = state.ledgers[LEDGER]
    reopened(desk, at if seeded else None)
    if not seeded:  # as server/resuming.py catches up
        for line in read_ledger(desk.folder / LEDGER):
            if line.number > at and line.event["type"] == "order":
                state = after_event(state, line.event)
    give_order(desk.folder, order(0, "freeze"))  # an earlier name must not come before the order in hand
    after = look(desk, state)
    assert (after.policy, after.controller) == (replace(WANTED, frozen=True), TURNED)
    assert [event["outcome"] for event in events(desk)] == ["approved", "frozen"]
    assert [said["outcome"] for said in after.orders] == ["approved", "frozen"]
    assert lying(desk.folder) == ["done/2026-0-freeze.json", "done/2026-1-approve.json"]


def test_a_replay_takes_its_orders_from_the_ledger_not_from_the_folder(desk, state, monkeypatch):
    state = desk.close(state)
    give_order(desk.folder, order(2, "freeze"))
    with monkeypatch.context() as patch:
        patch.setattr("server.oversight._put_away", lambda *_args: None)
        look(desk, state)
    (desk.folder / "orders/taken/2026-2-freeze.json").unlink()
    give_order(desk.folder, order(1, "approve"))
    reopened(desk, state.ledgers[LEDGER])
    after = look(desk, state)
    assert [said["outcome"] for said in after.orders] == ["frozen", "refused"]  # nothing is approved while it is frozen
    assert [event["outcome"] for event in events(desk)] == ["frozen", "refused"]


def test_an_order_given_while_a_seeded_run_was_dead_waits_until_it_has_caught_up(desk, state):
    state = desk.close(state)
    desk.ledger.append([DECISION], head=5)
    give_order(desk.folder, order(1, "freeze"))
    reopened(desk, state.ledgers[LEDGER])
    assert look(desk, state) is state
    assert lying(desk.folder) == ["2026-1-freeze.json"]
    desk.ledger.append([DECISION], head=5)  # the round is done again
    assert look(desk, state).policy.frozen


# --- what a person sees first


def test_a_person_sees_the_last_checkpoint_the_versions_and_what_waits(desk, state):
    desk.close(state)
    give_order(desk.folder, order(1, "freeze"))
    (desk.folder / "orders" / "x.json").write_text("rubbish")
    desk.ledger.append([DECISION | {"after": policy_to_dict(WANTED)}])  # a round that is not closed yet
    with desk.ledger.path.open("ab") as file:
        file.write(b'{"half a li')
    seen = standing(desk.folder)
    assert seen.state.policy == POLICY
    assert sorted(seen.versions) == [1, 2]
    assert seen.waiting == {"2026-1-freeze": order(1, "freeze"), "x": None}
    assert len(seen.events) == 1


def test_what_would_come_of_an_order_counts_those_that_wait(desk, state):
    desk.close(state)
    give_order(desk.folder, order(1, "freeze"))
    seen = standing(desk.folder)
    assert would_come_of(order(2, "freeze"), seen).reason == "the policy is frozen already"
    assert would_come_of(order(2, "approve"), seen).outcome == "refused"
    assert would_come_of(order(2, "thaw"), seen).outcome == "thawed"
    assert would_come_of(order(2, "rollback", version=1, seen=2), seen).policy.version == 3


def test_a_folder_without_a_checkpoint_is_no_run(tmp_path):
    with pytest.raises(RunError, match="no run here that has closed a round"):
        standing(tmp_path)


def test_an_order_that_cannot_be_left_there_is_said(tmp_path):
    (tmp_path / "orders").write_text("a file")
    with pytest.raises(RunError, match="cannot be written"):
        give_order(tmp_path, order(1, "freeze"))


def test_an_unreadable_file_is_no_order(tmp_path):
    with pytest.raises(ProtocolError, match="cannot be read"):
        read_order(tmp_path / "none.json")
