"""``up`` for real: SuperLink, superexec, run loop and operator API as processes, with devices over TLS; and killed."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.supercore.task_identity import TaskIdentity

from client.consent import consent_to
from client.fleet_link import LinkError, RefusedError, content_of, link
from server import enrolling, superlink
from server.control import lock_of, read_standing
from server.promise import plan_of, write_promise
from server.resuming import held
from server.running import has_ended, runs_of
from server.stock_orders import import_items
from shared.enrolment import make_request
from shared.errors import RunError
from shared.keys import own_key
from shared.privacy.ledger import public_hex
from shared.publication import ROUTE

pytestmark = pytest.mark.slow
NOW = datetime.now(UTC)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(what, happened, patience=240.0):
    end = time.monotonic() + patience
    while not (value := happened()):
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {patience:.0f} s")
        time.sleep(0.2)
    return value


class Up:
    """A house that is up, and its devices, each a thread with a connection of its own."""

    def __init__(self, house, log):
        self.house, self.log, self.process, self.stop, self.threads = house, log, None, threading.Event(), []
        self.service = house.config().service
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

    def start(self):
        code = (
            "import sys; from pathlib import Path; from server.house import house_at; from server.supervisor import up;"
            "sys.exit(up(house_at(Path(sys.argv[1]))))"
        )
        with self.log.open("ab") as out:
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-c", code, self.house.folder]
            self.process = subprocess.Popen(command, stderr=out, stdout=out, env=env, start_new_session=True)

    def pids(self, name):
        """Processes of this house, by a word of their command line."""
        word = str(self.service.superlink_port)
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if name in command and word in command and "Z" not in (path / "stat").read_text().split(") ")[1][:1]:
                    found.append(int(path.name))
        return found

    def kill(self, name):
        (pid,) = self.pids(name)
        os.kill(pid, signal.SIGKILL)

    def connect(self, device, key):
        thread = threading.Thread(target=self._live, args=(device, key), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _live(self, device, key):
        address, known = superlink.address(self.service), 0
        while not self.stop.is_set():
            with (
                contextlib.suppress(LinkError),
                link(address, self.house.ca.read_text(), key, known=known, stop=self.stop) as line,
            ):
                known = line.node
                while not self.stop.is_set():
                    incoming = line.receive()
                    if incoming is None:
                        self.stop.wait(0.2)
                        continue
                    record = content_of(incoming)
                    incoming.close()
                    line.reply(incoming, device.take(record) if incoming.kind == ROUTE else device.answer(record))
            self.stop.wait(0.5)

    def close(self):
        self.stop.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for thread in self.threads:
            thread.join(10)

    def rounds(self):
        path = runs_of(self.house)[-1:] and runs_of(self.house)[-1] / "rounds.jsonl"
        return len(path.read_text().splitlines()) if path and path.exists() else 0

    def events(self):
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def now():
    """Certificates of this house are looked at by others, at the time it is."""
    return NOW


@pytest.fixture
def up(new_house, tmp_path, device):
    ports = [f"service.superlink_port={free_port()}", f"service.operator_port={free_port()}"]
    sets = [
        "rounds=5",
        "privacy.delta=1e-3",
        "cohort.deadline=20",
        "policy.measure_every=5",
        "privacy.participations=8",
    ]
    house = new_house(*sets, *ports, clients=3, address="127.0.0.1:9")
    with (tmp_path / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "text", "categories"])
        writer.writerows([f"i{n}", f"Title {n}", f"word{n % 7} word{n % 5} more", f"c{n % 3}"] for n in range(40))
    import_items(house, tmp_path / "items.csv", now=NOW)
    write_promise(house, house.config(), None)
    (tmp_path / "ledgers").mkdir()
    consent = consent_to(plan_of(house.config(), {"update": 100, "profile": 100}))
    consent = consent.model_copy(update={"epsilon_per_period": 100.0, "epsilon_lifetime": 100.0})
    at = Up(house, tmp_path / "up.log")
    at.people = []
    for number in (1, 2, 3):
        key = generate_private_key(SECP384R1())
        one = device(number, tmp_path, public_hex(own_key(house.ledger_key)), consent)
        text = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        request = make_request(enrolling.invite(house, "op", 1, NOW), text, one.key)
        enrolling.approve(house, request, "op", NOW)
        at.people.append((one, key))
    yield at
    at.close()
    for one, _ in at.people:
        if one.host is not None:
            one.host.close()


def test_a_run_finishes_although_everything_is_killed_once_and_a_stop_leaves_nothing_behind(up):
    up.start()
    for one, key in up.people:
        up.connect(one, key)
    for number, name in enumerate(["flower-superlink", "flwr-serverapp", "flower-superexec"], 1):
        until(f"round {number}", lambda number=number: up.rounds() >= number)
        up.kill(name)
    until("round 4", lambda: up.rounds() >= 4)
    up.process.kill()
    up.process.wait()
    until("children that end with their parent", lambda: not up.pids("flower") and not up.pids("flwr-"), 30)
    up.start()
    until("the end of the run", lambda: runs_of(up.house) and has_ended(runs_of(up.house)[-1]))
    assert up.rounds() == 5
    assert len(runs_of(up.house)) == 1
    until("the model on every device", lambda: all(one.publications[-1].round == 5 for one, _ in up.people), 60)
    died = {event.get("child") for event in up.events() if event["event"] == "died"}
    assert {"superlink", "superexec", "serving"} <= died
    up.process.terminate()
    assert up.process.wait(60) == 0
    assert not up.pids("flower")
    assert not up.pids("flwr-")
    assert not held(lock_of(up.house))
    assert up.events()[-1]["event"] == "down"


def test_keys_come_and_go_at_the_superlink_and_a_revoked_device_is_refused(up):
    up.start()
    until("the run loop", lambda: held(lock_of(up.house)))
    until("who is enrolled", lambda: all(client.node for client in enrolling.read_clients(up.house)))
    first, *_ = enrolling.read_clients(up.house)
    assert superlink.register(up.house, first.node_key) == first.node
    one, key = up.people[0]
    address, authority = superlink.address(up.service), up.house.ca.read_text()
    with link(address, authority, key) as line:
        assert line.node == first.node
    with pytest.raises(RefusedError), link(address, authority, generate_private_key(SECP384R1())):
        pytest.fail("a key that nobody enrolled")
    enrolling.revoke(up.house, one.name, "op", NOW)
    until("the revocation", lambda: enrolling.read_clients(up.house)[0].node is None, 30)
    with pytest.raises(RefusedError), link(address, authority, key):
        pytest.fail("a revoked key")
    superlink.unregister(up.house, first.node)
    with pytest.raises(RunError, match="never taken again"):
        superlink.register(up.house, first.node_key)
    until("the loop to notice", lambda: "of 2 clients are online" in read_standing(up.house).waiting, 30)
