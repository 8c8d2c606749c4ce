"""The resident process: it outlives its server, its worker, its disk and itself. The link here is a stand-in."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict

import client.agent
from client.agent import UNANSWERED, Agent, dismiss, run
from client.enrolling import remembered_node
from client.fleet_link import Incoming, RefusedError
from client.home_lock import alone
from client.https_line import LinkError
from client.own_log import last_lines
from client.settings import Settings, read_settings
from client.shelving import read_current
from shared.catalogue import catalogue_bytes
from shared.errors import DataError
from shared.protocol import declined_record, is_declined
from shared.publication import Publication, is_received, publication_record, received_record
from shared.wire import pack

SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
TIP = "5" * 64
SETTINGS = Settings(poll_seconds=0.1, power="mains", network="unmetered")


@dataclass
class Line:
    """A link whose messages and troubles are written down beforehand."""

    inbox: list = field(default_factory=list)
    sent: list = field(default_factory=list)
    node: int = 7
    ahead: float = 0.0
    trouble: list = field(default_factory=list)  # raised by receive, before any message
    links: int = 0

    def receive(self):
        if self.trouble:
            raise self.trouble.pop(0)
        return self.inbox.pop(0) if self.inbox else None

    def reply(self, incoming, record):
        self.sent.append((incoming, record))
        return True


@pytest.fixture
def line(monkeypatch, device):
    made = Line()

    @contextmanager
    def link(_address, _authority, _key, *, known, stop, folder):
        del known, stop, folder
        made.links += 1
        yield made

    monkeypatch.setattr("client.agent.link", link)
    monkeypatch.setattr("client.agent.FIRST_WAIT", 0.05)
    return made


@pytest.fixture
def agent(device):
    home, key = device
    made = Agent(home, SETTINGS, key)
    yield made
    made.stop.set()
    dismiss(made)


def until(agent, happened, seconds=60.0):
    """Run the agent in a thread until something is so."""
    thread = threading.Thread(target=run, args=(agent,))
    thread.start()
    end = time.monotonic() + seconds
    try:
        while not happened():
            assert time.monotonic() < end, [dict(line) for line in last_lines(agent.home, 20)]
            time.sleep(0.02)
    finally:
        agent.stop.set()
        thread.join(60)
    assert not thread.is_alive()


def logged(home, event):
    return [line for line in last_lines(home, 100) if line["event"] == event]


def test_a_message_is_answered_by_the_worker_and_its_address_is_dropped(agent, line, task, message, plan, incoming):
    line.inbox = [incoming(message(task("statistics", plan=plan(trust="local"))))]
    until(agent, lambda: line.sent)
    assert "sealed" in line.sent[0][1]
    assert not (agent.home.folder / UNANSWERED).exists()
    assert remembered_node(agent.home) == 7
    assert logged(agent.home, "worker ended"), "a worker ends with its agent"


def test_a_message_that_a_crash_left_is_declined_once(agent, line, incoming):
    left = incoming(RecordDict(), "train.update")
    (agent.home.folder / UNANSWERED).write_bytes(left.raw)
    until(agent, lambda: line.sent)
    [(answered, record)] = line.sent
    assert answered == Incoming(left.raw)
    assert is_declined(record)
    assert not (agent.home.folder / UNANSWERED).exists()
    assert "stopped in the middle" in logged(agent.home, "declined")[0]["why"]


def test_a_worker_that_is_killed_costs_one_refusal(agent, line, task, message, plan, incoming):
    local = plan(trust="local")
    line.inbox = [incoming(message(task("statistics", plan=local)))]
    real = client.agent.send_message

    def killed(to, sent):
        if len(line.sent) == 1:
            os.kill(agent.worker.process.pid, signal.SIGKILL)
            agent.worker.process.wait()
        real(to, sent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.agent.send_message", killed)
        until(agent, lambda: line.sent)
        agent.stop.clear()
        agent.worker = client.agent._hire(agent)
        line.inbox = [incoming(RecordDict()), incoming(message(task("measurement", plan=local, run="other")))]
        until(agent, lambda: len(line.sent) == 3)
    assert pack(line.sent[1][1]) == pack(declined_record())
    assert "sealed" in line.sent[2][1]
    assert "exit -9" in logged(agent.home, "declined")[0]["why"]


@pytest.mark.parametrize("trouble", [LinkError("gone"), RefusedError("revoked"), OSError(5, "broken")])
def test_a_server_that_is_gone_or_refuses_is_tried_again_for_ever_and_told_of_once(trouble, agent, line):
    line.trouble = [trouble] * 4
    until(agent, lambda: line.links >= 5)
    assert len(logged(agent.home, "waiting")) == 1


def test_a_device_that_is_not_enrolled_waits(agent, line):
    agent.home.server.unlink()
    until(agent, lambda: logged(agent.home, "waiting"))
    assert "belongs to no server yet" in logged(agent.home, "waiting")[0]["why"]
    assert line.links == 0


def test_on_battery_the_server_is_left_alone(device, line):
    home, key = device
    agent = Agent(home, Settings(power="battery", network="unmetered"), key)
    until(agent, lambda: logged(home, "waiting"))
    assert logged(home, "waiting")[0]["why"] == "on battery"
    assert line.links == 0


def test_a_link_is_given_up_when_the_battery_takes_over(device, line, monkeypatch):
    home, key = device
    monkeypatch.setattr("client.agent.LOOK_AROUND", 0.1)
    said = [""]
    monkeypatch.setattr("client.agent.reason_to_wait", lambda _settings: said[0])
    agent = Agent(home, SETTINGS, key)

    def happened():
        if line.links:
            said[0] = "on battery"
        return logged(home, "waiting")

    until(agent, happened)
    assert line.links == 1


def test_messages_without_end_keep_no_device_at_its_battery(device, line, incoming, monkeypatch):
    home, key = device
    monkeypatch.setattr("client.agent.LOOK_AROUND", 0.0)
    monkeypatch.setattr("client.agent.REFUSALS", 0.01)
    monkeypatch.setattr("client.agent._ask_worker", lambda *_: (received_record(), {}))
    said = [""]
    monkeypatch.setattr("client.agent.reason_to_wait", lambda _settings: said[0])
    agent = Agent(home, SETTINGS, key)
    monkeypatch.setattr(line, "receive", lambda: incoming(RecordDict()))

    def happened():
        if line.sent:
            said[0] = "on battery"
        return logged(home, "waiting")

    until(agent, happened)


def test_what_nobody_foresaw_does_not_end_the_agent(agent, line):
    line.trouble = [IndexError("list index out of range"), RecursionError()]
    until(agent, lambda: line.links >= 3)
    assert logged(agent.home, "waiting")[0]["why"] == "IndexError: list index out of range"


def test_an_address_that_cannot_be_read_is_not_in_the_way_for_ever(agent, line):
    (agent.home.folder / UNANSWERED).write_bytes(b"\xff\xff")
    until(agent, lambda: not (agent.home.folder / UNANSWERED).exists())
    assert line.sent == []
    assert len(logged(agent.home, "dropped")) == 1


def test_a_worker_goes_when_nothing_came_for_a_while_though_the_server_is_gone(device, line):
    """It holds behaviour in its memory, and four times what the agent does."""
    home, key = device
    agent = Agent(home, SETTINGS.model_copy(update={"linger_seconds": 0.2}), key)
    agent.worker = client.agent._hire(agent)
    line.trouble = [LinkError("gone")] * 10_000
    until(agent, lambda: agent.worker is None)


def test_who_sends_what_is_refused_is_asked_less_often(agent, line, incoming, monkeypatch):
    """Each refusal may be a line in the ledger, which is never shortened."""
    monkeypatch.setattr("client.agent.REFUSALS", 0.01)
    monkeypatch.setattr("client.agent._ask_worker", lambda *_: (declined_record(), {}))
    waits = []
    real = agent.stop.wait
    monkeypatch.setattr(agent.stop, "wait", lambda seconds: waits.append(seconds) or real(seconds))
    line.inbox = [incoming(RecordDict())] * 3
    until(agent, lambda: len(line.sent) == 3)
    assert waits.count(SETTINGS.poll_seconds) >= 2


def test_a_full_disk_declines_before_anything_is_computed(agent, line, task, message, plan, incoming, monkeypatch):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.agent.write_atomically", full)
    line.inbox = [incoming(message(task("statistics", plan=plan(trust="local"))))]
    until(agent, lambda: line.sent)
    assert is_declined(line.sent[0][1])
    assert agent.worker is None
    assert not agent.home.ledger.exists()


def test_a_publication_starts_to_build_the_shelf(agent, line, incoming, catalogue):
    issue = Publication(1, "", 0, "", catalogue.version(), catalogue_bytes(catalogue), (), (), b"", None)
    line.inbox = [incoming(publication_record(issue, SERVER, TIP), "query.publication")]
    taken = []
    agent.fresh = lambda: taken.append(read_current(agent.home).number)
    until(agent, lambda: 1 in taken)
    assert is_received(line.sent[0][1])


def test_a_shelf_that_was_not_built_is_not_taken_in(agent, line):
    (agent.home.shelf).mkdir(exist_ok=True)
    (agent.home.published).mkdir(exist_ok=True)
    (agent.home.folder / "device.toml").rename(agent.home.folder / "device.old")
    taken = []
    agent.fresh = lambda: taken.append(1)
    until(agent, lambda: logged(agent.home, "the shelf was not built"))
    assert taken == []


def test_two_agents_of_one_device_are_refused(device):
    home, _ = device
    with alone(home), pytest.raises(DataError, match="runs here already"), alone(home):
        pass
    with alone(home):
        pass


def test_the_days_work_is_done_at_the_start_and_a_failure_is_no_end(device, line):
    home, key = device
    done = []

    def daily():
        done.append(1)
        raise OSError(28, "No space left on device")

    agent = Agent(home, SETTINGS, key, daily=daily)
    until(agent, lambda: line.links)
    assert done == [1]
    assert len(logged(home, "the day's work failed")) == 1


def test_once_leaves_in_time_and_says_whether_the_server_was_there(agent, line):
    began = time.monotonic()
    run(agent, until=began + 0.5)
    assert agent.reached
    line.trouble = [LinkError("gone")] * 1000
    other = Agent(agent.home, read_settings(agent.home), agent.key)
    run(other, until=time.monotonic() + 0.3)
    assert other.reached, "it was connected, if only for a moment"
