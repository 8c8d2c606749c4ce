"""What lets a killed run go on; tests/simulations/test_mending.py has the ledger's part."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from server.resuming import alone, begun, held, whole
from shared.errors import RunError


def test_one_process_at_a_time_holds_a_lock(tmp_path):
    lock = tmp_path / "lock"
    assert not held(lock)
    with alone(lock, "busy"):
        assert held(lock)
        with pytest.raises(RunError, match=r"^busy$"), alone(lock, "busy"):
            pytest.fail("two of them")
    assert not held(lock)


def test_a_lock_goes_with_its_process_however_that_ends(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from server.resuming import alone\n"
        "with alone(Path(sys.argv[1]), 'busy'): print('mine', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "lock"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert held(tmp_path / "lock")
        process.kill()
    assert not held(tmp_path / "lock")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(RunError, match="cannot be written"), alone(tmp_path / "missing" / "lock", "busy"):
        pytest.fail("no folder")


def test_a_ledger_is_begun_with_its_first_whole_line(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    assert not begun(ledger)
    ledger.write_bytes(b"{" + bytes(1 << 17))
    assert not begun(ledger)
    with ledger.open("ab") as file:
        file.write(b"\n")
    assert begun(ledger)


def test_a_ledger_that_the_checkpoint_knows_must_be_there(tmp_path):
    state = SimpleNamespace(ledgers={"ledger.jsonl": 3, "clients.jsonl": 0})
    with pytest.raises(RunError, match="counts 3 lines: what was spent is not known"):
        whole(tmp_path, state)
    os.close(os.open(tmp_path / "ledger.jsonl", os.O_CREAT))
    whole(tmp_path, state)
    whole(tmp_path, None)
