"""Killed -9 anywhere: no vector leaves twice, no budget is used twice, no event is lost, and the round goes on."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import worker
from client.agent import UNANSWERED
from client.consent import read_consent, write_consent
from client.enrolling import enrol, node_key
from client.own_log import last_lines
from client.vault import open_vault
from client.worker import Open, answer
from shared.enrolment import Pass, write_pass
from shared.privacy.chain import public_hex
from shared.privacy.ledger import read_ledger
from shared.protocol import is_declined
from shared.wire import pack, unpack

SERVER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)


def killed(*_args, **_more):
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(home, key, sent, patches):
    """Answer in a process of its own, which dies where it is told; its answer, None when it died."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in patches.items():
                patch.setattr(name, value)
            with open_vault(home.vault, key) as vault:
                record, _ = answer(Open(home, vault), sent)
                with os.fdopen(write, "wb") as pipe:
                    pipe.write(pack(record))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(child, 0)
    return unpack(raw) if raw else None


def half_written(path, seat):
    from client.session import seat_bytes

    (path / "seat").write_bytes(seat_bytes(seat)[:40])
    killed()


def events(home, kind):
    return (
        [line.event for line in read_ledger(home.ledger) if line.event["type"] == kind] if home.ledger.exists() else []
    )


PHASES = {
    "before the ledger is opened": ("client.worker.open_device_host", 0),
    "before the payment is written": ("client.release.learn", 1),  # learned right after the intents are on disk
    "while the contribution is computed": ("client.host.contributions", 1),
    "while noise is drawn": ("client.release.seal", 1),
    "before the answer is made": ("client.host.sealed_record", 1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_worker_killed_in_a_task_pays_at_most_once_and_answers_at_most_once(
    phase, device, task, message, plan, incoming
):
    home, key = device
    name, paid = PHASES[phase]
    sent = incoming(message(task("statistics", plan=plan(trust="local"))))
    assert in_a_child(home, key, sent, {name: killed}) is None
    assert len(events(home, "intent")) == paid
    again = in_a_child(home, key, sent, {})
    assert is_declined(again) == bool(paid)
    assert len(events(home, "intent")) == 1
    other = incoming(message(task("statistics", plan=plan(trust="local"), run="another")))
    assert not is_declined(in_a_child(home, key, other, {}))
    with open_vault(home.vault, key) as vault:
        assert vault.count() == 12


SEATS = {
    "after the seat was taken": ("client.host.session.deal", killed),
    "before the seat is kept": ("client.worker.keep_seat", killed),
    "while the seat is written": ("client.worker.keep_seat", half_written),
}


@pytest.mark.parametrize("phase", SEATS)
def test_a_worker_killed_with_a_seat_in_its_hand_has_left_that_session(
    phase, device, task, table, plan, incoming, host, history
):
    home, key = device
    others = host([history(seed) for seed in range(5)])
    others.masked = True
    keys = {name: Ed25519PrivateKey.from_private_bytes(bytes([40 + int(name)]) * 32) for name in "12345"}
    others.identity = keys.__getitem__
    name, how = SEATS[phase]
    deaths = []

    def ask(step, messages):
        from client.host import answer as of_host
        from shared.protocol import declined_record

        answers = {}
        for client, record in messages.items():
            if client != "device":
                answers[client] = of_host(others, client, record)
                continue
            said = in_a_child(home, key, incoming(record), {name: how} if step == "deal" else {})
            if said is None:
                deaths.append(step)
                said = in_a_child(home, key, incoming(record), {})  # the server sends the step again: it is too late
                assert is_declined(said)
                said = declined_record()
            answers[client] = said
        return answers

    session = table(ask, task("statistics", plan=plan()), ["device", *"12345"])
    session.play()
    assert deaths == ["deal"]
    assert set(session.masked()) == set("12345")
    assert session.total().shape == session.masked()["1"].shape
    assert events(home, "intent") == []
    fresh = table(
        lambda _step, m: {c: in_a_child(home, key, incoming(r), {}) for c, r in m.items()},
        task("statistics", plan=plan(), run="another"),
        ["device"],
    )
    assert not is_declined(fresh.tell("join", fresh.messages("join"))["device"])


# --- the agent as a process, against a real SuperLink


@pytest.fixture
def enrolled(device, superlink, tmp_path):
    """The device as its SuperLink's node, and how to start its agent."""
    home, key = device
    home.server.unlink()
    home.node_key.unlink()  # each test's device is another one to the SuperLink
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    invited = Pass(
        superlink.address,
        superlink.ca,
        public_hex(SERVER),
        "0" * 64,
        secrets.token_hex(8),
        secrets.token_hex(20),
        until,
    )
    write_pass(invited, tmp_path / "invitation.json")
    enrol(home, tmp_path / "invitation.json")
    write_consent(read_consent(home.consent).model_copy(update={"roster_key": ""}), home.consent)
    node = superlink.register(node_key(home))

    @contextmanager
    def running():
        command = [str(Path(sys.executable).with_name("fedrecall-client")), "run", "--home", str(home.folder)]
        process = subprocess.Popen(command, env=os.environ | {"FEDRECALL_PASSPHRASE": "correct horse"})
        try:
            superlink.wait_for(node)
            yield process
        finally:
            process.kill()
            process.wait()

    return home, key, node, running


def logged(home, event):
    return [line for line in last_lines(home, 200) if line["event"] == event]


def wait(happened, seconds=40.0):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_an_agent_killed_in_the_middle_declines_when_it_is_back_and_goes_on(enrolled, superlink, task, message, plan):
    home, key, node, running = enrolled
    local = plan(trust="local")
    with running() as first:
        asked = superlink.ask(node, message(task(plan=local)), "train.update", ttl=120)
        wait((home.folder / UNANSWERED).exists)
        first.send_signal(signal.SIGKILL)
        first.wait()
    began = time.monotonic()
    with running():
        answered = superlink.answer(asked, 40).content
        assert is_declined(answered)
        assert time.monotonic() - began < 40, "not the minute that Flower waits for a lost node"
        second = superlink.ask(node, message(task(plan=local, round=2)), "train.update", ttl=120)
        assert "sealed" in superlink.answer(second, 90).content
    spent = [(event["round"], event["release"]) for event in events(home, "intent")]
    assert len(spent) == len(set(spent)) <= 2
    with open_vault(home.vault, key) as vault:
        assert vault.count() == 12


@pytest.mark.slow
def test_a_superlink_killed_in_the_middle_comes_back_to_a_device_that_waited(enrolled, superlink, task, message, plan):
    home, _, node, running = enrolled
    with running() as agent:
        asked = superlink.ask(node, message(task("statistics", plan=plan(trust="local"))), "query.statistics", ttl=120)
        wait((home.folder / UNANSWERED).exists)
        superlink.kill()
        time.sleep(3)
        superlink.start()
        assert "sealed" in superlink.answer(asked, 90).content
        assert agent.poll() is None


@pytest.mark.slow
def test_a_revoked_device_serves_on_and_waits(enrolled, superlink):
    home, _, node, running = enrolled
    with running() as agent:
        superlink.unregister(node)
        wait(lambda: logged(home, "waiting"), 60)
        assert "revoked" in logged(home, "waiting")[-1]["why"]
        assert agent.poll() is None
        agent.terminate()
        assert agent.wait(30) == 0
    assert json.dumps(logged(home, "ended")) != "[]"


@pytest.mark.slow
def test_memory_of_agent_and_worker_stays_small(enrolled, superlink, task, message, plan):
    """Prints what both took; the bar of the agent is 130 MB."""

    def resident(pid):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    home, _, node, running = enrolled
    text = home.settings.read_text()
    home.settings.write_text(text.replace("linger_seconds = 60.0", "linger_seconds = 0.5"))
    with running() as agent:
        idle = resident(agent.pid)
        asked = superlink.ask(node, message(task(plan=plan(trust="local"))), "train.update", ttl=120)
        assert "sealed" in superlink.answer(asked, 90).content
        wait(lambda: logged(home, "worker ended"), 60)
        after = resident(agent.pid)
    peak = logged(home, "worker ended")[-1]["peak_mb"]
    sys.stdout.write(f"agent {idle:.0f} MB idle, {after:.0f} MB after a task; worker's peak {peak:.0f} MB\n")
    assert max(idle, after) < 130
    assert worker.peak_memory() > 0
