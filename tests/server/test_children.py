"""Processes that are looked after: real ones, which die, hang and talk; the clock is the test's."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.children import LONGEST, STEADY, Backoff, Child
from server.logs import logging_to


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def log():
    stream = io.StringIO()
    with logging_to(logging.StreamHandler(stream), "test"):
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def child(log):
    made = []

    def make(code):
        clock = Clock()
        one = Child("worker", [sys.executable, "-u", "-c", code], os.environ, clock)
        made.append(one)
        return one, clock

    yield make
    for one in made:
        one.end(0.1)


def until(happened, patience=20.0):
    end = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_is_started_and_started_again_after_a_wait_that_grows_while_it_keeps_dying(child, log):
    one, clock = child("raise SystemExit(3)")
    waits = []
    for _ in range(4):
        one.mind()
        until(lambda: not one.alive)
        died = clock.now
        one.mind()
        assert one.process is None
        while one.process is None:
            clock.now += 0.5
            one.mind()
        waits.append(clock.now - died)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert one.restarts == 4
    assert [line["code"] for line in log() if line["event"] == "died"] == [3] * 4


def test_one_that_was_well_for_long_is_started_again_at_once():
    backoff = Backoff()
    assert [backoff.failed() for _ in range(8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST, LONGEST]
    backoff.well()
    assert backoff.failed() == 1.0


def test_its_failures_are_forgotten_once_it_runs_steadily(child):
    one, clock = child("import time; time.sleep(60)")
    one.backoff.failed()
    one.mind()
    clock.now += STEADY + 1
    one.mind()
    assert one.backoff.wait == 0.0
    assert one.restarts == 0


def test_what_it_says_is_logged_but_for_calls_that_went_well_and_who_took_part(child, log):
    lines = [
        "\\x1b[92mINFO \\x1b[0m:      Starting",
        '2026-11-29 INFO [uvicorn.access] 127.0.0.1 - "POST /v1/fleet/pull-messages HTTP/1.1" 200',
        '2026-11-29 INFO [uvicorn.access] 127.0.0.1 - "POST /v1/fleet/pull-messages HTTP/1.1" 401',
        "INFO :      [Fleet.PushMessages] Push replies from node_id=7",
        "ERROR :     broken",
    ]
    one, _ = child(f"print('''{chr(10).join(lines)}''')")
    one.mind()
    until(lambda: len([line for line in log() if line["event"] == "said"]) == 3)
    said = [(line["level"], line["text"][:12]) for line in log() if line["event"] == "said"]
    assert said == [("info", "INFO :      "), ("info", "2026-11-29 I"), ("error", "ERROR :     ")]
    assert not any("node_id" in line.get("text", "") for line in log())


def test_one_that_does_not_end_when_told_is_killed(child, log):
    one, _ = child("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)")
    one.mind()
    until(lambda: any(line.get("text") == "deaf" for line in log()))
    one.end(0.2)
    assert log()[-1] == {**log()[-1], "event": "ended", "code": -signal.SIGKILL}
    assert not one.alive


def test_what_it_started_ends_with_it(child, log):
    started = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    code = f"import subprocess as s, sys, time; print(s.Popen([sys.executable, '-c', {started!r}]).pid); time.sleep(60)"
    one, _ = child(code)
    one.mind()
    until(lambda: any(line["event"] == "said" for line in log()))
    pid = int(next(line["text"] for line in log() if line["event"] == "said"))
    one.end(0.3)
    until(lambda: not running(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_it_does_not_outlive_who_looks_after_it(tmp_path):
    """Killed -9, the supervisor cannot end anything; a SuperLink that stayed would keep the port."""
    code = (
        "import os, sys, time; from server.children import Child;"
        "one = Child('worker', [sys.executable, '-c', 'import time; time.sleep(60)'], os.environ, time.monotonic);"
        "one.mind(); print(one.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not running(pid))


def running(pid):
    """Whether a process is there and no zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
