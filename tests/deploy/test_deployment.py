"""A deployment for real: SuperLink, proxy, TLS and five devices, each a process of its own, on loopback.

The quick test is one short run. The slow one is ten rounds in which everything that can die does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.error import HTTPError

import pytest
from loopback import (
    LoopbackError,
    ask_device,
    audit,
    command,
    deployed,
    start_device,
    start_proxy,
    status,
    stop,
    through_proxy,
    titles,
    wait_for,
    wait_for_round,
)

CLIENTS = 5


@pytest.fixture
def folder(tmp_path, needed):
    needed("nginx")
    return tmp_path / "deployment"


def lines(path):
    return [json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines()]


def paid(deployment, number):
    """Every task that a device paid for, by name."""
    intents = [event for event in lines(deployment.device(number) / "ledger.jsonl") if event["type"] == "intent"]
    return [(one["run"], one["round"], one["attempt"], one["release"]) for one in intents]


def stored(deployment, number):
    return ask_device(deployment, number, "/v1/status")["stored"]["events"]


def processes(word):
    """Numbers of all processes whose command line holds a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if word in words:
                found.append(int(entry.name))
    return found


def test_five_devices_train_recommend_and_are_audited(folder):
    with deployed(folder, CLIENTS, rounds=2) as deployment:
        wait_for_round(deployment, 2, 240)
        for number in range(CLIENTS):
            wait_for("a model", lambda n=number: ask_device(deployment, n, "/v1/recommendations")["model_round"], 60)
            assert stored(deployment, number) == 40
            assert len(set(paid(deployment, number))) == len(paid(deployment, number))
        first = ask_device(deployment, 0, "/v1/recommendations?k=5")["offers"][0]
        ask_device(deployment, 0, "/v1/events", {"events": [{"item": first["id"], "kind": "purchase"}]})
        assert first["title"] not in titles(deployment)
        assert through_proxy(deployment, "/v1/control/list-runs") == 404
        assert through_proxy(deployment, "/v1/fleet/pull-messages") == 401
        revoked_is_refused(deployment)
        code, said = audit(deployment, CLIENTS)
        assert code == 0, said


def seen_from_outside(deployment, number):
    """What a device's folder tells without a key."""
    home = deployment.device(number)
    return json.loads(command(deployment, "fedrecall-client", "status", "--home", home, "--json").stdout)


def revoked_is_refused(deployment):
    """A device whose key was taken away is not let in, and goes on serving."""
    listed = json.loads(command(deployment, "fedrecall-server", "enroll", "list", deployment.house, "--json").stdout)
    name = seen_from_outside(deployment, 4)["name"]
    assert name in {one["name"] for one in listed["clients"]}
    command(deployment, "fedrecall-server", "enroll", "revoke", deployment.house, name)

    def refused():
        return seen_from_outside(deployment, 4)["log"][-1]["event"] == "waiting"

    wait_for("the revoked device to notice", refused, 60)
    assert ask_device(deployment, 4, "/v1/recommendations")["offers"]


def test_the_deployment_explains_what_does_not_start(folder):
    folder.mkdir()
    (folder / "server").mkdir()
    (folder / "server" / "something").write_text("else", encoding="utf-8")
    with pytest.raises(LoopbackError, match="not empty"), deployed(folder, CLIENTS, rounds=1):
        pass


@pytest.mark.slow
def test_ten_rounds_while_everything_that_can_die_does(folder, needed):
    needed("faketime")
    # A round that is cut short is charged all the same: slack for the rounds that die here.
    with deployed(folder, CLIENTS, rounds=10, sets={"privacy.participations": "14"}) as deployment:
        recorded = Recorder(deployment)
        wait_for_round(deployment, 1, 240)
        device_killed(deployment, 0, "while it is idle", lambda: True)
        device_killed(deployment, 0, "in a session", (deployment.device(0) / "seat").exists)
        known = len(lines(deployment.device(1) / "ledger.jsonl"))
        device_killed(
            deployment, 1, "after it has paid", lambda: len(lines(deployment.device(1) / "ledger.jsonl")) > known
        )
        workers_killed(deployment, 2)
        superlink_killed(deployment)
        stop(deployment, "proxy")
        time.sleep(30)
        start_proxy(deployment)
        stop(deployment, "device-3")
        # Only the clock on the wall is wrong: libfaketime would let waits hang, too.
        start_device(deployment, 3, wrapper=["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", "+4m"])
        disk_full(deployment, 4)
        recorded.stop()
        last = wait_for_round(deployment, 10, 1500)
        assert last["round"] == 10
        for number in range(CLIENTS):
            assert Counter(paid(deployment, number)).most_common(1)[0][1] == 1
            assert 10 in {round_ for _, round_, *_ in paid(deployment, number)}, f"device {number} never came back"
            assert stored(deployment, number) == 40 + recorded.count[number]
        code, said = audit(deployment, CLIENTS)
        assert code == 0, said


class Recorder:
    """Somebody uses every device all the time; counts what the device said it has stored."""

    def __init__(self, deployment):
        self.count = dict.fromkeys(range(CLIENTS), 0)
        self._deployment, self._going = deployment, True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        turn = 0
        while self._going:
            number = turn % CLIENTS
            try:
                item = f"i{turn % 120:03d}"
                ask_device(self._deployment, number, "/v1/events", {"events": [{"item": item, "kind": "view"}]})
                self.count[number] += 1
            except OSError:
                pass  # it was killed just now; what was not confirmed is not counted
            turn += 1
            time.sleep(0.5)

    def stop(self):
        self._going = False
        self._thread.join()


def device_killed(deployment, number, when, happened):
    wait_for(when, happened, 240, every=0.01)
    stop(deployment, f"device-{number}", signal.SIGKILL)
    start_device(deployment, number)


def workers_killed(deployment, number):
    for pid in wait_for("a worker", lambda: workers(deployment, number), 240):
        os.kill(pid, signal.SIGKILL)


def workers(deployment, number):
    home = str(deployment.device(number))
    return [pid for pid in processes("client.worker") if home in _words(pid)]


def _words(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def superlink_killed(deployment):
    now = status(deployment).get("round", 0)
    wait_for("the next round", lambda: status(deployment).get("round", 0) > now, 240)
    time.sleep(1)
    (pid, *_) = [pid for pid in processes("flower-superlink") if str(deployment.house) in _words(pid)]
    os.kill(pid, signal.SIGKILL)


def disk_full(deployment, number):
    """No file of the device can grow while a round passes: an event is refused, not lost in silence."""
    largest = (deployment.device(number) / "ledger.jsonl").stat().st_size + 10
    agent = deployment.running[f"device-{number}"].pid
    for pid in {agent, *workers(deployment, number)}:
        subprocess.run(["prlimit", f"--pid={pid}", f"--fsize={largest}:unlimited"], check=True)
    with pytest.raises(HTTPError):
        ask_device(deployment, number, "/v1/events", {"events": [{"item": "i001", "kind": "view"}] * 400})
    wait_for_round(deployment, status(deployment)["round"] + 1, 300)
    for pid in {agent, *workers(deployment, number)}:
        subprocess.run(["prlimit", f"--pid={pid}", "--fsize=unlimited"], check=True)


def test_a_device_without_a_server_serves_for_ever(folder):
    """Nothing is up but the device: it answers, and it says why it does not take part."""
    with deployed(folder, CLIENTS, rounds=1) as deployment:
        stop(deployment, "server")
        stop(deployment, "proxy")
        stop(deployment, "device-0")
        start_device(deployment, 0)
        wait_for("the local API", lambda: answers(deployment), 20)
        assert stored(deployment, 0) == 40
        wait_for("the reason", lambda: seen_from_outside(deployment, 0)["log"][-1]["event"] == "waiting", 30)


def answers(deployment):
    try:
        return "offers" in ask_device(deployment, 0, "/v1/recommendations")
    except OSError:
        return False
