"""A person over the policy of a running simulation: proposals wait, orders count between rounds, nothing stops."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

import server.coordinator
import simulations.run
from server.oversight import give_order
from server.resuming import CHECKPOINT, SERVER_LEDGER
from shared.policy.orders import Order
from shared.policy.replay import replay
from shared.privacy.ledger import read_ledger
from simulations.cli import app
from simulations.mending import CLIENT_LEDGER
from simulations.run import Screen, new_run, resume_run
from simulations.world import load_world

# No noise, and a recall that is out of reach: the controller wants to move after every measurement.
SETS = ("rounds=6", "policy.measure_every=1", "privacy.epsilon=none", "policy.recall_target=0.9")
PLAN = {2: "approve", 3: "freeze", 4: "rollback", 5: "thaw"}  # after which round which order lies there
LAST = (SERVER_LEDGER, CLIENT_LEDGER, CHECKPOINT, "best.safetensors")


class Killed(BaseException):
    """The process is gone."""


def quick_finish(config, folder, world, job, ending, *, loading_seconds):
    """The end without model, yardsticks and charts."""
    (folder / "report.html").write_text("ended")
    return {"stopped": ending.stopped, "rounds_done": ending.rounds_done}


@dataclass
class Office:
    """A simulation on tiny data, and a person who gives the orders of ``plan`` between its rounds."""

    config: object
    cache: Path
    plan: dict[int, str] = field(default_factory=lambda: dict(PLAN))
    steps: list[str] = field(default_factory=list)
    kill_at: int = 0

    def install(self, monkeypatch):
        world = load_world(self.config, self.cache, None, lambda _sentence: None)
        oversee = server.coordinator.oversee

        def watched(desk, state, close):
            self.order(desk.folder, state)
            with monkeypatch.context() as patch:
                rename = os.replace
                where = lambda handle: Path(f"/proc/self/fd/{handle}").readlink()  # noqa: E731 - used once, here
                patch.setattr(os, "fsync", lambda handle: self.due("sync", where(handle)))
                patch.setattr(os, "replace", lambda old, new: (rename(old, new), self.due("rename", new)))
                return oversee(desk, state, close)

        monkeypatch.setattr(server.coordinator, "oversee", watched)
        monkeypatch.setattr(simulations.run, "load_world", lambda *_arguments: world)
        monkeypatch.setattr(simulations.run, "finish", quick_finish)

    def order(self, folder, state):
        kind, number = self.plan.get(state.round), state.round
        name = f"{number}-{kind}"
        if kind is None or list(folder.glob(f"orders/**/{name}.json")):
            return  # it lies there, wherever it was when the process died
        named = {}
        if kind in {"approve", "reject"}:
            named = {"proposal": state.pending.id}
        if kind == "rollback":
            named = {"version": 1, "seen": state.policy.version}
        give_order(folder, Order(name, kind, "ann", "2026-01-01T00:00:00+00:00", "a test", **named))

    def due(self, what, path):
        self.steps.append(f"{what} {Path(path).name}")
        if len(self.steps) == self.kill_at:
            raise Killed

    def run(self, folder, tell=lambda _row, _total: None):
        screen = Screen(say=lambda _sentence: None, tell=tell)
        return new_run(self.config, folder, cache=self.cache, source=None, screen=screen)

    def resume(self, folder):
        screen = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
        return resume_run(folder, cache=self.cache, source=None, screen=screen)


@pytest.fixture
def office(tiny, tmp_path, monkeypatch):
    """Make an office: ``office("policy.approval=true", seed="none")``; its runs go into ``tmp_path``."""

    def make(*sets, seed="1", **how):
        made = Office(tiny(*SETS, *sets, f"seed={seed}", seed=None), tmp_path / "cache", **how)
        made.install(monkeypatch)
        return made

    return make


def rows(folder):
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def events(folder):
    """Decisions and orders, each of which must replay from the ledger alone."""
    found = [line.event for line in read_ledger(folder / SERVER_LEDGER)]
    assert replay(found) == []
    return [event for event in found if event["type"] in {"decision", "order"}]


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in LAST}


def content(policy):
    return {name: value for name, value in policy.items() if name not in {"version", "frozen"}}


# --- approval


def test_a_proposal_waits_and_the_run_goes_on_without_it(office, tmp_path):
    made = office("policy.approval=true", plan={})
    assert made.run(tmp_path / "a") == {"stopped": "finished", "rounds_done": 6}
    found = rows(tmp_path / "a")
    assert [row["policy"]["version"] for row in found] == [1] * 6
    assert found[0]["decision"] == "proposal"
    assert {row["pending"]["id"] for row in found} == {found[0]["pending"]["id"]}
    assert [row["decision"] for row in found[1:]] == ["hold"] * 5
    assert all(f"{row['pending']['id']} of round 1 waits for a person" in row["reason"] for row in found[1:5])


def test_without_approval_the_same_move_is_made_at_once(office, tmp_path):
    office("policy.approval=true", plan={}).run(tmp_path / "a")
    office(plan={}).run(tmp_path / "b")
    first, second = rows(tmp_path / "b")[:2]
    assert first["decision"] == "move"
    assert first["pending"] is None
    assert second["policy"] == rows(tmp_path / "a")[0]["pending"]["policy"]


def test_each_order_takes_effect_at_the_next_round(office, tmp_path):
    """Approve after round 2, freeze after 3, roll back after 4, thaw after 5."""
    office("policy.approval=true").run(tmp_path / "a")
    found = rows(tmp_path / "a")
    assert [row["policy"]["version"] for row in found] == [1, 1, 2, 2, 3, 3]
    assert [row["policy"]["frozen"] for row in found] == [False, False, False, True, True, False]
    assert [[said["outcome"] for said in row["orders"]] for row in found] == [
        [],
        [],
        ["approved"],
        ["frozen"],
        ["rolled back"],
        ["thawed"],
    ]
    assert content(found[2]["policy"]) == content(found[0]["pending"]["policy"])
    assert content(found[4]["policy"]) == content(found[0]["policy"])
    assert found[2]["decision"] == "proposal"  # the controller goes on from what was approved
    assert found[3]["pending"] == found[2]["pending"]
    assert found[4]["pending"] is None  # dropped by the rollback
    assert found[4]["decision"] == "frozen"
    outcomes = [event["outcome"] if event["type"] == "order" else event["decision"] for event in events(tmp_path / "a")]
    assert outcomes[:8] == ["proposal", "hold", "approved", "proposal", "frozen", "hold", "rolled back", "frozen"]
    for order in (order for row in found for order in row["orders"]):
        assert (order["who"], order["why"]) == ("ann", "a test")


def test_a_rejected_move_is_not_proposed_again_at_once(office, tmp_path):
    office("policy.approval=true", plan={1: "reject"}).run(tmp_path / "a")
    first, second = rows(tmp_path / "a")[:2]
    assert second["orders"][0]["outcome"] == "rejected"
    assert second["policy"]["version"] == 1
    assert second["decision"] == "proposal"
    assert content(second["pending"]["policy"]) != content(first["pending"]["policy"])


def test_a_freeze_holds_without_approval_too(office, tmp_path):
    office(plan={1: "freeze"}).run(tmp_path / "a")
    found = rows(tmp_path / "a")
    assert [row["decision"] for row in found[1:5]] == ["frozen"] * 4
    assert {row["policy"]["version"] for row in found[1:]} == {2}


# --- by the command


def test_a_person_at_the_command_line_steers_a_running_simulation(office, tmp_path):
    folder, said = tmp_path / "a", []

    def person(row, _total):
        words = {1: ["approve", "--why", "looks right"], 3: ["rollback", "1", "--why", "did not look right"]}
        if row["round"] in words:
            verb, *rest = words[row["round"]]
            result = CliRunner().invoke(app, ["policy", verb, str(folder), *rest])
            assert result.exit_code == 0, result.output
            said.append(result.stdout)

    office("policy.approval=true", plan={}).run(folder, person)
    found = rows(folder)
    assert [row["policy"]["version"] for row in found] == [1, 2, 2, 3, 3, 3]
    assert "approved: version 1 -> 2" in said[0]
    assert "version 2 -> 3, as it was at version 1" in said[1]
    assert found[3]["orders"][0]["why"] == "did not look right"


# --- killed and resumed


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file is synced")
@pytest.mark.parametrize(
    ("seed", "plan", "rounds"),
    [
        pytest.param("1", {1: "approve"}, 2, id="seeded"),
        pytest.param("none", {1: "approve"}, 2, id="unseeded", marks=pytest.mark.slow),
        pytest.param("1", PLAN, 6, id="seeded, four orders", marks=pytest.mark.slow),
        pytest.param("none", PLAN, 6, id="unseeded, four orders", marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_step_of_an_order_it_counts_once_and_with_a_seed_gives_the_same_bytes(
    office, tmp_path, seed, plan, rounds
):
    made = office("policy.approval=true", f"rounds={rounds}", seed=seed, plan=plan)
    whole = tmp_path / "whole" / "run"
    made.run(whole)
    outcomes = [[said["outcome"] for said in row["orders"]] for row in rows(whole)]
    flat = [one for row in outcomes for one in row]
    assert len(flat) == len(plan)
    steps = made.steps
    assert {"rename 1-approve.json", "sync ledger.jsonl", "rename checkpoint.safetensors"} <= set(steps) or rounds == 6
    for number, name in enumerate(steps, 1):
        folder = tmp_path / f"killed-{number}" / "run"
        made.steps, made.kill_at = [], number
        with pytest.raises(Killed):
            made.run(folder)
        made.resume(folder)
        assert [[said["outcome"] for said in row["orders"]] for row in rows(folder)] == outcomes, (number, name)
        assert [e["outcome"] for e in events(folder) if e["type"] == "order"] == flat, (number, name)
        assert seed == "none" or digests(folder) == digests(whole), (number, name)


def killed_in_round_3(made, folder, monkeypatch):
    """The round has been decided, and is not closed."""
    write_row = server.coordinator.write_row

    def killed(path, row):
        if row["round"] == 3:
            raise Killed
        write_row(path, row)

    with monkeypatch.context() as patch:
        patch.setattr(server.coordinator, "write_row", killed)
        with pytest.raises(Killed):
            made.run(folder)
    last = events(folder)[-1]
    assert (last["before"]["version"], last["after"]["version"]) == (3, 4)


def test_an_order_given_while_the_run_is_dead_comes_before_the_round_that_is_done_again(office, tmp_path, monkeypatch):
    """The decision of the killed round stands in the ledger, and was never in force."""
    made, folder = office(seed="none", plan={}), tmp_path / "a"
    killed_in_round_3(made, folder, monkeypatch)
    give_order(folder, Order("1", "rollback", "ann", "2026-01-01", "while it was dead", version=1, seen=3))
    made.resume(folder)
    order = next(event for event in events(folder) if event["type"] == "order")
    assert (order["outcome"], order["round"], order["after"]["version"]) == ("rolled back", 2, 4)
    assert [row["policy"]["version"] for row in rows(folder)][:3] == [1, 2, 4]
    assert content(rows(folder)[2]["policy"]) == content(rows(folder)[0]["policy"])
    assert rows(folder)[2]["orders"][0]["why"] == "while it was dead"


def test_an_order_given_while_a_seeded_run_is_dead_comes_after_the_round_that_it_repeats(office, tmp_path, monkeypatch):
    made, folder = office(plan={}), tmp_path / "a"
    killed_in_round_3(made, folder, monkeypatch)
    give_order(folder, Order("1", "freeze", "ann", "2026-01-01", "while it was dead"))
    made.resume(folder)
    order = next(event for event in events(folder) if event["type"] == "order")
    assert (order["outcome"], order["round"]) == ("frozen", 3)
    assert [row["policy"]["frozen"] for row in rows(folder)] == [False] * 3 + [True] * 3
    assert [row["policy"]["version"] for row in rows(folder)] == [1, 2, 3, 4, 4, 4]
