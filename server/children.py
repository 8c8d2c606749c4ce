"""Processes that are looked after: started, started again when they die, ended in order; what they print is logged."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final

from server.logs import event

SHORTEST: Final = 1.0  # seconds before the first new start
LONGEST: Final = 60.0
STEADY: Final = 60.0  # seconds alive after which a process is thought well again
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
# Calls that went well; which node sent or fetched something, for who takes part is not for a log; and objects of
# messages that their devices have already (server/flower_grid.py).
_NOISE: Final = re.compile(
    r"\[uvicorn\.access\].*\" 2\d\d$|^INFO\s*:\s*$|\[Fleet\.\w*Messages?\]|ListRuns|was not pre-registered"
)
_LEVELS: Final = {"ERROR": logging.ERROR, "WARNING": logging.WARNING, "CRITICAL": logging.CRITICAL}
_PR_SET_PDEATHSIG: Final = 1
_PRCTL: Final = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None


@dataclass
class Backoff:
    """How long to wait before the next try; not frozen, it counts."""

    wait: float = 0.0

    def failed(self) -> float:
        """One more failure: seconds to wait now."""
        self.wait = min(LONGEST, max(SHORTEST, 2 * self.wait))
        return self.wait

    def well(self) -> None:
        """Forget the failures."""
        self.wait = 0.0


class Child:
    """One process that is to be alive.

    Attributes:
        name: what logs and metrics call it.
        restarts: how often it was started again.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], clock: Callable[[], float]) -> None:
        self.name, self.command, self.env, self.clock = name, list(command), dict(env), clock
        self.restarts = 0
        self.backoff = Backoff()
        self.process: subprocess.Popen[bytes] | None = None
        self.began = self.due = clock()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def mind(self) -> None:
        """Start it if it is not there and its wait is over; to be called again and again."""
        now = self.clock()
        if self.alive:
            if now - self.began > STEADY:
                self.backoff.well()
            return
        if self.process is not None:
            wait = self.backoff.failed()
            event("died", level=logging.ERROR, child=self.name, code=self.process.returncode, again_in=wait)
            self.process, self.due = None, now + wait
            self.restarts += 1
        if now >= self.due:
            self.start()

    def start(self) -> None:
        """Start it; it ends when this process does, however that ends."""
        self.process = subprocess.Popen(  # noqa: S603 - the supervisor's own commands
            self.command,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C for the supervisor is not one for its children: they end in order
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, looked up before any thread began
        )
        self.began = self.clock()
        event("started", child=self.name, pid=self.process.pid)
        if self.process.stdout is not None:
            threading.Thread(target=copy_lines, args=(self.process.stdout, self.name), daemon=True).start()

    def end(self, patience: float) -> None:
        """End it and what it started, by force after ``patience`` seconds."""
        if self.process is None:
            return
        until = time.monotonic() + patience
        _signal(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        # What it started may have something left to say before it goes.
        while _signal(self.process.pid, 0) and time.monotonic() < until:
            self.process.poll()
            time.sleep(0.05)
        _signal(self.process.pid, signal.SIGKILL)
        self.process.wait()
        event("ended", child=self.name, code=self.process.returncode)
        self.process = None


def _signal(group: int, number: int) -> bool:
    """Signal a child and all that it started, which are a group of their own; whether anybody was there."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def copy_lines(stream: IO[bytes], name: str) -> None:
    """Log each line that a process prints, until it ends; calls that went well are left out."""
    with stream:
        for raw in stream:
            line = _COLOURS.sub("", raw.decode(errors="replace")).strip()
            if line and not _NOISE.search(line):
                level = next((value for word, value in _LEVELS.items() if word in line[:60]), logging.INFO)
                event("said", level=level, child=name, text=line[:1000])


def _end_with_parent() -> None:
    """In a new child: ask Linux for a SIGTERM when the parent dies, so that no process is left on a port."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)
