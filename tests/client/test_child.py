"""A device's child processes: the installed code, and nothing that the agent keeps to itself."""

from __future__ import annotations

import subprocess

import pytest

from client.child import start_child
from client.home import Home

PROBE = "from os import environ\nprint(sorted(name for name in environ if name.startswith(('FEDRECALL_', 'OMP_'))))\n"


@pytest.mark.parametrize("module", ["client.worker", "client.shelving"])
def test_a_child_runs_nothing_of_the_folder_it_starts_in(module, tmp_path, monkeypatch):
    (tmp_path / "client.py").write_text("raise SystemExit('code from a folder that somebody else may write to')")
    (tmp_path / "device.toml").touch()
    monkeypatch.chdir(tmp_path)
    child = start_child(module, Home(tmp_path), talk=subprocess.PIPE, complain=subprocess.PIPE)
    _, complaint = child.communicate(b"")
    assert (child.returncode, complaint) == (0, b"")


def test_a_child_is_told_no_passphrase_and_computes_on_one_thread(tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FEDRECALL_PASSPHRASE", "correct horse")
    child = start_child("probe", Home(tmp_path), talk=subprocess.PIPE)
    said, _ = child.communicate()
    assert said.decode().strip() == "['OMP_NUM_THREADS']"
