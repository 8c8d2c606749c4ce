"""Processes of a sweep: as many as were allowed, one thread each, none lost with another, none left behind."""

from __future__ import annotations

import os
import time

import pytest

from simulations.sweep import dispatch
from simulations.sweep.child import Order
from simulations.sweep.dispatch import THREADS, in_processes, log_of, why_failed

CARRIES_OUT_SCRIPTS = "import json, sys; exec(json.loads(sys.stdin.readline())['config']['script'])"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    """A child does what the script in its order says, instead of a run."""
    monkeypatch.setattr(dispatch, "CHILD", ("-c", CARRIES_OUT_SCRIPTS))


@pytest.fixture
def pool(tmp_path):
    """``pool({name: script}, jobs)``: name -> why it failed. ``pool.begun`` grows."""
    begun: list[str] = []

    def go(scripts, jobs=2):
        orders = {name: order_of(tmp_path / name, script) for name, script in scripts.items()}
        return dict(in_processes(orders, jobs, begun.append))

    go.begun = begun
    return go


def order_of(folder, script):
    return Order(str(folder), {"script": script}, "")


def test_one_failure_leaves_the_others_and_is_the_last_thing_that_was_said(pool, tmp_path):
    said = "import sys; print('working', file=sys.stderr); sys.exit('privacy.epsilon = 0: must be above 0')"
    found = pool({"good": "", "bad": said, "also-good": "print('hello')"})
    assert found == {"good": None, "bad": "privacy.epsilon = 0: must be above 0", "also-good": None}
    assert (tmp_path / "also-good.log").read_text() == "hello\n"


def test_a_run_that_cannot_be_begun_leaves_the_others(pool, tmp_path):
    (tmp_path / "bad.log").mkdir()
    found = pool({"bad": "", "good": ""}, jobs=1)
    assert found["good"] is None
    assert found["bad"] == f"cannot be begun ({tmp_path / 'bad.log'}: Is a directory)"
    assert pool.begun == ["good"]


def test_a_node_that_cannot_begin_a_run_says_why(tmp_path):
    order = order_of(tmp_path / "run", "")
    (tmp_path / dispatch.SEEN).write_text("word")
    log_of(order).mkdir()
    assert "Is a directory" in dispatch._on_node(order, "word", dispatch.digest(dispatch.RUNS))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("raise SystemExit(3)", "exit code 3"),
        ("raise SystemExit(130)", "interrupted"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_every_way_to_end_badly_is_told(pool, script, why):
    assert pool({"run": script}) == {"run": why}


def test_no_more_than_the_allowed_number_work_at_once(pool, tmp_path):
    script = f"""
import os, time, pathlib
folder = pathlib.Path({str(tmp_path / "live")!r}); folder.mkdir(exist_ok=True)
mine = folder / str(os.getpid()); mine.touch(); time.sleep(0.3)
print(len(list(folder.iterdir()))); mine.unlink()
"""
    assert set(pool({f"run-{number}": script for number in range(6)}, jobs=2).values()) == {None}
    counts = [int((tmp_path / f"run-{number}.log").read_text()) for number in range(6)]
    assert max(counts) <= 2
    assert pool.begun == [f"run-{number}" for number in range(6)]


def test_a_process_has_one_thread_for_arithmetic(pool, tmp_path):
    pool({"run": f"import os; print([os.environ[name] for name in {THREADS!r}])"})
    assert (tmp_path / "run.log").read_text() == f"{['1'] * len(THREADS)}\n"


def test_ctrl_c_reaches_every_process_once_and_waits_until_it_has_saved(tmp_path, monkeypatch):
    script = """
import signal, time
def save(*_):
    time.sleep(0.3); print("saved", flush=True); sys.exit(130)
signal.signal(signal.SIGINT, save); print("up", flush=True); signal.pause()
"""
    orders = {name: order_of(tmp_path / name, script) for name in "ab"}
    wait = time.sleep

    def press(_seconds):
        if all("up" in log_of(order).read_text() for order in orders.values()):
            raise KeyboardInterrupt
        wait(0.05)

    monkeypatch.setattr(dispatch.time, "sleep", press)
    with pytest.raises(KeyboardInterrupt):
        list(in_processes(orders, 2, lambda _name: None))
    assert [log_of(order).read_text() for order in orders.values()] == ["up\nsaved\n"] * 2


def test_a_child_ends_at_once_when_whoever_ordered_it_is_gone(tmp_path):
    script = """
import threading, time
from simulations.sweep import child
threading.Thread(target=child._leave_with_parent, daemon=True).start()
print("up", flush=True); time.sleep(60)
"""
    process = dispatch.start(order := order_of(tmp_path / "run", script))
    while "up" not in log_of(order).read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.stdin.close()
    assert process.wait(10) == 130


def test_a_child_that_ended_before_it_read_its_order_is_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "CHILD", ("-c", "raise SystemExit('no memory')"))
    order = order_of(tmp_path / "run", "x" * 1_000_000)  # more than a pipe holds
    assert why_failed(dispatch.start(order), order) == "no memory"


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= dispatch.cores() <= (os.cpu_count() or 1)
