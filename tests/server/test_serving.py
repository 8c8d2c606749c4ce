"""The run loop of a deployed server, whole, with devices in memory: it runs, waits, gives out, and goes on."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import replace

import pytest
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

import server.running
from client.consent import consent_to
from client.gate import BEHIND
from server import enrolling
from server.control import lock_of, read_standing, stopping_of
from server.oversight import give_order, standing
from server.promise import plan_of, write_promise
from server.publishing import Publisher, read_given
from server.resuming import held
from server.running import has_ended, open_run, runs_of
from server.serving import Loop, Stopping, serve
from server.stock import stock_of
from server.stock_orders import import_items
from server.superlink import HOUSE
from shared.audit.reading import read_evidence
from shared.audit.verify import verify
from shared.errors import FedrecallError, RunError
from shared.keys import own_key
from shared.policy.orders import Order
from shared.privacy.chain import read_ledger
from shared.privacy.ledger import public_hex
from shared.publication import ROUTE

CLIENTS = 4
SETS = (
    "rounds=2",
    'model.text_encoder="none"',
    "cohort.smallest=0.6",
    "cohort.deadline=5",
    "privacy.delta=1e-3",
    "policy.measure_every=2",
    "policy.k=10",
)
ITEMS = 40


class Fleet(Grid):
    """Flower's grid, with devices that answer at once."""

    def __init__(self, devices):
        self.devices = {device.number: device for device in devices}
        self.replies, self.sent = {}, 0
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [number for number, device in self.devices.items() if device.online]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            self.sent += 1
            device = self.devices[message.metadata.dst_node_id]
            message.metadata.__dict__["_message_id"] = f"m{self.sent}"
            ids.append(f"m{self.sent}" if device.online else None)
            if device.online:
                publication = message.metadata.message_type == ROUTE
                record = device.take(message.content) if publication else device.answer(message.content)
                self.replies[f"m{self.sent}"] = Message(record, reply_to=message)
        return ids

    def pull_messages(self, message_ids):
        return [self.replies.pop(number) for number in list(message_ids) if number in self.replies]


class Deployment:
    """A house, its devices, and the loop over them; every pause of the loop is one tick of the test's script."""

    def __init__(self, house, folder, devices, now, another):
        self.house, self.folder, self.now, self.another = house, folder, now, another
        self.devices, self.fleet = devices, Fleet(devices)
        self.ticks = 0

    def loop(self, script=lambda _tick: None):
        def sleep(_seconds):
            self.ticks += 1
            if self.ticks > 50:
                pytest.fail(f"still waiting: {read_standing(self.house)}")
            script(self.ticks)

        signer = own_key(self.house.ledger_key)
        return Loop(
            self.house, self.fleet, Publisher(self.house, self.fleet, signer), read_given(self.house), sleep=sleep
        )

    def close(self):
        for device in self.devices:
            if device.host is not None:
                device.host.close()
                device.host = None

    def restarted(self):
        """As after a kill: nobody holds the devices' ledgers, nothing is in memory."""
        self.close()
        return self.loop()

    @property
    def runs(self):
        return runs_of(self.house)

    def rows(self, run=-1):
        return [json.loads(row) for row in (self.runs[run] / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture
def deployment(new_house, tmp_path, now, answer, device):
    def made(*sets, clients=CLIENTS, enrolled=CLIENTS):
        house = new_house(*SETS, *sets, clients=clients)
        with (tmp_path / "items.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "title", "text", "categories"])
            writer.writerows(
                [f"i{n}", f"Title {n}", f"word{n % 7} word{n % 5} more", f"c{n % 3}"] for n in range(ITEMS)
            )
        import_items(house, tmp_path / "items.csv", now=now)
        write_promise(house, house.config(), None)
        plan = plan_of(house.config(), {"update": 100, "profile": 100})
        consent = consent_to(plan).model_copy(update={"epsilon_per_period": 100.0, "epsilon_lifetime": 100.0})
        (tmp_path / "ledgers").mkdir()
        server = public_hex(own_key(house.ledger_key))
        devices = [device(number, tmp_path, server, consent) for number in range(1, enrolled + 1)]
        for each in devices:
            enrolling.approve(house, answer(enrolling.invite(house, "op", 1, now), each.number), "op", now)
        numbers = iter(range(1, enrolled + 1))
        enrolling.settle(house, lambda _key: next(numbers), lambda _node: None)
        opened.append(Deployment(house, tmp_path, devices, now, device))
        return opened[-1]

    opened = []
    yield made
    for each in opened:
        each.close()


def test_a_run_goes_from_enrolment_to_its_model_on_every_device_and_its_audit_passes(deployment):
    at = deployment()
    at.loop().one_run()
    assert [row["cohort"]["answered"] for row in at.rows()] == [CLIENTS, CLIENTS]
    assert has_ended(at.runs[0])
    loop = at.loop()
    loop._publish(frozenset(at.fleet.get_node_ids()))
    assert loop._publish(frozenset(at.fleet.get_node_ids())) == 0
    for device in at.devices:
        last = device.publications[-1]
        assert (last.run, last.round, last.model.trained) == (at.runs[0].name, 2, stock_of(at.house).version)
        numbers = [issue.number for issue in device.publications]
        assert numbers == sorted(set(numbers))
        assert device.publications[0].model is None  # a device has the run's catalogue before its first task
    at.close()
    keys = at.folder / "keys.json"
    named = {device.name: public_hex(device.key) for device in at.devices}
    keys.write_text(json.dumps({"server": at.devices[0].server, "clients": named}))
    report = verify(read_evidence(at.runs[0], client_ledgers=at.folder / "ledgers", keys=keys, empirical=False))
    assert [finding for finding in report.findings if finding.outcome == "fail"] == []


def test_a_run_begins_when_enough_are_enrolled_and_the_standing_says_what_it_waits_for(deployment, answer):
    at = deployment(clients=4, enrolled=3)
    said = []

    def script(tick):
        said.append(read_standing(at.house).waiting)
        if tick == 2:
            device = at.another(4, at.folder, at.devices[0].server, at.devices[0].consent)
            at.devices.append(device)
            at.fleet.devices[4] = device
            request = answer(enrolling.invite(at.house, "op", 1, at.now), 4)
            enrolling.approve(at.house, request, "op", at.now)
            enrolling.settle(at.house, lambda _key: 4, lambda _node: None)

    at.loop(script).one_run()
    assert said == ["3 of 4 clients are enrolled"] * 2
    assert at.rows()[0]["cohort"]["asked"] == 4


def test_nobody_takes_part_whom_the_plan_has_no_place_for(deployment):
    at = deployment(clients=3, enrolled=4)
    at.devices[1].online = False  # who is there comes first
    at.loop().one_run()
    job = open_run(at.house, at.runs[0]).job
    assert set(job.nodes) == {at.devices[n].name for n in (0, 2, 3)}
    assert job.plan.population == 3


def test_while_paused_no_round_begins(deployment):
    at = deployment()
    at.house.paused.touch()
    said = []

    def script(tick):
        said.append((read_standing(at.house).waiting, len(at.runs)))
        if tick == 3:
            at.house.paused.unlink()

    at.loop(script).one_run()
    assert said == [("paused by an operator", 0)] * 3
    assert len(at.rows()) == 2


def test_between_rounds_it_waits_until_enough_are_there_and_asks_those_alone(deployment, monkeypatch):
    at = deployment("cohort.smallest=0.75")
    write_promise(at.house, at.house.config(), None)
    said = []

    def script(tick):
        said.append(read_standing(at.house).waiting)
        if tick == 2:
            at.devices[1].online = True

    loop = at.loop(script)
    between = loop._between

    def lose_two(state):
        if state.round == 1:
            at.devices[0].online = at.devices[1].online = False
        return between(state)

    monkeypatch.setattr(loop, "_between", lose_two)
    loop.one_run()
    assert said == ["2 of 4 clients are online, 3 must be"] * 2
    assert [row["cohort"] for row in at.rows()] == [
        {"asked": 4, "answered": 4, "declined": 0, "failed": 0},
        {"asked": 3, "answered": 3, "declined": 0, "failed": 0},
    ]


def test_who_was_shut_out_is_asked_no_more_and_gets_nothing(deployment, monkeypatch):
    at = deployment()
    loop = at.loop()
    between = loop._between

    def shut_out(state):
        if state.round == 1:
            enrolling.revoke(at.house, at.devices[2].name, "op", at.now)
        return between(state)

    monkeypatch.setattr(loop, "_between", shut_out)
    loop.one_run()
    assert [row["cohort"]["asked"] for row in at.rows()] == [4, 3]
    had = len(at.devices[2].publications)
    loop._publish(frozenset({1, 2, 3, 4}))
    assert len(at.devices[2].publications) == had


class KilledError(BaseException):
    """Stands for kill -9: nothing in the code catches it."""


@pytest.mark.parametrize("when", ["before anything", "in round 0", "in round 1", "between", "before the end is said"])
def test_killed_anywhere_it_goes_on_where_it_was_and_pays_for_what_was_asked(when, deployment, monkeypatch):
    at = deployment("rounds=3")
    write_promise(at.house, at.house.config(), None)
    loop = at.loop()
    between = loop._between

    def die(*_args, **_kwargs):
        raise KilledError

    with monkeypatch.context() as patch:
        if when == "before anything":
            patch.setattr(server.running, "create_ledger", die)
        elif when == "before the end is said":
            patch.setattr("server.serving.close_run", die)
        elif when == "between":
            patch.setattr(loop, "_between", lambda state: die() if state.round == 1 else between(state))
        else:
            task = at.fleet.push_messages
            patch.setattr(at.fleet, "push_messages", lambda messages: _die_in(messages, when[-1], task, die))
        with pytest.raises(KilledError):
            loop.one_run()
    at.house.begin.touch()  # an order for this very run, which came before it was founded
    if when != "before anything":
        at.house.begin.unlink()
    at.restarted().one_run()
    assert len(at.runs) == 1
    assert not at.house.begin.exists()
    intents = [line.event for line in read_ledger(at.runs[0] / "ledger.jsonl") if line.event["type"] == "intent"]
    named = [(event["round"], event["release"], event["attempt"]) for event in intents]
    assert len(set(named)) == len(named)
    if when == "in round 1":
        assert {(1, "update", 1), (1, "update", 2)} <= set(named)
        assert [row["round"] for row in at.rows()] == [1, 2]  # the budget was for three updates, and one was cut short
    elif when != "in round 0":  # where the one-off statistics were paid for, and nothing came of them
        assert [row["round"] for row in at.rows()] == [1, 2, 3]
    assert has_ended(at.runs[0])


def _die_in(messages, round_, push, die):
    messages = list(messages)
    if messages[0].metadata.group_id == round_:
        die()
    return push(messages)


def test_the_next_run_begins_when_somebody_says_so(deployment):
    at = deployment()
    at.loop().one_run()
    said = []

    def script(tick):
        said.append(read_standing(at.house).waiting)
        if tick == 2:
            at.house.begin.touch()

    at.loop(script).one_run()
    assert len(at.runs) == 2
    assert [("ended" in why, "begin" in why) for why in said] == [(True, True)] * 2
    assert not at.house.begin.exists()
    assert {row["cohort"]["answered"] for row in at.rows()} == {CLIENTS}
    assert at.runs[0].name != at.runs[1].name


def test_a_device_put_back_from_a_backup_between_two_runs_is_found_out(deployment):
    at = deployment()
    device = at.devices[0]
    ledger = at.folder / "ledgers" / f"{device.number}.jsonl"
    at.loop().one_run()
    at.close()
    lines = ledger.read_bytes().splitlines(keepends=True)
    cut = max(n for n, line in enumerate(lines[:-3]) if b'"type":"head"' in line) + 1
    ledger.write_bytes(b"".join(lines[:cut]))
    at.house.begin.touch()
    at.loop().one_run()
    assert [(row["cohort"]["answered"], row["cohort"]["declined"]) for row in at.rows()] == [(CLIENTS - 1, 1)] * 2
    device.host.close()
    device.host = None
    clauses = [line.event["clause"] for line in read_ledger(ledger) if line.event["type"] == "decline"]
    assert set(clauses) == {BEHIND}


def test_a_catalogue_that_changed_meanwhile_is_what_the_next_run_trains_with(deployment):
    at = deployment()
    at.loop().one_run()
    before = stock_of(at.house).version
    (at.folder / "more.csv").write_text("id,title,text,categories\nnew,New,word1 word2,c1\n")
    import_items(at.house, at.folder / "more.csv", now=at.now)
    loop = at.loop()
    online = frozenset(at.fleet.get_node_ids())
    loop._publish(online)
    loop._publish(online)
    last = at.devices[0].publications[-1]
    assert (last.base, last.model.trained, last.catalogue) == (before, before, stock_of(at.house).version)
    assert len(last.change) < len(at.devices[0].publications[0].change) / 3
    at.close()  # a worker opens its host on the catalogue that a task names
    at.house.begin.touch()
    loop.one_run()
    assert open_run(at.house, at.runs[1]).job.items == ITEMS + 1
    assert {row["cohort"]["answered"] for row in at.rows()} == {CLIENTS}


def test_a_promise_that_is_not_the_one_signed_off_lets_no_run_begin(deployment):
    at = deployment()
    text = at.house.settings.read_text()
    at.house.settings.write_text(text.replace("rounds = 2", "rounds = 4"))
    said = []

    def script(tick):
        said.append(read_standing(at.house).waiting)
        if tick == 2:
            at.house.settings.write_text(text)

    at.loop(script).one_run()
    assert all("plan.json" in why for why in said)
    assert len(at.rows()) == 2


def test_a_run_goes_on_with_the_configuration_that_it_began_with(deployment, monkeypatch):
    at = deployment()
    loop = at.loop()
    monkeypatch.setattr(loop, "_between", lambda _state: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        loop.one_run()
    at.house.settings.write_text(at.house.settings.read_text().replace("rounds = 2", "rounds = 4"))
    at.restarted().one_run()
    assert len(at.rows()) == 2


def test_a_persons_order_is_carried_out_between_two_rounds(deployment, monkeypatch):
    at = deployment("rounds=3")
    write_promise(at.house, at.house.config(), None)
    loop = at.loop()
    between = loop._between

    def freeze(state):
        if state.round == 1:
            give_order(at.runs[0], Order("20261129T120000-1", "freeze", "op", "2026-11-29T12:00:00+00:00", "look"))
        return between(state)

    monkeypatch.setattr(loop, "_between", freeze)
    loop.one_run()
    assert [event["outcome"] for event in standing(at.runs[0]).events if event["type"] == "order"] == ["frozen"]


def test_a_device_that_comes_late_gets_everything(deployment):
    at = deployment(clients=3, enrolled=4)
    at.devices[3].online = False
    loop = at.loop()
    loop.one_run()
    at.devices[3].online = True
    online = frozenset(at.fleet.get_node_ids())
    for _ in range(4):
        loop._publish(online)
    assert at.devices[3].publications[-1].round == 2
    assert loop._publish(online) == 0


def test_told_to_stop_it_ends_between_two_rounds_and_goes_on_later(deployment, monkeypatch):
    at = deployment()
    loop = at.loop()
    between = loop._between

    def stop(state):
        if state.round == 1:
            stopping_of(at.house).touch()
        return between(state)

    monkeypatch.setattr(loop, "_between", stop)
    with pytest.raises(Stopping):
        loop.one_run()
    stopping_of(at.house).unlink()
    at.restarted().one_run()
    assert [row["round"] for row in at.rows()] == [1, 2]
    intents = [e.event for e in read_ledger(at.runs[0] / "ledger.jsonl") if e.event["type"] == "intent"]
    assert {event["attempt"] for event in intents} == {1}


def test_one_process_serves_a_house_and_says_when_it_fails(deployment, monkeypatch):
    at = deployment()
    monkeypatch.setenv(HOUSE, str(at.house.folder))

    def broken(self):
        assert held(lock_of(at.house))
        with pytest.raises(RunError, match="another process serves this house"):
            serve(at.fleet)
        raise RunError("the disk is full")

    monkeypatch.setattr(Loop, "one_run", broken)
    with pytest.raises(FedrecallError, match="the disk is full"):
        serve(at.fleet)
    assert read_standing(at.house).waiting == "failed: the disk is full"
    assert not held(lock_of(at.house))


def test_a_run_whose_files_are_not_those_it_began_with_is_refused(deployment, monkeypatch):
    at = deployment()
    loop = at.loop()
    between = loop._between

    def die_after_one(state):
        if state.round == 1:
            raise KilledError
        return between(state)

    monkeypatch.setattr(loop, "_between", die_after_one)
    with pytest.raises(KilledError):
        loop.one_run()
    at.restarted()
    job, path = at.runs[0] / "job.json", at.runs[0] / "ledger.jsonl"
    said = json.loads(job.read_text())
    job.write_text(json.dumps({**said, "config": {**said["config"], "rounds": 5}}))
    with pytest.raises(RunError, match="not those that this run began with"):
        at.loop().one_run()
    job.write_text("[]")
    with pytest.raises(RunError, match=r"job\.json: not what this server wrote"):
        at.loop().one_run()
    job.write_text(json.dumps(said))
    os.truncate(path, path.read_bytes().index(b"\n") + 1)
    with pytest.raises(RunError, match="lines were lost"):
        at.loop().one_run()
    path.unlink()
    with pytest.raises(RunError, match="what was spent is not known"):
        at.loop().one_run()


def test_models_of_one_run_are_given_out_at_most_once_a_minute_and_the_last_at_once(deployment):
    at = deployment("rounds=3")
    write_promise(at.house, at.house.config(), None)
    loop = at.loop()
    loop.clock = lambda: 100.0
    given = []
    loop.publisher = replace(loop.publisher)
    loop.publisher.give = lambda issue, _clients, _online: given.append(issue.round) or 0
    at.devices[0].online = True
    for device in at.devices:  # they need the catalogue to answer
        device.catalogues = {stock_of(at.house).version: _catalogue(at.house)}
    loop.one_run()
    assert set(given) == {0, 1}
    assert loop.given.round == 3


def _catalogue(house):
    from server.stock import catalogue_of_stock

    return catalogue_of_stock(house)
