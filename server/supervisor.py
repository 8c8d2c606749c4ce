"""``fedrecall-server up``: everything that a house runs, looked after until somebody says stop.

SuperLink and superexec are processes, started again when they die, or when the SuperLink does not answer; the operator
API is a thread; the run loop is a ServerApp, which is handed in to Flower again whenever nobody holds its lock: Flower
itself notices a ServerApp that was killed only a minute later, and does not start it again.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Final

import uvicorn

from server import enrolling, superlink
from server.children import STEADY, Backoff, Child
from server.control import lock_of, pipe_of, read_standing, stopping_of
from server.house import House, ServiceSection
from server.logs import event, logging_to, relaying
from server.metrics import Vitals
from server.operator_api import make_operator_api, make_operator_server
from server.promise import check_promised
from server.resuming import alone, held
from server.shim import write_app
from shared.errors import FedrecallError

TICK: Final = 0.5  # seconds
LOOK: Final = 5.0  # between two looks at whether the SuperLink answers
SETTLE: Final = 10.0  # between two looks at who is enrolled
STARTING: Final = 60.0  # that a process has to begin to answer
LAST_ROUND: Final = 20.0  # that a round has to end when somebody says stop
"""A round that takes longer is cut; it is paid for, and asked for once more. ``fedrecall-server pause`` avoids it."""


def up(house: House, stream: IO[str] = sys.stderr) -> int:
    """Run a house until SIGTERM or SIGINT; a second one does not wait for anything.

    Args:
        house: the server's.
        stream: gets the log, a JSON object a line.

    Returns:
        The exit code: 0 after a clean stop.

    Raises:
        FedrecallError: the house cannot be opened; another process has it, or its promise is not the one signed off.
        OSError: the disk refuses.
    """
    service = check_promised(house).service
    house.control.mkdir(parents=True, exist_ok=True)
    house.database.parent.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    with (
        alone(house.lock, f"{house.folder}: is up already"),
        logging_to(logging.StreamHandler(stream), "supervisor"),
        relaying(pipe_of(house)),
    ):
        stopping_of(house).unlink(missing_ok=True)
        superlink.write_connection(house, service)
        write_app(house)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        supervisor = Supervisor(house, service)
        event("up", folder=str(house.folder))
        try:
            while not stop.wait(TICK):
                supervisor.tick()
        finally:
            stop.clear()
            supervisor.close(stop)
            event("down")
    return 0


@dataclass
class Supervisor:
    """What is looked after. Not frozen: it owns processes and a thread.

    Attributes:
        house, service: the server's, and where it listens.
        clock: seconds that never go back.
    """

    house: House
    service: ServiceSection
    clock: Callable[[], float] = time.monotonic
    answering: bool = False
    looked: float = -LOOK
    settled: float = -SETTLE
    silent: float = 0.0  # since when the SuperLink does not answer; 0 = it does
    operators: uvicorn.Server | None = None
    settling: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        env = superlink.environment(self.house)
        self.superlink = Child("superlink", superlink.superlink_command(self.house, self.service), env, self.clock)
        self.superexec = Child("superexec", superlink.superexec_command(self.house, self.service), env, self.clock)
        self.serving = Serving(self.house, self.clock)
        self.thread: threading.Thread | None = None

    def tick(self) -> None:
        """Look after everything once."""
        self.superlink.mind()
        self._listen()
        self._mind_operators()
        if not self.answering:
            return
        self.superexec.mind()
        if self.clock() - self.settled > SETTLE:
            self.settled = self.clock()
            self._try("settle", self.settle)
        if self.superexec.alive:
            self._try("serving", self.serving.mind)

    def settle(self) -> int:
        """Make the SuperLink know who is enrolled; the operator API calls it too.

        Raises:
            FedrecallError: the SuperLink does not answer, or a file is broken.
        """
        with self.settling:
            return enrolling.settle(
                self.house,
                lambda key: superlink.register(self.house, key),
                lambda node: superlink.unregister(self.house, node),
            )

    def vitals(self) -> Vitals:
        """For the operator API."""
        standing = read_standing(self.house)
        alive = {"superlink": self.answering, "superexec": self.superexec.alive, "serving": self.serving.there}
        restarts = {child.name: child.restarts for child in (self.superlink, self.superexec)}
        restarts["serving"] = max(0, self.serving.submitted - 1)
        waiting = standing.waiting if self.serving.there else "the run loop is starting"
        return Vitals(alive, restarts, standing.online, standing.run, waiting)

    def close(self, hurry: threading.Event) -> None:
        """End everything in order; once ``hurry`` is set, without waiting for a round to end."""
        stopping_of(self.house).touch()
        until = self.clock() + LAST_ROUND
        while held(lock_of(self.house)) and self.clock() < until and not hurry.wait(0.1):
            pass
        self.superexec.end(5.0)
        self.superlink.end(5.0)
        if self.operators is not None and self.thread is not None:
            self.operators.should_exit = True
            self.thread.join(6.0)
        stopping_of(self.house).unlink(missing_ok=True)

    def _listen(self) -> None:
        """Whether the SuperLink answers; one that is there and does not for long is ended, and so started again."""
        now = self.clock()
        if not self.superlink.alive:
            self.answering, self.silent = False, 0.0
            return
        if now - self.looked < (LOOK if self.answering else TICK):
            return
        self.looked = now
        why = superlink.silence(self.house, self.service)
        self.answering = not why
        if why and not self.silent:
            event("no answer yet", child="superlink", why=why)
        self.silent = (self.silent or now) if why else 0.0
        # A certificate that has expired is for a person to renew; no new start would help.
        if self.silent and now - self.silent > STARTING and "certificate" not in why:
            event("no answer", level=logging.ERROR, child="superlink", why=why)
            if self.superlink.process is not None:
                self.superlink.process.kill()
            self.silent = 0.0

    def _mind_operators(self) -> None:
        if self.thread is not None and self.thread.is_alive():
            return
        if self.thread is not None:
            event("died", level=logging.ERROR, child="operator API")
        api = make_operator_api(self.house, self.vitals, self.settle)
        self.operators = make_operator_server(api, self.house)
        self.thread = threading.Thread(target=_quietly, args=(self.operators,), daemon=True)
        self.thread.start()

    def _try(self, what: str, action: Callable[[], object]) -> None:
        """Do something that may fail now and is tried again later."""
        try:
            action()
        except (FedrecallError, OSError) as error:
            event("failed", level=logging.WARNING, what=what, why=str(error))


@dataclass
class Serving:
    """The run loop, seen from outside: it is there while its lock is held. Not frozen: it counts.

    Attributes:
        house: the server's.
        clock: seconds that never go back.
        there: whether it was there at the last look.
        submitted: how often it was handed in.
    """

    house: House
    clock: Callable[[], float]
    there: bool = False
    submitted: int = 0
    since: float = 0.0  # when it was seen first, or handed in
    due: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)

    def mind(self) -> None:
        """Hand it in if it is not there; to be called again and again.

        Raises:
            FedrecallError: Flower did not take it.
        """
        now, there = self.clock(), held(lock_of(self.house))
        if there:
            if not self.there:
                self.there, self.since = True, now
            if now - self.since > STEADY:
                self.backoff.well()
            return
        if self.there:
            self.there, self.due = False, now + self.backoff.failed()
            event("died", level=logging.ERROR, child="serving", again_in=self.due - now)
        if now < self.due:
            return
        self.due = now + self.backoff.failed()  # if Flower does not take it
        for run in superlink.unfinished(self.house):
            superlink.stop(self.house, run)
        run = superlink.submit(self.house)
        self.submitted += 1
        self.due = self.clock() + STARTING  # if it does not come up by then
        event("handed in", child="serving", flower_run=run)


def _quietly(server: uvicorn.Server) -> None:
    """Run a server in a thread; one that cannot bind its port says so and is started again."""
    with contextlib.suppress(SystemExit):
        server.run()
