"""A vault under kill -9, a full disk and two writers: real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from client.behaviour import Behaviour
from client.home import Home
from client.vault import WrongKeyError, open_vault
from client.vault_key import new_key, unlock

KEY = bytes(range(32))
_BEGIN = """
import sys
from pathlib import Path
from client.behaviour import Behaviour
from client.home import Home
from client.vault import open_vault
path, key = Path(sys.argv[1]), bytes(range(32))
def told(*words):
    print(*words, flush=True)
"""
RECORD = """
with open_vault(path, key) as vault:
    for number in range(100_000):
        vault.record([Behaviour(f"{sys.argv[2]}-{number}", "view", float(number))])
        told(number)
        if number + 1 == int(sys.argv[3]):
            break
"""
FORGET = """
with open_vault(path, key) as vault:
    told("ready")
    while True:
        vault.record([Behaviour("drop", "view", 1.0)] * 400)
        told("recorded")
        vault.forget(["drop"])
        told("forgotten")
"""
ROTATE = """
from client import vault_key
vault_key.COST = 1 << 14
home = Home(path.parent)
told("ready")
number = 0
while True:
    vault_key.rotate(home, lambda: f"passphrase {number}", f"passphrase {number + 1}")
    number += 1
    told(number)
"""
FULL = """
import resource
with open_vault(path, key) as vault:
    vault.record([Behaviour("before", "view", 0.0)])
    most = path.with_name(path.name + "-wal").stat().st_size + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    done = 0
    try:
        while True:
            vault.record([Behaviour("during", "view", float(done))] * 50)
            done += 1
    except OSError as error:
        told(done, type(error).__name__, error.filename == str(path))
    if sys.argv[3] == "forget":
        try:
            vault.forget(["before"])
            told("forgotten")
        except OSError:
            told("refused")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    vault.record([Behaviour("after", "view", 1e9)])
    if sys.argv[3] == "forget":
        told(vault.forget(["before"]).found)
    told(vault.count(), len(vault.events()))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "behaviour.db"


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _BEGIN + code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def killed_after(process: subprocess.Popen[str], lines: int, seconds: float) -> list[str]:
    """What a process said until it was killed, a while after so many lines."""
    said = [process.stdout.readline().strip() for _ in range(lines)]
    time.sleep(seconds)
    process.kill()
    # Not by communicate(), which looks past what readline() has read ahead.
    with process.stdout as rest:
        said += [line.strip() for line in rest if line.strip()]
    process.wait(30)
    return said


@pytest.mark.parametrize("seconds", [0.0, 0.003, 0.011])
def test_no_event_that_was_acknowledged_is_lost_to_a_kill(path, seconds):
    said = killed_after(started(RECORD, path, "a", 0), 5, seconds)
    with open_vault(path, KEY) as vault:
        found = [one.item for one in vault.events()]
        assert found == [f"a-{number}" for number in range(len(found))]
        assert len(said) <= len(found) <= len(said) + 1
        vault.record([Behaviour("next", "view", 1e9)])
        assert vault.count() == len(found) + 1


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.006, 0.015, 0.03])
def test_a_kill_while_forgetting_leaves_all_or_nothing_and_the_rest(path, seconds):
    with open_vault(path, KEY) as vault:
        vault.record([Behaviour("keep", "view", float(number)) for number in range(400)])
    said = killed_after(started(FORGET, path), 2, seconds)
    assert said[1] == "recorded"
    with open_vault(path, KEY) as vault:
        items = [one.item for one in vault.events()]
        assert items.count("keep") == 400
        assert items.count("drop") in (0, 400)
        assert vault.forget(["drop"]).found == 0
        assert vault.count() == 400


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.05, 0.08])
def test_a_kill_while_the_key_changes_leaves_a_key_that_opens(path, seconds, monkeypatch):
    monkeypatch.setattr("client.vault_key.COST", 1 << 14)
    home = Home(path.parent)
    with open_vault(path, new_key(home, "passphrase 0")) as vault:
        vault.record([Behaviour("keep", "view", 1.0)] * 300)
    said = killed_after(started(ROTATE, path), 3, seconds)
    number = int(said[-1])
    words = {f"passphrase {number}", f"passphrase {number + 1}"}
    keys = []
    for word in sorted(words):
        try:
            keys.append(unlock(home, lambda word=word: word))
        except WrongKeyError:  # one of the two is wrong; which, depends on the kill
            continue
    assert len(keys) == 1
    with open_vault(path, keys[0]) as vault:
        assert vault.count() == len(vault.events()) == 300
    assert len(json.loads(home.vault_key.read_text())["keys"]) == 1


@pytest.mark.parametrize("room", [100, 5_000, 40_000, 400_000])
@pytest.mark.parametrize("what", ["record", "forget"])
def test_a_full_disk_is_the_disk_s_error_and_nothing_is_lost(path, room, what):
    process = started(FULL, path, room, what)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    first, *_, last = said.splitlines()
    done, kind, named = first.split()
    assert (kind, named) == ("OSError", "True")
    left = 2 if what == "record" else 1
    assert last.split() == [str(50 * int(done) + left)] * 2


def test_two_processes_write_at_once_and_both_are_heard(path):
    open_vault(path, KEY).close()
    pair = [started(RECORD, path, name, 150) for name in ("a", "b")]
    for process in pair:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with open_vault(path, KEY) as vault:
        assert sorted(one.item for one in vault.events()) == sorted(
            f"{name}-{number}" for name in "ab" for number in range(150)
        )
        assert vault.count() == 300


def test_two_processes_that_make_the_vault_at_once_share_one(path):
    pair = [started(RECORD, path, name, 5) for name in ("a", "b", "c")]
    for process in pair:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with open_vault(path, KEY) as vault:
        assert vault.count() == len(vault.events()) == 15
    assert [file.name for file in path.parent.iterdir()] == [path.name]
