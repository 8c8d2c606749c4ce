"""When a device leaves the server alone: read from what Linux tells, unless the person says otherwise."""

from __future__ import annotations

import pytest

from client import power
from client.power import network_manager_says, reason_to_wait
from client.settings import Settings


@pytest.fixture
def supplies(tmp_path):
    """``supplies(name={file: content})``: a folder as Linux has it."""

    def make(**found):
        for name, files in found.items():
            (tmp_path / name).mkdir()
            for file, content in files.items():
                (tmp_path / name / file).write_text(content + "\n")
        return tmp_path

    return make


MAINS, NO_MAINS = {"type": "Mains", "online": "1"}, {"type": "Mains", "online": "0"}
EMPTYING, FULL = {"type": "Battery", "status": "Discharging"}, {"type": "Battery", "status": "Full"}
MOUSE = {"type": "Battery", "scope": "Device", "status": "Discharging"}


@pytest.mark.parametrize(
    ("found", "waits"),
    [
        ({}, False),
        ({"AC": MAINS, "BAT0": EMPTYING}, False),
        ({"AC": NO_MAINS, "BAT0": EMPTYING}, True),
        ({"AC": NO_MAINS, "BAT0": FULL}, False),
        ({"BAT0": EMPTYING}, True),
        ({"mouse": MOUSE}, False),
    ],
)
def test_the_battery_as_linux_tells_it(found, waits, supplies):
    said = reason_to_wait(Settings(), supplies(**found), lambda: None)
    assert said == ("on battery" if waits else "")


@pytest.mark.parametrize(("metered", "waits"), [(True, True), (False, False), (None, False)])
def test_the_network_as_the_system_tells_it(metered, waits, supplies):
    assert bool(reason_to_wait(Settings(), supplies(), lambda: metered)) == waits


def test_the_persons_word_wins(supplies):
    folder = supplies(BAT0=EMPTYING)
    assert reason_to_wait(Settings(power="mains"), folder, lambda: None) == ""
    assert reason_to_wait(Settings(on_battery="train"), folder, lambda: None) == ""
    assert reason_to_wait(Settings(power="battery"), folder.parent / "none", lambda: None) == "on battery"
    assert reason_to_wait(Settings(power="mains", network="metered"), folder, lambda: False) != ""
    assert reason_to_wait(Settings(power="mains", network="unmetered"), folder, lambda: True) == ""
    assert reason_to_wait(Settings(power="mains", metered="train"), folder, lambda: True) == ""


@pytest.mark.parametrize(
    ("script", "answer"),
    [("echo 'yes (guessed)'; echo; echo no", True), ("echo no; echo", False), ("echo", None), ("exit 3", None)],
)
def test_network_manager_is_asked_where_it_is(script, answer, tmp_path, monkeypatch):
    tool = tmp_path / "nmcli"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(power.shutil, "which", lambda _name: str(tool))
    assert network_manager_says() is answer
    monkeypatch.setattr(power.shutil, "which", lambda _name: None)
    assert network_manager_says() is None


def test_network_manager_is_asked_in_english_and_told_nothing(tmp_path, monkeypatch):
    tool = tmp_path / "nmcli"
    tool.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\necho no\n")
    tool.chmod(0o755)
    monkeypatch.setattr(power.shutil, "which", lambda _name: str(tool))
    monkeypatch.setenv("FEDRECALL_PASSPHRASE", "correct horse")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert network_manager_says() is False
    seen = (tmp_path / "seen").read_text()
    assert "LC_ALL=C" in seen
    assert "horse" not in seen
