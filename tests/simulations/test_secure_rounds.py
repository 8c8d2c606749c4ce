"""Whole rounds under masks: the same integers as without, whoever is lost on the way, and a reason when it fails."""

from __future__ import annotations

import gc
import hashlib
import json
import tracemalloc
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import simulations.run
from server.checkpoint import load_state
from shared.history import History
from shared.privacy.ledger import read_ledger
from shared.proofs import same_task
from shared.protocol import MESSAGE_TYPES
from shared.sessions import STEP_TYPES
from simulations.config import resolve
from simulations.engine import InProcessGrid
from simulations.run import CHECKPOINT, CLIENT_LEDGER, SERVER_LEDGER, Screen, new_run

USERS = 12
STEPS = ("join", "deal", "upload", "agree", "reveal")
SETS = ["rounds=2", "model.text_encoder=none", "model.rank=2", "policy.measure_every=1", "training.context=4"]
SETS += ["training.targets=2", "training.negatives=4", "privacy.delta=1e-3", "policy.k=10", "policy.depth=12"]
SETS += ["cohort.deadline=5", "cohort.smallest=0.5"]  # of twelve clients six; a quorum of signatures is seven


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve users, sixteen items."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(3)
    items = ["id,title,text", *(f"i{n},thing {n},a thing of kind {n % 3}" for n in range(16))]
    rows = ["user,item,time"]
    for user in range(USERS):
        rows += [f"u{user},i{item},{1000 * n + user}" for n, item in enumerate(rng.permutation(16)[:12])]
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    return folder


def step_of(route: str) -> str:
    return next((step for step, name in STEP_TYPES.items() if name == route), "upload")


class LossyGrid(InProcessGrid):
    """Loses messages on the way to some nodes, or their answers, and keeps a list of what went over the wire.

    Attributes:
        hosts: of all runs, so that a test can look at what is left in them.
        lost: step -> nodes.
        rounds: in which.
        on: the way "there", or "back".
        log: (round, step, node, message or answer, bytes of its arrays and texts).
    """

    hosts: list = []  # noqa: RUF012 - emptied by the fixture
    log: list = []  # noqa: RUF012 - as above
    lost: dict = {}  # noqa: RUF012 - as above
    rounds = (1,)
    on = "back"

    def __init__(self, host, nodes):
        super().__init__(host, nodes)
        self.hosts.append(host)

    def push_messages(self, messages):
        return super().push_messages(self._kept(messages, "there"))

    def pull_messages(self, message_ids):
        return list(self._kept(super().pull_messages(message_ids), "back"))

    def _kept(self, messages, way):
        for message in messages:
            number, route = int(message.metadata.group_id), message.metadata.message_type
            node = message.metadata.dst_node_id if way == "there" else message.metadata.src_node_id
            self.log.append((number, step_of(route), node, way, message))
            gone = number in self.rounds and node in self.lost.get(step_of(route), ())
            if gone and self.on == way:
                if way == "there":  # it has a number, and no client is called "-1"
                    message = self.create_message(message.content, route, -1, message.metadata.group_id)  # noqa: PLW2901
                else:
                    continue
            yield message


class Done:
    """A run that has ended, read back from its folder."""

    def __init__(self, folder: Path) -> None:
        self.state = load_state(folder / CHECKPOINT)
        self.server = [line.event for line in read_ledger(folder / SERVER_LEDGER)]
        self.clients = [line.event for line in read_ledger(folder / CLIENT_LEDGER)]
        self.rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]

    def results(self, round_: int | None = None) -> list[dict]:
        return [e for e in self.server if e["type"] == "result" and round_ in (None, e["round"])]

    def sums(self) -> list[tuple]:
        """What the server learned, in its own order."""
        return [(e["round"], e["release"], e["sum"], e["survivors"], e["aborted"]) for e in self.results()]

    def intents(self, round_: int, release: str) -> list[str]:
        """Clients that paid."""
        at = (round_, release)
        return [e["client"] for e in self.clients if e["type"] == "intent" and (e["round"], e["release"]) == at]

    def measured(self) -> list:
        return [(row["estimate"], row["oracle"], row["policy"], row["decision"]) for row in self.rows]


def same(one: Done, other: Done) -> bool:
    """Bit for bit: the model, the optimizer, the prior, every sum, every estimate and what was made of it."""
    states = one.state, other.state
    arrays = [(s.parameters, s.prior, s.optimizer.first, s.optimizer.second) for s in states]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*arrays, strict=True))
    assert one.sums() == other.sums()
    assert one.measured() == other.measured()
    assert states[0].used == states[1].used
    return True


@pytest.fixture
def run(tmp_path, data, monkeypatch):
    """``run("real", "privacy.trust=central", lost={"join": {3}}, ...)`` -> Done."""
    clock = [0.0]
    patient = SimpleNamespace(
        monotonic=lambda: clock[0], sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    )
    monkeypatch.setattr("server.exchange.time", patient)  # nobody answers later than at once
    monkeypatch.setattr("shared.privacy.ledger.os.fsync", lambda _fd: None)  # speed; kills are tested elsewhere
    monkeypatch.setattr(simulations.run, "InProcessGrid", LossyGrid)
    monkeypatch.setattr(simulations.run, "finish", lambda *_args, **_more: {})  # the yardsticks at the end

    def start(mode, *sets, lost=None, rounds=(1,), on="back", seed=1):
        monkeypatch.setattr(LossyGrid, "hosts", [])
        monkeypatch.setattr(LossyGrid, "log", [])
        monkeypatch.setattr(LossyGrid, "lost", {} if lost is None else lost)
        monkeypatch.setattr(LossyGrid, "rounds", rounds)
        monkeypatch.setattr(LossyGrid, "on", on)
        config = resolve("synthetic", sets=[*SETS, f"secure_aggregation={mode}", *sets], seed=seed, data=data)
        folder = tmp_path / f"{mode}{len(list(tmp_path.iterdir()))}" / "run"  # one name: it is part of every task
        folder.parent.mkdir()
        silent = Screen(say=lambda _sentence: None, tell=lambda _row, _total: None)
        new_run(config, folder, cache=tmp_path / "cache", source=None, screen=silent)
        return Done(folder)

    return start


# --- the same integers


@pytest.mark.parametrize("trust", ["distributed", "central"])
def test_a_masked_run_and_an_ideal_one_are_the_same_bit_for_bit(trust, run):
    real = run("real", f"privacy.trust={trust}")
    steps = {step for _, step, *_ in LossyGrid.log}
    seats = LossyGrid.hosts[0].seats
    ideal = run("ideal", f"privacy.trust={trust}")
    assert same(real, ideal)
    assert [(e["round"], e["release"]) for e in real.results()] == [
        *((0, "statistics"), (0, "profile"), (1, "update"), (1, "measurement"), (2, "update"), (2, "measurement")),
    ]
    assert all(e["survivors"] == USERS and not e["aborted"] and e["why"] == "" for e in real.results())
    assert (steps, {step for _, step, *_ in LossyGrid.log}) == (set(STEPS), {"upload"})
    assert seats == {}
    assert [e["sealed"] for e in real.clients if e["type"] == "result"] == [
        e["sealed"] for e in ideal.clients if e["type"] == "result"
    ]


def test_not_one_word_on_the_wire_is_a_sealed_vector_and_the_ideal_one_shows_them_all(run):
    def on_the_wire(name):
        vectors = [
            m.content[name]["vector"].numpy() for *_, way, m in LossyGrid.log if way == "back" and name in m.content
        ]
        return {hashlib.sha256(v.astype(np.uint32).view(np.int32).tobytes()).hexdigest() for v in vectors}

    real = run("real")
    sealed = {e["sealed"] for e in real.clients if e["type"] == "result"}
    assert len(on_the_wire("masked")) == len(sealed) == 6 * USERS
    assert on_the_wire("masked") & sealed == set()
    assert on_the_wire("sealed") == set()
    run("ideal")
    assert on_the_wire("sealed") == sealed


@pytest.mark.parametrize("on", ["there", "back"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("trust", ["distributed", "central"])
def test_clients_lost_at_a_step_are_out_of_the_sum_until_they_uploaded(trust, step, on, run):
    """The plain sum of those who are left, whichever way the message was lost; and they come back in the next round."""
    real = run("real", f"privacy.trust={trust}", lost={step: {3, 8}}, on=on)
    left = set(LossyGrid.hosts[0].seats)
    out = step in ("join", "deal", "upload")
    ideal = run("ideal", f"privacy.trust={trust}", lost={"upload": {3, 8}} if out else {})
    assert same(real, ideal)
    for event in real.results(1):
        assert event["survivors"] == (USERS - 2 if out else USERS)
        assert event["failed"] == (["3", "8"] if out else [])
        assert event["declined"] == []
        assert not event["aborted"]
    assert all(e["survivors"] == USERS for e in real.results(2))
    # Asked is paid to the server; a client pays when the task itself reaches it.
    assert {kind: counts["3"] for kind, counts in real.state.used.items()} == {
        "statistics": 1,
        "profile": 1,
        "update": 2,
        "measurement": 2,
    }
    here = step in ("agree", "reveal") or (step, on) == ("upload", "back")
    assert ("3" in real.intents(1, "update")) == here
    assert left == set()


def test_different_clients_lost_at_every_step_of_every_release(run):
    real = run("real", lost={step: {2 + n} for n, step in enumerate(STEPS)}, rounds=(0, 1, 2))
    ideal = run("ideal", lost={"upload": {2, 3, 4}}, rounds=(0, 1, 2))
    assert same(real, ideal)
    assert [e["survivors"] for e in real.results()] == [USERS - 3] * 6
    assert [e["failed"] for e in real.results()] == [["2", "3", "4"]] * 6


def test_twelve_clients_with_a_user_each_and_three_with_four_give_the_same_integers(run):
    """Under masks and without noise, so that equal sums are equal contributions."""
    sums = {}
    for per_client in (1, 4, 6):
        sets = ["privacy.epsilon=none", f"users_per_client={per_client}"]
        real, ideal = run("real", *sets), run("ideal", *sets)
        assert same(real, ideal)
        sums[per_client] = [(e["round"], e["release"], e["sum"]) for e in real.results()]
        assert {e["survivors"] for e in real.results()} == {USERS // per_client}
    assert len({total for *_, total in sums[1]}) >= 3
    assert sums[1] == sums[4] == sums[6]


def test_vectors_that_are_private_by_themselves_go_plain(run):
    real = run("real", "privacy.trust=local")
    routes = {message.metadata.message_type for *_, message in LossyGrid.log}
    answers = {tuple(message.content) for *_, way, message in LossyGrid.log if way == "back"}
    assert routes == set(MESSAGE_TYPES.values()) - {MESSAGE_TYPES["trending"]}  # which is off
    assert answers == {("sealed", "receipt")}
    assert same(real, run("ideal", "privacy.trust=local"))


# --- not enough


WHY = {
    "join": "too few joined: 5 members, 6 at least",
    "deal": "5 of 12 clients dealt, at least 7 must have",
    "upload": "5 of 12 clients uploaded, at least 7 must have",
    "agree": "5 of 12 clients signed, at least 7 must have",
    "reveal": "right shares of a secret of",
}


@pytest.mark.parametrize("trust", ["distributed", "central"])
@pytest.mark.parametrize("step", STEPS)
def test_without_a_quorum_a_round_is_aborted_charged_and_says_why(step, trust, run):
    gone = set(range(1, 8)) if step != "reveal" else set(range(1, 13))
    real = run("real", f"privacy.trust={trust}", lost={step: gone})
    (aborted,) = real.results(1)  # no measurement of what was not trained
    assert aborted["aborted"]
    assert WHY[step] in aborted["why"]
    assert "aborted, charged" in real.rows[0]["reason"]
    assert real.rows[0]["estimate"] is None
    assert set(real.state.used["update"].values()) == {2}
    assert len(real.intents(1, "update")) == (0 if step in ("join", "deal") else USERS)
    assert [e["aborted"] for e in real.results(2)] == [False, False]
    assert real.state.updates == USERS
    assert real.state.failures == 0


@pytest.mark.parametrize("step", STEPS)
def test_an_aborted_round_changes_nothing_of_the_model(step, run):
    gone = set(range(1, 13))
    real = run("real", "rounds=1", lost={step: gone})
    ideal = run("ideal", "rounds=1", lost={"upload": gone})
    assert real.state.parameters.tobytes() == ideal.state.parameters.tobytes()
    assert real.state.updates == ideal.state.updates == 0
    assert [e["aborted"] for e in real.results(1)] == [True]
    assert real.state.failures == 1


@pytest.mark.parametrize("step", STEPS)
def test_an_aborted_measurement_leaves_the_model_trained_and_the_policy_as_it_was(step, run):
    class AtMeasurement(dict):
        """Loses everybody at a step of the second session of round 1, the measurement."""

        def get(self, key, default=()):
            joined = [at for number, at, node, way, _ in LossyGrid.log if (number, node, way) == (1, 1, "there")]
            return range(1, USERS + 1) if key == step and joined.count("join") == 2 else default

    untouched = run("ideal", "rounds=1").state.parameters.tobytes()
    real = run("real", "rounds=1", lost=AtMeasurement())
    assert [(e["release"], e["aborted"]) for e in real.results(1)] == [("update", False), ("measurement", True)]
    assert real.state.parameters.tobytes() == untouched
    assert real.rows[0]["estimate"] is None
    assert "aborted" in real.rows[0]["reason"]


def test_three_rounds_without_a_quorum_end_the_run(run):
    real = run("real", "rounds=6", lost={"deal": set(range(1, 8))}, rounds=range(1, 7))
    assert real.server[-2]["stopped"] == "no quorum"
    assert [row["cohort"]["answered"] for row in real.rows] == [0, 0, 0]
    assert all(WHY["deal"] in e["why"] for n in (1, 2, 3) for e in real.results(n))


# --- what an observer sees, and what is left


def test_messages_of_one_task_are_the_same_objects_for_all_and_answered_as_a_batch(run):
    run("real")
    uploads = [m.content for r, step, _, way, m in LossyGrid.log if (r, step, way) == (0, "upload", "there")]
    assert len(uploads) == 2 * USERS  # statistics, then profiles
    for exchange in (uploads[:USERS], uploads[USERS:]):
        assert all(same_task(one, exchange[0]) for one in exchange)
    for step in ("deal", "agree", "reveal"):
        sent = [m.content for r, s, _, way, m in LossyGrid.log if (r, s, way) == (0, step, "there")]
        assert len({id(one) for one in sent[:USERS]}) == len({id(one) for one in sent[USERS:]}) == 1


def test_no_size_on_the_wire_tells_an_empty_history_from_a_full_one(run, monkeypatch, wire):
    """One run as it is, one in which three of the twelve have done nothing at all: the same messages, as long."""
    stores_of = simulations.run.stores_of

    def emptied(*args):
        stores = dict(stores_of(*args))
        for name in ("2", "5", "9"):
            empty = tuple(
                History(*(getattr(history, column.name)[:0] for column in fields(History)))
                for history in stores[name].histories
            )
            stores[name] = replace(stores[name], histories=empty)
        return stores

    def shapes():
        """In order, of each message and answer; and summed over clients, by round, step and way."""
        single, summed, before = [], Counter(), Counter()
        for number, step, node, way, message in LossyGrid.log:
            size = len(wire.pack(message.content))
            summed[number, step, way] += size
            before[number, step, node, way] += 1
            # Who picked whom is drawn anew for every task, and tasks differ with the model: it shows in two places.
            later = number > 0 or before[number, step, node, way] > 1  # all but statistics
            drawn = later and (step, way) in {("upload", "there"), ("reveal", "back")}
            single.append((number, step, node, way, None if drawn else size))
        return single, summed

    run("real", "policy.controller=static")
    full = shapes()
    monkeypatch.setattr(simulations.run, "stores_of", emptied)
    run("real", "policy.controller=static")
    assert shapes() == full
    assert len(full[0]) == 6 * len(STEPS) * USERS * 2


def test_nothing_piles_up_from_round_to_round(run):
    """Seats are given up, and memory stays where it was after the first rounds."""
    sizes = {}

    class Watched(dict):
        """Asked for every message; looks at the memory at the first one of a round."""

        def get(self, _key, default=()):
            number = LossyGrid.log[-1][0]
            if number == 2 and not sizes:
                tracemalloc.start()
            if number >= 2 and number not in sizes:
                gc.collect()
                sizes[number] = tracemalloc.get_traced_memory()[0], len(LossyGrid.hosts[0].seats)
            LossyGrid.log[:-1] = []
            return default

    try:
        run("real", "rounds=7", "policy.measure_every=7", lost=Watched(), rounds=range(8))
    finally:
        tracemalloc.stop()
    memory, seats = zip(*sizes.values(), strict=True)
    assert len(sizes) == 6
    assert set(seats) == {0}
    # Signatures that were verified are remembered, some hundred bytes each and at most 8192 of them.
    assert memory[5] - memory[2] < 1_000_000
