"""What measurements share: a fresh process a figure, bars, and how both are printed."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from rich.console import Console

from shared.errors import RunError
from simulations.benchmarks import measure
from simulations.benchmarks.tables import bars_table, cell_of, machine_line

CHILD = """\
import json, os, sys
print("something that a library says")
print(json.dumps({"threads": os.environ["OMP_NUM_THREADS"], "args": sys.argv[1:], "pid": os.getpid()}))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module that a child can run."""

    def write(text):
        (tmp_path / "made_up_child.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "made_up_child"

    return write


def test_a_child_has_one_thread_and_its_last_line_is_the_result(module):
    import os

    got = measure.in_child(module(CHILD), "a", "b")
    assert (got["threads"], got["args"]) == ("1", ["a", "b"])
    assert got["pid"] != os.getpid()


def test_a_child_that_fails_is_an_error_with_its_last_words(module):
    with pytest.raises(RunError, match="ended with 3: too little room"):
        measure.in_child(module("import sys\nsys.stderr.write('too little room')\nsys.exit(3)\n"))


def test_a_failure_is_its_last_line_and_not_a_traceback(module):
    with pytest.raises(RunError, match=r"ended with 1: ValueError: too wide$"):
        measure.in_child(module("raise ValueError('too wide')"))


@pytest.mark.parametrize("text", ["", "print('no figures')", "print(3)"])
def test_a_child_without_figures_is_an_error(module, text):
    with pytest.raises(RunError, match="printed no figures"):
        measure.in_child(module(text))


def test_a_process_that_cannot_be_started_or_does_not_end_is_an_error(tmp_path):
    with pytest.raises(RunError, match="the peer cannot be started"):
        measure.figures_of("the peer", [str(tmp_path / "python")])
    with pytest.raises(RunError, match="did not end within 0 seconds"):
        measure.figures_of("the peer", [sys.executable, "-c", "import time; time.sleep(60)"], limit=0.2)


def test_a_package_that_is_not_installed_stands_there_as_such():
    found = measure.machine("numpy", "no-such-package").packages
    assert found == {"numpy": np.__version__, "no-such-package": "not installed"}


def test_a_peak_is_never_below_what_is_held():
    assert measure.peak() >= measure.resident() > 0


def test_own_memory_is_what_is_made_and_not_what_is_mapped(tmp_path):
    size = 64 << 20
    np.save(tmp_path / "a.npy", np.ones(size, np.uint8))
    with measure.own_peak() as before:
        pass
    with measure.own_peak() as mapped:
        assert np.load(tmp_path / "a.npy", mmap_mode="r").sum() == size
    with measure.own_peak() as made:
        assert np.ones(size, np.uint8).sum() == size
        block = np.ones(size, np.uint8)
        time.sleep(0.2)
        del block
    assert mapped[0] - before[0] < size / 2
    assert made[0] - before[0] > size / 2


@pytest.mark.parametrize(
    ("sign", "met"), [("<", [True, False, False]), ("<=", [True, True, False]), (">=", [False, True, True])]
)
def test_a_bar_is_met_or_not(sign, met):
    bars = [measure.bar_of("speed", value, sign, 2.0) for value in (1.0, 2.0, 3.0)]
    assert [bar["met"] for bar in bars] == met
    assert bars[0]["bar"] == f"{sign} 2"


def test_a_bar_that_is_missed_stands_out():
    console = Console(record=True, width=100)
    console.print(bars_table([measure.bar_of("speed", 1.0, ">=", 2.0), measure.bar_of("size", 1.0, "<", 2.0)]))
    speed, size = (line for line in console.export_text().splitlines() if "speed" in line or "size" in line)
    assert speed.split()[-1] == "NO"
    assert size.split()[-1] == "yes"


def test_a_spread_is_its_median_and_half_its_range():
    assert cell_of({"median": 2.0, "low": 1.5, "high": 2.5, "repeats": 3}) == "2 ±25%"
    assert cell_of({"median": 2.0, "low": 2.0, "high": 2.0, "repeats": 1}) == "2"


def test_a_machine_is_one_line():
    where = {"cpu": "Chip", "cores": 2, "load": 0.5, "python": "3.11", "packages": {"numpy": "2", "flwr": "1"}}
    line = machine_line({"machine": where, "load_after": 1.25})
    assert line == "Chip, 2 cores, load average 0.50 before and 1.25 after; Python 3.11, numpy 2, flwr 1"
